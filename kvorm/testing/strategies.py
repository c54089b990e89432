"""Hypothesis strategies for models, keys and hostile texts; all that comes out can be stored and read back."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from typing import Any, Final, Generic, TypeVar, cast

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from pydantic import BaseModel, TypeAdapter, ValidationError

from kvorm.codec import Codec, CodecFailure
from kvorm.entry import Key
from kvorm.errors import InvalidKeyError
from kvorm.keys import MAX_RAW_KEY_BYTES
from kvorm.model import CompiledMapping, Mapping, Model, compile_model
from kvorm.testing.leaves import Node, Strategy
from kvorm.testing.schemas import Schemas, UnknownTypeError, is_excluded, is_optional

M = TypeVar("M", bound=BaseModel)

_PATIENCE: Final = 100
"""After so many refused in a row and none valid, something is wrong."""

_HOSTILE: Final = (
    "", "*", ">", ".", " ", "=", "_", "a.b", "a b", "*.>", "..", "$KV.a.b", "_kvorm", "=2E", "==", "\x00", "\n",
    "a\r\nb", "\x7f", "é", "\u0301", "日本", "\u202e", "\ufeff", "😀", "\uffff", "'\"\\", "null", "-0", "a" * 255,
)  # fmt: skip


class NothingValidError(InvalidArgument):
    """No valid object was found; the message says what refused them, and what to pass instead."""


class _Refused:
    """What stands for an object that was not valid; the filter leaves it out."""


_REFUSED: Final = _Refused()


def models(
    model: type[M], /, *, mapping: Mapping | None = None, **overrides: st.SearchStrategy[Any]
) -> st.SearchStrategy[M]:
    """Return a strategy for valid objects of a class: its constraints hold, its validators have run, it can be stored.

        models(Order)
        models(Order, total=st.decimals(0, 100, places=2))

    What cannot be derived from the declaration is found by trying: objects that validation refuses are left out. Where
    few are valid, pass a strategy for the field. Fields with a default are often left out; excluded ones always are.

    Args:
        model: a `Model`, or any Pydantic class; without `mapping` such a class need not have a key.
        mapping: what a plain class says about its storage.
        overrides: strategies for fields, by the names of the fields.

    Raises:
        ModelError: the class is declared wrongly.
        TypeError: there is no such field.
        NothingValidError: when drawing: a required field is of a type of which nothing is known, or none of the drawn
            objects was valid.
    """
    compiled = compile_model(model, mapping) if mapping is not None or issubclass(model, Model) else None
    codec = compiled.codec if compiled is not None else Codec(model)
    schemas = Schemas(model.__pydantic_core_schema__, _instances)
    unknown = overrides.keys() - model.model_fields.keys()
    if unknown:
        raise TypeError(
            f"{model.__name__} has no field {', '.join(sorted(unknown))}; it has {list(model.model_fields)}"
        )
    drawing = _Drawing(model, codec, compiled)
    drawn = st.deferred(lambda: _of_fields(model, schemas, compiled, overrides)).map(drawing.made).filter(drawing.keeps)
    return cast("st.SearchStrategy[M]", drawn)


def keys(
    model: type[BaseModel], /, *, mapping: Mapping | None = None, **overrides: st.SearchStrategy[Any]
) -> st.SearchStrategy[Key]:
    """Return a strategy for keys of a class: tuples of the values of its key fields, as `get(*key)` takes them.

    Args:
        model: a `Model`, or with `mapping` any Pydantic class.
        mapping: what a plain class says about its storage.
        overrides: strategies for key fields, by name.

    Raises:
        ModelError, TypeError, NothingValidError: as `models`.
    """
    compiled = compile_model(model, mapping)
    names = [field.name for field in compiled.shape.fields]
    unknown = overrides.keys() - set(names)
    if unknown:
        raise TypeError(f"{', '.join(sorted(unknown))} is no key field of {model.__name__}; these are: {names}")
    schemas = Schemas(model.__pydantic_core_schema__, _instances)
    drawing = _DrawingKeys(compiled)

    def drawn() -> Strategy:
        found = _key_strategies(model, schemas, names) | overrides
        return st.tuples(*(_known(model, name, found[name]) for name in names))

    return cast("st.SearchStrategy[Key]", st.deferred(drawn).map(drawing.made).filter(drawing.keeps))


def hostile_texts(*, max_size: int | None = None) -> st.SearchStrategy[str]:
    """Return a strategy for texts that break naive keys and queries: wildcards, dots, control characters, and so on.

    They have a UTF-8 form (no surrogates), and shrink to the empty text. As a key field they are all keys, except those
    too long for a raw key.

    Args:
        max_size: how many characters they have at most; by default some are too long for a key.
    """
    whole = st.sampled_from([text for text in _HOSTILE if max_size is None or len(text) <= max_size])
    mixed = st.text(st.sampled_from("a._*>=$/ -\n\x00é😀"), max_size=max_size)
    texts = whole | mixed | st.text(max_size=max_size)
    if max_size is None:
        texts |= st.integers(MAX_RAW_KEY_BYTES - 2, MAX_RAW_KEY_BYTES + 2).map(lambda size: "a" * size)
    return texts


class _Drawing(Generic[M]):
    """Makes objects of drawn fields, and counts what is refused."""

    def __init__(self, model: type[M], codec: Codec[M], compiled: CompiledMapping[M] | None) -> None:
        self._model = model
        self._codec = codec
        self._compiled = compiled
        self._refused = 0
        self._is_found = False
        self._reason = ""

    def made(self, fields: Any) -> M | _Refused:
        """Return an object as validation makes it, if it can be stored and read back."""
        try:
            value = self._model.__pydantic_validator__.validate_python(fields, by_alias=False, by_name=True)
            _, read_back = self._codec.prove(value)
            if self._compiled is not None and self._compiled.raw_key_of(value) != self._compiled.raw_key_of(read_back):
                raise InvalidKeyError("its key reads back as another one")
        except ValidationError as error:
            self._reason = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
        except (CodecFailure, InvalidKeyError) as error:
            self._reason = str(error)
        except Exception as error:  # validators are user code
            self._reason = repr(error)
        else:
            self._is_found = True
            made: M = value
            return made
        return _REFUSED

    def keeps(self, made: M | _Refused) -> bool:
        """Whether it is valid.

        Raises:
            NothingValidError: none has been, for long.
        """
        if made is not _REFUSED:
            return True
        self._refused += 1
        if self._refused >= _PATIENCE and not self._is_found:
            name = self._model.__name__
            raise NothingValidError(
                f"none of {self._refused} drawn {name} objects was valid; the last one was refused: {self._reason}. "
                f"Pass strategies for the fields that this is about: models({name}, field=...)"
            )
        return False


class _DrawingKeys:
    """Makes keys of drawn values, as the key fields' own validation makes them."""

    def __init__(self, compiled: CompiledMapping[Any]) -> None:
        self._compiled = compiled
        self._refused = 0
        self._is_found = False
        self._reason = ""

    def made(self, values: Key) -> Key | None:
        """Return a key, or None where the values are refused."""
        try:
            raw_key = self._compiled.raw_key(values, {})
        except InvalidKeyError as error:
            self._reason = str(error)
            return None
        self._is_found = True
        return self._compiled.key(raw_key)

    def keeps(self, key: Key | None) -> bool:
        """Whether it is a key.

        Raises:
            NothingValidError: none has been, for long.
        """
        if key is not None:
            return True
        self._refused += 1
        if self._refused >= _PATIENCE and not self._is_found:
            raise NothingValidError(
                f"none of {self._refused} drawn keys was valid; the last one was refused: {self._reason}. Pass "
                f"strategies for the key fields: keys({self._compiled.model.__name__}, field=...)"
            )
        return False


