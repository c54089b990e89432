"""What a bucket is declared to be, and how that differs from one that exists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Final, Literal, TypeAlias

from kvorm.errors import Difference, ModelError

Storage: TypeAlias = Literal["file", "memory"]

MAX_HISTORY: Final = 64
LAYOUT_KEY: Final = "kvorm.layout"
LAYOUT: Final = 1
"""The layout that this version writes; buckets say theirs in their metadata."""
RESERVED_METADATA: Final = ("_nats", "kvorm.")
"""How the names of metadata begin that are the server's and ours."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_MIN_TTL = timedelta(milliseconds=100)
_MIN_MARKER_TTL = timedelta(seconds=1)
_DEFAULT_MARKER_TTL = timedelta(minutes=1)
_MAX_REPLICAS = 5


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the server shall keep a bucket's replicas: a cluster's name, server tags, or both."""

    cluster: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What a bucket is declared to be. Creating it needs nothing else.

    Where a setting says "None: as it is", an existing bucket may have any value.

    Attributes:
        name: letters, digits, '-' and '_'; the stream on the server is `KV_<name>`.
        history: revisions kept per key, 1 to 64.
        ttl: lifetime of each entry, at least 100 ms; None: entries live until they are deleted.
        replicas: 1 to 5 copies on a cluster. None: as it is; a cluster then refuses to create the bucket.
        storage: "file", or "memory", which a restart of the server empties.
        max_value_bytes: the largest value. None: as it is, or what the server takes.
        max_bytes: the size of the whole bucket; writes beyond it are refused. None: as it is, or unlimited.
        compression: S2 compression on disk. None: as it is, or none.
        marker_ttl: how long the marker of an expired entry is kept, at least 1 s. None: as it is; a bucket created
            with a `ttl` keeps markers for one minute, or for the `ttl` if that is shorter (but not below 1 s).
        placement: None: as it is, or the server's choice.
        description: for people. None: as it is.
        metadata: names and values that the bucket must carry; others may be there too.

    Raises:
        ModelError: a setting is out of its range.
    """

    name: str = field(kw_only=False)
    history: int = 1
    ttl: timedelta | None = None
    replicas: int | None = None
    storage: Storage = "file"
    max_value_bytes: int | None = None
    max_bytes: int | None = None
    compression: bool | None = None
    marker_ttl: timedelta | None = None
    placement: Placement | None = None
    description: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise ModelError(f"bucket name {self.name!r}: use letters, digits, '-' and '_' only")
        self._check("history", self.history, 1, MAX_HISTORY)
        self._check("replicas", self.replicas, 1, _MAX_REPLICAS)
        self._check("max_value_bytes", self.max_value_bytes, 1, 2**31 - 1 - 256)
        self._check("max_bytes", self.max_bytes, 1, 2**63 - 1)
        self._check_lifetime("ttl", self.ttl, _MIN_TTL)
        self._check_lifetime("marker_ttl", self.marker_ttl, _MIN_MARKER_TTL)
        if self.marker_ttl is not None and self.marker_ttl.microseconds:
            raise ModelError(f"bucket {self.name!r}: marker_ttl={self.marker_ttl} must be whole seconds")
        if self.storage not in ("file", "memory"):
            raise ModelError(f"bucket {self.name!r}: storage={self.storage!r} must be 'file' or 'memory'")
        if any(name.startswith(RESERVED_METADATA) for name in self.metadata):
            raise ModelError(f"bucket {self.name!r}: metadata names that begin with '_nats' or 'kvorm.' are reserved")

    def _check(self, setting: str, value: object, least: int, most: int) -> None:
        if value is None and setting != "history":
            return
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ModelError(f"bucket {self.name!r}: {setting}={value!r} must be an int from {least} to {most}")

    def _check_lifetime(self, setting: str, value: object, least: timedelta) -> None:
        if value is not None and (not isinstance(value, timedelta) or value < least):
            raise ModelError(
                f"bucket {self.name!r}: {setting}={value!r} must be a timedelta of at least {least.total_seconds():g} s"
            )

    def renamed(self, name: str) -> Bucket:
        """Return the same declaration under another name."""
        return replace(self, name=name)

    def created_marker_ttl(self) -> timedelta | None:
        """Return how long a bucket made from this declaration keeps expiry markers."""
        if self.marker_ttl is not None or self.ttl is None:
            return self.marker_ttl
        return max(_MIN_MARKER_TTL, timedelta(seconds=min(self.ttl, _DEFAULT_MARKER_TTL) // timedelta(seconds=1)))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


_COMPARED: Final = tuple(f.name for f in fields(Bucket) if f.name not in ("name", "ttl", "metadata"))


def differences(declared: Bucket, actual: Bucket) -> dict[str, Difference]:
    """Return every setting of an existing bucket that its declaration does not accept."""
    found: dict[str, Difference] = {}
    if declared.ttl != actual.ttl:
        found["ttl"] = Difference(declared.ttl, actual.ttl)
    for setting in _COMPARED:
        wanted, real = getattr(declared, setting), getattr(actual, setting)
        if wanted is not None and wanted != real:
            found[setting] = Difference(wanted, real)
    for name, wanted in declared.metadata.items():
        if actual.metadata.get(name) != wanted:
            found[f"metadata[{name!r}]"] = Difference(wanted, actual.metadata.get(name))
    return found
