"""Sequences of operations on a repository, for tests of whatever stands on one: the same sequence for two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from hypothesis import strategies as st
from pydantic import BaseModel

from kvorm.entry import ANY, Key
from kvorm.model import Mapping, compile_model
from kvorm.repository import Repository
from kvorm.testing.strategies import keys, models

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Save(Generic[M]):
    """Save a new object: its key must be absent, or with `overwrite` whatever is there is replaced."""

    value: M
    overwrite: bool = False

    async def on(self, repository: Repository[M]) -> int:
        """Do it; raises as `save`. The object itself stays without a revision, for the next repository."""
        value = self.value.model_copy()
        return await (repository.save(value, expect=ANY) if self.overwrite else repository.save(value))


@dataclass(frozen=True)
class Change(Generic[M]):
    """Replace what is stored under the key of an object, if anything is, by that object."""

    value: M
    key: Key

    async def on(self, repository: Repository[M]) -> M:
        """Do it; raises as `update`."""
        return await repository.update(*self.key, apply=lambda _: self.value.model_copy())


@dataclass(frozen=True)
class OnKey(Generic[M]):
    """Call a method that takes a key and no more."""

    method: Literal["get_or_none", "exists", "delete", "purge"]
    key: Key

    async def on(self, repository: Repository[M]) -> Any:
        """Do it; raises as that method."""
        return await getattr(repository, self.method)(*self.key)


Operation: TypeAlias = Save[M] | Change[M] | OnKey[M]


def operations(
    model: type[M],
    /,
    *,
    mapping: Mapping | None = None,
    most_keys: int = 3,
    most: int = 20,
    **overrides: st.SearchStrategy[Any],
) -> st.SearchStrategy[list[Operation[M]]]:
    """Return a strategy for sequences of operations on a few keys, so that much happens to each.

        for operation in drawn:
            outcome = await operation.on(repository)

    Args:
        model, mapping, overrides: as of `models`.
        most_keys: how many keys there are at most.
        most: how many operations at most.

    Raises:
        ModelError, TypeError, NothingValidError: as `models`.
    """
    compiled = compile_model(model, mapping)
    names = [field.name for field in compiled.shape.fields]
    for_keys = {name: overrides[name] for name in names if name in overrides}

    def of(some: list[Key]) -> st.SearchStrategy[list[Operation[M]]]:
        return st.lists(st.one_of([on_key(key) for key in some]), max_size=most)

    def on_key(key: Key) -> st.SearchStrategy[Operation[M]]:
        fixed = {name: st.just(value) for name, value in zip(names, key, strict=True)}
        values = models(model, mapping=mapping, **(overrides | fixed))
        method: st.SearchStrategy[Any] = st.sampled_from(["get_or_none", "exists", "delete", "purge"])
        return st.one_of(
            st.builds(Save[M], values, st.booleans()),
            st.builds(Change[M], values, st.just(key)),
            st.builds(OnKey[M], method, st.just(key)),
        )

    return st.lists(keys(model, mapping=mapping, **for_keys), min_size=1, max_size=most_keys, unique=True).flatmap(of)
