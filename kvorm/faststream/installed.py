"""Where a handler, a hook or a route finds the KV that it is meant for: in FastStream's context."""

from __future__ import annotations

from typing import Any, Final, Protocol, cast

from faststream.context import ContextRepo
from faststream.exceptions import SetupError
from faststream.nats import NatsBroker

from kvorm.faststream.target import Target, model_behind
from kvorm.repository import Repository
from kvorm.store import Store

_NAME: Final = "kvorm"
"""Under this name a context holds the KVs that are installed there, as a tuple."""


class Provider(Protocol):
    """A KV, as those see it who ask it for something."""

    @property
    def broker(self) -> NatsBroker:
        """Whose store this is."""
        ...

    @property
    def store(self) -> Store:
        """The store in use now."""
        ...

    def knows(self, target: Target) -> bool:
        """Whether the model is one of its `models`."""
        ...

    def repository(self, target: Any, /) -> Repository[Any]:
        """Return the repository of a model, or an instance of a repository class, for the store in use now."""
        ...

    async def view(self, target: Any, /) -> Any:
        """Return the live view of a model, caught up."""
        ...


def install(context: ContextRepo, provider: Provider) -> None:
    """Let a context know a KV. Idempotent."""
    installed = _installed(context)
    if provider not in installed:
        context.set_global(_NAME, (*installed, provider))


def find(context: ContextRepo, target: Target, broker: object = None) -> Provider:
    """Return the KV that a handler or a hook is meant to use for a model.

    Args:
        context: where it was asked.
        target: the model, or a repository class.
        broker: the one that the handler belongs to; while a message is handled the context knows it.

    Raises:
        SetupError: none is installed, or none knows the model, or it is not clear which one.
    """
    # Handlers belong to a broker; the hooks of an app, and HTTP routes, see the KVs of all its brokers.
    broker = broker or context.get("broker")
    candidates = [each for each in _installed(context) if broker is None or each.broker is broker]
    knowing = [each for each in candidates if each.knows(target)]
    if len(knowing) == 1:
        return knowing[0]
    name = model_behind(target).__name__
    if not candidates:
        raise SetupError(
            f"no KV is installed for this broker: write `kv = KV(broker, models=[{name}]).install(app)` where the app "
            f"is made"
        )
    if not knowing:
        raise unknown(target)
    raise SetupError(
        f"more than one KV knows {name}, and this hook or route belongs to no broker: call kv.repository({name}) of "
        f"the one that is meant"
    )


def unknown(target: Target) -> SetupError:
    """Return the error for a model that a KV was not told of."""
    name = model_behind(target).__name__
    return SetupError(f"KV does not know {name}: add it, KV(broker, models=[..., {name}])")


def _installed(context: ContextRepo) -> tuple[Provider, ...]:
    return cast("tuple[Provider, ...]", context.get(_NAME, ()))
