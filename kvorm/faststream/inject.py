"""Repo, Injected and ViewOf: what the parameters of handlers, hooks and routes are annotated with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fast_depends.library import CustomField
from faststream.context import ContextRepo
from faststream.exceptions import SetupError
from pydantic import BaseModel

from kvorm.faststream.http import http_dependency
from kvorm.faststream.installed import find
from kvorm.faststream.target import Target, checked_model, checked_repository
from kvorm.repository import Repository
from kvorm.view import View

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=Repository[Any])


class Injection(CustomField):
    """Tells FastDepends to ask the KV of the running broker for a repository.

    FastDepends copies it for each parameter, so it holds a class and no store; and it runs what is not async in a
    thread for each message, so `use` is async.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(cast=False)
        self.target = target

    async def use(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, /, **kwargs: Any
    ) -> dict[str, Any]:
        """Add the parameter to the arguments of a call.

        Raises:
            SetupError: no KV is installed, or it does not know the model.
            StoreUnavailableError: the broker is not connected.
        """
        context = kwargs.get("context__")
        if not isinstance(context, ContextRepo):
            raise SetupError(f"KV: {self.param_name} can be injected by FastStream only; call kv.repository() here")
        assert self.param_name is not None
        kwargs[self.param_name] = await self.provided(context)
        return kwargs

    async def provided(self, context: ContextRepo) -> Any:
        """Return what the parameter becomes."""
        return find(context, self.target).repository(self.target)


class ViewInjection(Injection):
    """As `Injection`, for a live view."""

    async def provided(self, context: ContextRepo) -> Any:
        """Return the view, caught up."""
        return await find(context, self.target).view(self.target)


if TYPE_CHECKING:
    Repo = Annotated[Repository[M], "injected"]
    Injected = Annotated[R, "injected"]
    ViewOf = Annotated[View[M], "injected"]
else:

    class Repo:
        """`orders: Repo[Order]` is the Repository[Order] of the running broker."""

        def __class_getitem__(cls, model: object) -> Any:
            """Return the annotation for a model, which FastStream and FastAPI both understand."""
            target = checked_model(model, "Repo")
            return _annotated(Repository[target], Injection(target))

    class Injected:
        """`orders: Injected[OrderRepo]` is an instance of a repository class of one's own."""

        def __class_getitem__(cls, repository: object) -> Any:
            """Return the annotation for a repository class."""
            target = checked_repository(repository, "Injected")
            return _annotated(target, Injection(target))

    class ViewOf:
        """`orders: ViewOf[Order]` is a live view of all orders, caught up; one for the app, opened at first use."""

        def __class_getitem__(cls, model: object) -> Any:
            """Return the annotation for a model."""
            target = checked_model(model, "ViewOf")
            return _annotated(View[target], ViewInjection(target))

    def _annotated(kind: Any, injection: Injection) -> Any:
        return Annotated[(kind, injection, *http_dependency(injection.provided))]
