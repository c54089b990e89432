"""Parameters that look as if KV provided them, and that FastStream would look for in the message."""

from __future__ import annotations

import inspect
from typing import Any, get_origin

from fast_depends.utils import get_typed_signature
from faststream.exceptions import SetupError
from faststream.nats import NatsBroker

from kvorm.faststream.inject import Injection
from kvorm.repository import Repository


def refuse_bare_repositories(broker: NatsBroker) -> None:
    """Look through the handlers of a broker.

    Raises:
        SetupError: one asks for a repository in a way that nobody answers.
    """
    for subscriber in broker.subscribers:
        for call in subscriber.calls:
            # The function as the user wrote it; FastStream has no other way to it.
            _check(inspect.unwrap(call.handler._original_call))  # pyright: ignore[reportPrivateUsage]


def _check(handler: Any) -> None:
    signature, _ = get_typed_signature(handler)
    for name, parameter in signature.parameters.items():
        asked = parameter.annotation
        if any(isinstance(mark, Injection) for mark in getattr(_behind(asked), "__metadata__", ())):
            raise SetupError(
                f"{handler.__name__}({name}: {asked}): FastStream does not look behind the name of a type alias, and "
                f"KV is not asked; write `{asked} = Repo[...]` instead of `type {asked} = Repo[...]`"
            )
        asked = get_origin(asked) or asked
        if isinstance(asked, type) and issubclass(asked, Repository):
            right = "Repo[...]" if asked is Repository else f"Injected[{asked.__name__}]"
            raise SetupError(
                f"{handler.__name__}({name}: {parameter.annotation}): a repository does not come in a message; write "
                f"`{name}: {right}`, from kvorm.faststream, and KV provides it"
            )


def _behind(annotation: Any) -> Any:
    """Return what a type alias stands for; nothing for what is none."""
    return getattr(annotation, "__value__", None)