def _of_fields(
    model: type[BaseModel],
    schemas: Schemas,
    compiled: CompiledMapping[Any] | None,
    overrides: NamedValues[str, Strategy],
) -> Strategy:
    """Return a strategy for what a class is made of."""
    if schemas.root.get("root_model"):
        return schemas.root_strategy(schemas.root)
    key_fields = [field.name for field in compiled.shape.fields] if compiled is not None else []
    known = schemas.fields(schemas.root, aware=key_fields) | _key_strategies(model, schemas, key_fields)
    nodes: NamedValues[str, Node] = dict(schemas.field_nodes(schemas.root))
    required: dict[str, Strategy] = {}
    optional: dict[str, Strategy] = {}
    for name, field in nodes.items():
        if name in overrides:
            required[name] = overrides[name]
        elif not is_optional(field):
            required[name] = _known(model, name, known[name])
        elif not is_excluded(field) and not isinstance(strategy := known[name], UnknownTypeError):
            if name in key_fields or model.model_fields[name].default_factory is not None:
                # What a factory makes is not repeatable.
                required[name] = strategy
            else:
                optional[name] = strategy
    return st.fixed_dictionaries(required, optional=optional)


def _key_strategies(
    model: type[BaseModel], schemas: Schemas, names: list[str]
) -> dict[str, Strategy | UnknownTypeError]:
    """Return the strategies for key fields: plain texts are hostile ones, too."""
    nodes: NamedValues[str, Node] = dict(schemas.field_nodes(schemas.root))
    known = schemas.fields(schemas.root, aware=names)
    found: dict[str, Strategy | UnknownTypeError] = {}
    for name in names:
        strategy = known[name]
        if not isinstance(strategy, UnknownTypeError) and _is_plain_text(nodes[name]["schema"]):
            strategy |= hostile_texts(max_size=64)
        found[name] = strategy
    return found


def _is_plain_text(node: Node) -> bool:
    return node["type"] == "str" and not node.keys() & {"pattern", "min_length", "max_length"}


def _known(model: type[BaseModel], name: str, strategy: Strategy | UnknownTypeError) -> Strategy:
    if isinstance(strategy, UnknownTypeError):
        raise NothingValidError(
            f"{model.__name__}.{name}: {strategy}; pass a strategy: models({model.__name__}, {name}=...)"
        )
    return strategy


def _instances(cls: type[Any], fields: Strategy) -> Strategy:
    """Return a strategy for the instances of a class in a field."""
    adapter: TypeAdapter[Any] = TypeAdapter(cls)

    def made(values: Any) -> Any:
        try:
            return adapter.validate_python(values, by_alias=False, by_name=True, strict=None)
        except Exception:  # validators are user code
            return _REFUSED

    return fields.map(made).filter(lambda value: value is not _REFUSED)
