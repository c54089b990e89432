"""FastStream: repositories in handlers, typed change handlers, tests without a server."""

try:
    import faststream.nats as _needed  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as error:
    raise ImportError("kvorm.faststream needs FastStream for NATS: pip install 'kvorm[faststream]'") from error

from kvorm.faststream.change import Change
from kvorm.faststream.inject import Injected, Repo, ViewOf
from kvorm.faststream.kv import KV
from kvorm.faststream.subscribe import changes

__all__ = ["KV", "Change", "Injected", "Repo", "ViewOf", "changes"]
