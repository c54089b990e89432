"""What a view holds: objects by raw key, the errors of those that do not decode, and look-ups by a field."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from pydantic import BaseModel

from kvorm.errors import DecodeError

M = TypeVar("M", bound=BaseModel)


class Contents(Generic[M]):
    """The state of one life of a bucket. What lies in here is nobody else's, unless it is immutable.

    Attributes:
        values: the objects.
        invalid: why the others are none.
    """

    def __init__(self) -> None:
        self.values: dict[str, M] = {}
        self.invalid: dict[str, DecodeError] = {}
        self._indexes: dict[str, Index] = {}

    def held(self, raw_key: str) -> M | DecodeError | None:
        """Return what is held under a raw key; the same object as long as nothing else was put there."""
        value = self.values.get(raw_key)
        return value if value is not None else self.invalid.get(raw_key)

    def besides(self, raw_keys: Iterable[str]) -> dict[str, M | DecodeError]:
        """Return all that is held but what is under these raw keys."""
        known = set(raw_keys)
        everything: dict[str, M | DecodeError] = {**self.values, **self.invalid}
        return {raw_key: held for raw_key, held in everything.items() if raw_key not in known}

    def put(self, raw_key: str, held: M | DecodeError | None) -> None:
        """Hold something in place of what is there; None for nothing."""
        old = self.values.pop(raw_key, None)
        self.invalid.pop(raw_key, None)
        if isinstance(held, DecodeError):
            self.invalid[raw_key] = held
        elif held is not None:
            self.values[raw_key] = held
        for index in self._indexes.values():
            if old is not None:
                index.remove(raw_key, old)
            if isinstance(held, BaseModel):
                index.add(raw_key, held)

    def index(self, field: str) -> Index:
        """Return the look-up of a field; made when it is first asked for, kept up to date from then on."""
        index = self._indexes.get(field)
        if index is None:
            index = self._indexes[field] = Index(field)
            for raw_key, value in self.values.items():
                index.add(raw_key, value)
        return index


class Index:
    """Raw keys by the value of one field."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._raw_keys: defaultdict[object, dict[str, None]] = defaultdict(dict)
        self._unhashable: dict[str, object] = {}

    def add(self, raw_key: str, holder: BaseModel) -> None:
        """Take up an object."""
        value = getattr(holder, self._field)
        try:
            self._raw_keys[value][raw_key] = None
        except TypeError:
            self._unhashable[raw_key] = value

    def remove(self, raw_key: str, holder: BaseModel) -> None:
        """Forget an object that was taken up."""
        if raw_key in self._unhashable:
            del self._unhashable[raw_key]
            return
        value = getattr(holder, self._field)
        raw_keys = self._raw_keys[value]
        del raw_keys[raw_key]
        if not raw_keys:
            del self._raw_keys[value]

    def by_value(self) -> Mapping[object, Iterable[str]]:
        """Return the raw keys under each value.

        Raises:
            TypeError: one of the values cannot be looked up.
        """
        for raw_key, value in self._unhashable.items():
            raise TypeError(
                f"by({self._field!r}): {raw_key} has a {type(value).__name__} there, which cannot be looked up: it is "
                f"not hashable. Look up a field of str, int, Enum and the like, or use where()"
            )
        return self._raw_keys


class LookUp(Generic[M]):
    """The objects of a view by the value of one field: `view.by("status")["paid"]`. Kept up to date.

    Each read raises what the view's own reads raise, and TypeError while an entry has an unhashable value there.
    """

    def __init__(self, field: str, contents: Callable[[], Contents[M]], copy: Callable[[M], M]) -> None:
        self._field = field
        self._contents = contents
        self._copy = copy

    def __getitem__(self, value: object) -> list[M]:
        """Return the objects that have this value there; none is an empty list."""
        values = self._contents().values
        return [self._copy(values[raw_key]) for raw_key in self._by_value().get(value, ())]

    def __contains__(self, value: object) -> bool:
        return value in self._by_value()

    def __iter__(self) -> Iterator[object]:
        """Iterate over the values that the field has."""
        return iter(list(self._by_value()))

    def __len__(self) -> int:
        return len(self._by_value())

    def _by_value(self) -> Mapping[object, Iterable[str]]:
        return self._contents().index(self._field).by_value()
