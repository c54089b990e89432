"""The same annotations in FastAPI: HTTP routes, and handlers of FastStream's router for FastAPI."""

# No `from __future__ import annotations`: FastAPI reads the annotations of a function that is made in a function.
from collections.abc import Awaitable, Callable
from typing import Any

from faststream.context import ContextRepo


def http_dependency(provided: Callable[[ContextRepo], Awaitable[Any]]) -> tuple[Any, ...]:
    """Return what FastAPI wants to find in an `Annotated`; nothing where it is not installed."""
    try:
        from fastapi.params import Depends
        from starlette.requests import HTTPConnection
    except ImportError:
        return ()

    async def dependency(connection: HTTPConnection) -> Any:
        # FastStream's router makes a request of each message, with its context among the headers.
        context: object = connection.headers.get("context__")
        return await provided(context if isinstance(context, ContextRepo) else app_context(connection.app))

    return (Depends(dependency),)


def app_context(app: Any) -> ContextRepo:
    """Return the context in which the KVs of a FastAPI app are installed."""
    if not hasattr(app.state, "kvorm"):
        app.state.kvorm = ContextRepo()
    context: ContextRepo = app.state.kvorm
    return context
