"""How a store is: what `await store.health()` tells, for health checks and dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketHealth:
    """One bucket that the store has opened.

    Attributes:
        exists: False if it is missing.
        replicas: how many copies it is to have.
        leader: the server that leads it; None while there is none.
        lag: by how many changes the slowest copy is behind the leader.
        storage: "file" or "memory".
        size_bytes: what it takes.
        warnings: what is not as it should be, in words.
    """

    exists: bool = True
    replicas: int = 1
    leader: str | None = None
    lag: int = 0
    storage: str = "file"
    size_bytes: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A store as a whole.

    Attributes:
        reachable: whether a server answers.
        round_trip: how long that took; None where none answers.
        jetstream: whether JetStream answers.
        server: name and version of what answers.
        buckets: full name -> how it is, for each bucket the store has opened.
        warnings: what is not as it should be, those of the buckets included.
    """

    reachable: bool
    round_trip: timedelta | None = None
    jetstream: bool = False
    server: str = ""
    buckets: Mapping[str, BucketHealth] = field(default_factory=dict[str, BucketHealth])
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the store can do its work: reachable, with JetStream, and every bucket has a leader."""
        return self.reachable and self.jetstream and all(b.exists and b.leader for b in self.buckets.values())
