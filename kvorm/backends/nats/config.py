"""A bucket's declaration as a stream's configuration, and back. Source: ADR-8."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, Literal

from kvorm.backends.message import HEADER_ROOM
from kvorm.bucket import LAYOUT, LAYOUT_KEY, RESERVED_METADATA, Bucket, Placement
from kvorm.errors import ModelError, UnsupportedError

DUPLICATE_WINDOW: Final = timedelta(seconds=30)
"""How long the server remembers operation ids: three timeouts; each costs it about 230 bytes for that time."""

_ATOMIC_SINCE: Final = (2, 12, 0)
_BATCHED_SINCE: Final = (2, 14, 0)


def stream_name(bucket: str) -> str:
    """Return the stream that holds a bucket."""
    return f"KV_{bucket}"


def to_stream(bucket: Bucket, server_version: tuple[int, int, int]) -> dict[str, Any]:
    """Return the configuration of a new bucket: a plain ADR-8 bucket that any NATS client can use."""
    config: dict[str, Any] = {
        "name": stream_name(bucket.name),
        "subjects": [f"$KV.{bucket.name}.>"],
        "retention": "limits",
        "discard": "new",
        "max_msgs": -1,
        "max_bytes": bucket.max_bytes or -1,
        "max_consumers": -1,
        "num_replicas": bucket.replicas or 1,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "deny_purge": False,
        "allow_direct": True,
        "storage": bucket.storage,
        "compression": "s2" if bucket.compression else "none",
        "metadata": {**bucket.metadata, LAYOUT_KEY: str(LAYOUT)},
        **_lifetimes(bucket.ttl, bucket.created_marker_ttl()),
        **_changed(bucket),
    }
    if server_version >= _ATOMIC_SINCE:
        config["allow_atomic"] = True
    if server_version >= _BATCHED_SINCE:
        config["allow_batched"] = True
    config.setdefault("max_msg_size", -1)
    return config


def updated(stream: Mapping[str, Any], bucket: Bucket) -> dict[str, Any]:
    """Return an existing stream's configuration with what the declaration says; the rest as it is."""
    config = {**stream, **_lifetimes(bucket.ttl, bucket.marker_ttl), **_changed(bucket)}
    config["metadata"] = {**stream.get("metadata", {}), **bucket.metadata}
    return config


def _changed(bucket: Bucket) -> dict[str, Any]:
    """Return what a declaration says beyond lifetimes and metadata."""
    config: dict[str, Any] = {"max_msgs_per_subject": bucket.history, "storage": bucket.storage}
    if bucket.max_value_bytes is not None:
        # The server counts headers into this limit.
        config["max_msg_size"] = bucket.max_value_bytes + HEADER_ROOM
    if bucket.max_bytes is not None:
        config["max_bytes"] = bucket.max_bytes
    if bucket.replicas is not None:
        config["num_replicas"] = bucket.replicas
    if bucket.compression is not None:
        config["compression"] = "s2" if bucket.compression else "none"
    if bucket.description is not None:
        config["description"] = bucket.description
    if bucket.placement is not None:
        config["placement"] = {"cluster": bucket.placement.cluster, "tags": list(bucket.placement.tags)}
    return config


def _lifetimes(ttl: timedelta | None, marker_ttl: timedelta | None) -> dict[str, Any]:
    config: dict[str, Any] = {
        "max_age": nanoseconds(ttl) if ttl else 0,
        "duplicate_window": nanoseconds(min(DUPLICATE_WINDOW, ttl) if ttl else DUPLICATE_WINDOW),
    }
    if marker_ttl is not None:
        config["subject_delete_marker_ttl"] = nanoseconds(marker_ttl)
        config["allow_msg_ttl"] = True
    return config


def from_stream(config: Mapping[str, Any]) -> Bucket:
    """Return what an existing bucket is.

    Raises:
        UnsupportedError: a newer kvorm laid it out, or it cannot hold a bucket.
    """
    name: str = config["name"].removeprefix("KV_")
    metadata: Mapping[str, str] = config.get("metadata") or {}
    _check_layout(name, metadata.get(LAYOUT_KEY))
    max_message = _limit(config.get("max_msg_size"))
    if max_message is not None and LAYOUT_KEY in metadata:
        max_message -= HEADER_ROOM
    history = config.get("max_msgs_per_subject", -1)
    if history < 1:
        raise UnsupportedError(
            f"stream {config['name']} keeps any number of messages per subject and is no Key-Value bucket; "
            f"set its max_msgs_per_subject to 1..64"
        )
    # A queue removes what was read, and lets a consumer read only what no other one does.
    retention = config.get("retention", "limits")
    if retention != "limits":
        raise UnsupportedError(
            f"stream {config['name']} has retention {retention!r} and is no Key-Value bucket, which has 'limits': "
            f"use another stream"
        )
    storage: Literal["file", "memory"] = "memory" if config.get("storage") == "memory" else "file"
    try:
        return Bucket(
            name,
            history=history,
            ttl=_duration(config.get("max_age")),
            replicas=config.get("num_replicas", 1),
            storage=storage,
            max_value_bytes=max_message,
            max_bytes=_limit(config.get("max_bytes")),
            compression=config.get("compression", "none") == "s2",
            marker_ttl=_duration(config.get("subject_delete_marker_ttl")),
            placement=_placement(config.get("placement")),
            description=config.get("description") or None,
            metadata={key: value for key, value in metadata.items() if not key.startswith(RESERVED_METADATA)},
        )
    except ModelError as error:
        raise UnsupportedError(f"stream {config['name']} cannot be a Key-Value bucket: {error}") from error


def _check_layout(name: str, layout: str | None) -> None:
    if layout is not None and layout != str(LAYOUT):
        raise UnsupportedError(
            f"bucket {name!r} has layout {layout}, this kvorm knows layout {LAYOUT}: upgrade kvorm in this service"
        )


def _placement(placement: Mapping[str, Any] | None) -> Placement | None:
    if not placement:
        return None
    return Placement(placement.get("cluster", ""), tuple(placement.get("tags") or ()))


def _limit(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def _duration(nanoseconds: int | None) -> timedelta | None:
    return timedelta(microseconds=nanoseconds / 1000) if nanoseconds else None


def nanoseconds(duration: timedelta) -> int:
    """Return a duration as JetStream takes it."""
    return duration // timedelta(microseconds=1) * 1000
