"""What can be asked for in a handler: a model, for its plain repository, or a repository class of one's own."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeGuard

from faststream.exceptions import SetupError
from pydantic import BaseModel

from kvorm.repository import Repository, model_of

Target: TypeAlias = type[BaseModel] | type[Repository[Any]]


def checked_model(asked: object, usage: str) -> type[BaseModel]:
    """Return a model class that was asked for, be it under another name.

    Raises:
        SetupError: it is none.
    """
    model = getattr(asked, "__value__", asked)
    if isinstance(model, type) and issubclass(model, BaseModel):
        return model
    raise SetupError(f"{usage}[{_name(asked)}]: KV hands out repositories of models; write {usage}[Order]")


def checked_repository(asked: object, usage: str) -> type[Repository[Any]]:
    """Return a repository class that was asked for, be it under another name.

    Raises:
        SetupError: it is none.
    """
    repository: object = getattr(asked, "__value__", asked)
    if _is_repository(repository):
        return repository
    raise SetupError(
        f"{usage}[{_name(asked)}]: KV makes repository classes of your own, class OrderRepo(Repository[Order]); for a "
        f"model write Repo[Order]"
    )


def model_behind(target: Target) -> type[BaseModel]:
    """Return the model that is stored.

    Raises:
        ModelError: a repository class does not say its model.
    """
    return model_of(target) if issubclass(target, Repository) else target


def _is_repository(asked: object) -> TypeGuard[type[Repository[Any]]]:
    return isinstance(asked, type) and issubclass(asked, Repository)


def _name(asked: object) -> str:
    return getattr(asked, "__name__", repr(asked))
