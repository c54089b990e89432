"""Which subjects a user of some buckets needs, and no others."""

from __future__ import annotations

from collections.abc import Iterator

from kvorm.backends.nats.config import stream_name
from kvorm.backends.nats.link import api_prefix, subject_root


def publishes(bucket: str, keys: str, *, write: bool, manage: bool, domain: str | None) -> Iterator[str]:
    """Yield what a repository publishes to: reads and watches, and if said writes and the making of its bucket.

    `keys` is the filter of its keys. It confines writes alone: the server has no rights to read a part of a stream.
    """
    api, stream = api_prefix(domain), stream_name(bucket)
    yield f"{api}.INFO"
    yield f"{api}.STREAM.INFO.{stream}"
    yield f"{api}.STREAM.MSG.GET.{stream}"
    yield f"{api}.DIRECT.GET.{stream}"
    yield f"{api}.DIRECT.GET.{stream}.>"
    yield f"{api}.CONSUMER.CREATE.{stream}.*"
    yield f"{api}.CONSUMER.DELETE.{stream}.*"
    # What a watch answers when its reader has taken what the server sent.
    yield f"$JS.FC.{stream}.>"
    if write:
        yield f"{subject_root(domain)}.{bucket}.{keys}"
    if manage:
        yield f"{api}.STREAM.CREATE.{stream}"
        yield f"{api}.STREAM.UPDATE.{stream}"


def subscribes(bucket: str) -> Iterator[str]:
    """Yield what a repository subscribes to beside its inbox."""
    yield f"$JS.EVENT.ADVISORY.STREAM.*.{stream_name(bucket)}"
