"""What the server says of a stream, as the health of a bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvorm.health import BucketHealth


def of_stream(name: str, info: Mapping[str, Any]) -> BucketHealth:
    """Return the health of a bucket from the answer to STREAM.INFO."""
    cluster: Mapping[str, Any] = info.get("cluster") or {}
    peers: Sequence[Mapping[str, Any]] = cluster.get("replicas") or []
    return BucketHealth(
        replicas=info["config"].get("num_replicas", 1),
        leader=None if _lost_quorum(peers) else cluster.get("leader") or None,
        lag=max((peer.get("lag", 0) for peer in peers), default=0),
        storage=info["config"].get("storage", "file"),
        size_bytes=info["state"].get("bytes", 0),
        warnings=tuple(f"bucket {name!r}: {warning}" for warning in _warnings(info["config"], cluster, peers)),
    )


def _warnings(
    config: Mapping[str, Any], cluster: Mapping[str, Any], peers: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    if not cluster.get("leader") or _lost_quorum(peers):
        yield "no leader: nothing can be written"
    for peer in peers:
        if peer.get("offline"):
            yield f"copy on {peer.get('name')} is offline"
        elif not peer.get("current", True):
            yield f"copy on {peer.get('name')} is {peer.get('lag', 0)} changes behind"
    if config.get("storage") == "memory":
        yield "on memory storage: a restart of the server empties it"
    if not config.get("allow_direct"):
        yield "direct gets are off (allow_direct): every read goes to the leader"


def _lost_quorum(peers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether most copies are gone: their leader needs up to 20 s to notice, and says until then that it leads."""
    return 2 * sum(bool(peer.get("offline")) for peer in peers) > len(peers) + 1
