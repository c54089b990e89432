"""What a class says about its storage: Model, Key and Mapping, checked and compiled once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from collections.abc import Mapping as NamedValues
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Generic, Never, TypeGuard, TypeVar, cast, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, SchemaValidator

from kvorm import entry
from kvorm.bucket import Bucket
from kvorm.codec import Codec
from kvorm.errors import InvalidKeyError, ModelError
from kvorm.keys import MAX_RAW_KEY_BYTES, KeyField, KeyShape, key_field, split_prefix
from kvorm.stamp import hide_stamp, meets_own_stamp, restore_stamp, stamp_of

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class KeyMark:
    """Marks a field as a part of the key; users write `Key[...]`."""

    def __repr__(self) -> str:
        return "Key"


_KEY_MARK: Final = KeyMark()
_PLAIN: Final = ("str", "int", "bool", "uuid")
"""Schemas that take every value of their type, unless they say more."""

_NEVER: Final = re.compile("(?!)")

Key = Annotated[T, _KEY_MARK]
"""`tenant: Key[str]` makes a field a part of the key, in the order of declaration."""

RESERVED_NAMES: Final = frozenset(
    {
        "revision", "expect", "apply", "since", "history", "updates_only", "on_invalid", "where",
        "limit", "after", "as_of", "reads", "ttl", "timeout", "bucket", "mapping",
    }
)  # fmt: skip
"""Names of options; a key field of that name could not be passed by name."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """What a plain Pydantic class says about its storage; `Model` is the short way to say it.

    Attributes:
        bucket: the bucket's declaration, or its name alone.
        key: the names of the key fields, in their order; none for a single entry, which needs a prefix.
        prefix: leading tokens of the keys, where several models share a bucket.
    """

    bucket: Bucket | str
    key: Sequence[str] = ()
    prefix: str | None = None


class Model(BaseModel):
    """A Pydantic model that says where it is stored, and nothing more: no connection, no `save()`.

        class Order(Model, bucket=Bucket("orders", history=10)):
            tenant: Key[str]
            id: Key[UUID]
            total: Decimal

    The declaration is checked as soon as the class is complete; a subclass inherits bucket and prefix.

    Raises:
        ModelError: the declaration cannot work; the message says how to mend it.
    """

    __kvorm_bucket__: ClassVar[Bucket | None] = None
    __kvorm_prefix__: ClassVar[str | None] = None
    __kvorm_compiled__: ClassVar[CompiledMapping[Any] | None] = None

    def __init_subclass__(
        cls, *, bucket: Bucket | str | None = None, prefix: str | None = None, **unknown: Never
    ) -> None:
        """Take over what the class statement says."""
        if unknown:
            raise ModelError(
                f"class {cls.__name__}: unknown keyword {', '.join(map(repr, unknown))}; a Model takes bucket= and "
                f"prefix=, everything else belongs into model_config = ConfigDict(...) or into Bucket(...)"
            )
        super().__init_subclass__()
        if bucket is not None:
            cls.__kvorm_bucket__ = _as_bucket(bucket)
        if prefix is not None:
            split_prefix(prefix)
            cls.__kvorm_prefix__ = prefix
        cls.__kvorm_compiled__ = None

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """Check the declaration, if the class is complete already."""
        if cls.__kvorm_bucket__ is not None and _is_complete(cls):
            compile_model(cls)

    @classmethod
    def __pydantic_on_complete__(cls) -> None:
        """Check the declaration once forward references are known (from Pydantic 2.12 on)."""
        if cls.__kvorm_bucket__ is not None and _is_complete(cls):
            compile_model(cls)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler, /) -> CoreSchema:
        """Keep the stamp out of the input where Pydantic validates an instance again and looks at extra fields."""
        schema = handler(source)
        if meets_own_stamp(cls.model_config):
            hide_stamp(handler.resolve_ref_schema(schema))
        return schema

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            stamp = stamp_of(self)
            super().__setattr__(name, value)
            if stamp is not None:
                restore_stamp(self, stamp)


class CompiledMapping(Generic[M]):
    """A class and its storage, ready for use: bucket, keys, codec."""

    def __init__(self, model: type[M], mapping: Mapping) -> None:
        self.model = model
        self.bucket = _as_bucket(mapping.bucket)
        prefix = split_prefix(mapping.prefix) if mapping.prefix is not None else ()
        if not prefix and not mapping.key:
            raise ModelError(
                f"{model.__name__} has no key: mark a field, for example `id: Key[str]`, or give it a prefix to make "
                f"it a single entry"
            )
        if isinstance(mapping.key, str) or len(set(mapping.key)) != len(mapping.key):
            raise ModelError(
                f"{model.__name__}: key={mapping.key!r} must be different names, for example ('tenant', 'id')"
            )
        self.shape = KeyShape(prefix, [_key_field(model, name) for name in mapping.key])
        self.codec = Codec(model)
        self._names = tuple(mapping.key)
        self._key_fields = _picking(self._names)
        self._validators: dict[tuple[str, ...], SchemaValidator] = {}
        # Where validation takes each value of a key field as it is, most raw keys tell by their spelling alone.
        self._match_plain = (self.shape.plain if _are_plain(model, self._names) else _NEVER).fullmatch

    def __repr__(self) -> str:
        return f"CompiledMapping({self.model.__name__}, {self.bucket.name!r}, key={self._names})"

    def is_instance(self, value: object) -> TypeGuard[M]:
        """Whether this is an object of the class."""
        # The exact type first: isinstance is slow on models.
        return type(value) is self.model or isinstance(value, self.model)

    def key_of(self, value: M) -> entry.Key:
        """Return the values of an object's key fields.

        Raises:
            InvalidKeyError: one is not set.
        """
        try:
            return self._key_fields(value.__dict__)
        except KeyError as error:
            raise InvalidKeyError(f"the key field {error} of this {self.model.__name__} is not set", key=None) from None

    def raw_key_of(self, value: M) -> str:
        """Return the raw key of an object.

        Raises:
            InvalidKeyError: no key can be formed from its key fields.
        """
        return self.shape.raw_key(self.key_of(value))

    def raw_key(self, values: Sequence[object], named: NamedValues[str, object]) -> str:
        """Return the raw key of what a caller passed, after the validation of the key fields.

        Raises:
            InvalidKeyError: too few, too many, unknown or refused values.
        """
        if not named and len(values) == len(self._names):
            return self.shape.raw_key(tuple(self._validated(dict(zip(self._names, values, strict=True))).values()))
        given = self._by_name(values, named)
        if len(given) < len(self._names):
            missing = ", ".join([name for name in self._names if name not in given])
            raise InvalidKeyError(f"{self._usage()}; {missing} missing", key=tuple(values))
        return self.shape.raw_key(tuple(self._validated(given).values()))

    def filter(self, named: NamedValues[str, object]) -> str:
        """Return the filter for any subset of the key fields.

        Raises:
            InvalidKeyError: unknown or refused values.
        """
        return self.shape.filter(self._validated(self._by_name((), named)))

    def key(self, raw_key: str) -> entry.Key | None:
        """Return the values of the key fields, or None if this is no key of the model."""
        plain_key = self._plain_key(raw_key)
        if plain_key is not None:
            return plain_key
        texts = self.shape.texts(raw_key)
        if texts is None:
            return None
        try:
            values = {f.name: f.from_text(text) for f, text in zip(self.shape.fields, texts, strict=True)}
            key = tuple(self._validated(values).values())
            return key if self.shape.raw_key(key) == raw_key else None
        except ValueError:
            return None

    def spells(self, raw_key: str, key: entry.Key) -> bool:
        """Whether a raw key is plainly that of a key; if not it may be all the same."""
        match = self._match_plain(raw_key)
        if match is None or len(raw_key) > MAX_RAW_KEY_BYTES:
            return False
        texts = match.groups()
        return texts == key if self.shape.are_texts else self.shape.values(texts) == key

    def _plain_key(self, raw_key: str) -> entry.Key | None:
        """Return the key of a raw key that needs neither decoding nor validation."""
        match = self._match_plain(raw_key)
        if match is None or len(raw_key) > MAX_RAW_KEY_BYTES:
            return None
        return self.shape.values(match.groups())

    def is_key(self, raw_key: str) -> bool:
        """Whether this is a key of the model."""
        if self._match_plain(raw_key) and len(raw_key) <= MAX_RAW_KEY_BYTES:
            return True
        return self.key(raw_key) is not None

    def _by_name(self, values: Sequence[object], named: NamedValues[str, object]) -> dict[str, object]:
        if len(values) > len(self._names):
            hint = "; pass the fields one by one, as in get(*key)" if isinstance(values[0], tuple) else ""
            raise InvalidKeyError(f"{self._usage()}, {len(values)} values were given{hint}", key=tuple(values))
        given = dict(zip(self._names, values, strict=False))
        for name, value in named.items():
            if name not in self._names:
                raise InvalidKeyError(f"{self._usage()}; {name!r} is none of them", key=tuple(values))
            if name in given:
                raise InvalidKeyError(f"{self._usage()}; {name!r} was given twice", key=tuple(values))
            given[name] = value
        return given

    def _usage(self) -> str:
        if not self._names:
            return f"{self.model.__name__} is a single entry without key fields"
        return f"the key of {self.model.__name__} is ({', '.join(self._names)})"

    def _validated(self, given: NamedValues[str, object]) -> dict[str, Any]:
        """Run the key fields' own validation; return the values in the order of the fields."""
        if not given:
            return {}
        names = tuple(given)
        if names not in self._validators:
            self._validators[names] = _key_validator(self.model, [name for name in self._names if name in names])
        try:
            validated: dict[str, Any] = self._validators[names].validate_python(given)[0]
        except ValidationError as error:
            reasons = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise InvalidKeyError(f"no key of {self.model.__name__}: {reasons}", key=tuple(given.values())) from error
        except Exception as error:
            raise InvalidKeyError(
                f"a validator of {self.model.__name__} failed on the key fields alone: {error!r}; a key field's "
                f"validator may look at the key fields before it, at nothing else",
                key=tuple(given.values()),
            ) from error
        return validated


def compile_model(model: type[M], mapping: Mapping | None = None) -> CompiledMapping[M]:
    """Check and compile what a class says about its storage; a Model's own saying is compiled once.

    Raises:
        ModelError: it cannot work.
    """
    if not _is_pydantic_class(model):
        raise ModelError(f"{model!r} is no Pydantic model class")
    _complete(model)
    if mapping is not None:
        if not issubclass(model, Model):
            _check_stamp_survives(model)
        return CompiledMapping(model, mapping)
    if not issubclass(model, Model):
        raise ModelError(
            f"{model.__name__} is a plain Pydantic class: pass mapping=Mapping(bucket=..., key=(...)), or derive it "
            f"from kvorm.Model"
        )
    if model.__kvorm_compiled__ is None:
        if model.__kvorm_bucket__ is None:
            raise ModelError(f"{model.__name__} names no bucket: write class {model.__name__}(Model, bucket='...')")
        own = Mapping(model.__kvorm_bucket__, _marked_fields(model), model.__kvorm_prefix__)
        model.__kvorm_compiled__ = CompiledMapping(model, own)
    return model.__kvorm_compiled__


def _is_pydantic_class(model: object) -> bool:
    return isinstance(model, type) and issubclass(model, BaseModel)


def _is_complete(model: type[Model]) -> bool:
    """Whether a class can be checked: no open forward references, no open type variables."""
    return model.__pydantic_complete__ and not model.__pydantic_generic_metadata__["parameters"]


def _complete(model: type[BaseModel]) -> None:
    if model.__pydantic_complete__:
        return
    try:
        model.model_rebuild()
    except ModelError:
        raise  # it is complete now, and declared wrongly
    except Exception as error:
        told = str(error).partition("\n")[0]
        raise ModelError(
            f"{model.__name__} refers to a type that is not known here: {told}; import it at run time too, or call "
            f"{model.__name__}.model_rebuild() where it is known"
        ) from error


def _check_stamp_survives(model: type[BaseModel]) -> None:
    config = model.model_config
    if meets_own_stamp(config):
        raise ModelError(
            f"{model.__name__} has extra={config.get('extra')!r} and revalidate_instances: Pydantic would take the "
            f"revision it carries for an extra field. Derive it from kvorm.Model, which prevents that, or give up one "
            f"of the two"
        )
    if config.get("extra") == "allow" and config.get("validate_assignment"):
        raise ModelError(
            f"{model.__name__} has extra='allow' and validate_assignment: Pydantic would turn the revision it carries "
            f"into an extra field. Derive it from kvorm.Model, which prevents that, or give up one of the two"
        )


def _as_bucket(bucket: Bucket | str) -> Bucket:
    if isinstance(bucket, Bucket):
        return bucket
    if not isinstance(bucket, str):
        raise ModelError(f"bucket={bucket!r} is neither a name nor a Bucket(...)")
    return Bucket(bucket)


def _picking(names: tuple[str, ...]) -> Callable[[NamedValues[str, object]], entry.Key]:
    """Return what picks fields by their names, in this order. Raises KeyError for the first one that is missing."""
    match names:
        case ():
            return lambda _: ()
        case (name,):
            return lambda held: (held[name],)
        case _:
            return cast("Callable[[NamedValues[str, object]], entry.Key]", itemgetter(*names))


def _marked_fields(model: type[BaseModel]) -> list[str]:
    marked: list[str] = []
    for name, field in model.model_fields.items():
        if _is_marked(field):
            marked.append(name)
        elif _mentions_mark(field.annotation):
            raise ModelError(
                f"{model.__name__}.{name}: Key[...] stands inside {field.annotation!r}; it marks a whole field that "
                f"always has a value, so write {name}: Key[...]"
            )
    return marked


def _is_marked(field: FieldInfo) -> bool:
    if any(isinstance(mark, KeyMark) for mark in field.metadata):
        return True
    aliased = getattr(field.annotation, "__value__", None)
    return any(isinstance(mark, KeyMark) for mark in getattr(aliased, "__metadata__", ()))


def _mentions_mark(annotation: Any) -> bool:
    marks = getattr(annotation, "__metadata__", ())
    return any(isinstance(mark, KeyMark) for mark in marks) or any(_mentions_mark(a) for a in get_args(annotation))


def _key_field(model: type[BaseModel], name: str) -> KeyField:
    where = f"{model.__name__}.{name}"
    if name in RESERVED_NAMES:
        raise ModelError(f"{where}: {name!r} is the name of an option and cannot be a key field; rename the field")
    field = model.model_fields.get(name)
    if field is None:
        raise ModelError(f"{model.__name__} has no field {name!r}; its fields are {', '.join(model.model_fields)}")
    if field.exclude:
        raise ModelError(f"{where}: a key field cannot be excluded, its value would not be stored; remove exclude=True")
    try:
        return key_field(name, field.annotation)
    except ModelError as error:
        raise ModelError(f"{model.__name__}: {error}") from error


def _key_validator(model: type[BaseModel], names: Sequence[str]) -> SchemaValidator:
    """Return a validator of some key fields: their own validation and validators, by field name."""
    fields_schema, definitions, config = _fields_schema(model)
    fields = {
        name: {option: value for option, value in fields_schema[name].items() if option != "validation_alias"}
        for name in names
    }
    key_schema: Any = {"type": "model-fields", "fields": fields, "model_name": model.__name__}
    return SchemaValidator({"type": "definitions", "schema": key_schema, "definitions": definitions}, config)


def _are_plain(model: type[BaseModel], names: Sequence[str]) -> bool:
    """Whether the validation of these fields takes every value of their type, as it is."""
    if not names:
        return True
    fields_schema, _, config = _fields_schema(model)
    options: dict[str, Any] = config or {}
    if any(option.startswith("str_") for option in options):
        return False
    for name in names:
        schema: Any = fields_schema[name]["schema"]
        if schema["type"] == "default":
            schema = schema["schema"]
        if schema["type"] not in _PLAIN or set(schema) - {"type", "metadata"}:
            return False
    return True


def _fields_schema(model: type[BaseModel]) -> tuple[dict[str, Any], list[Any], Any]:
    """Return the schema of each field, the definitions they refer to, and the configuration they are under."""
    schema: Any = model.__pydantic_core_schema__
    definitions: list[Any] = []
    config: Any = None
    while schema["type"] != "model-fields":
        if schema["type"] == "definitions":
            definitions += schema["definitions"]
        if schema["type"] == "definition-ref":
            schema = next(one for one in definitions if one["ref"] == schema["schema_ref"])
            continue
        if schema["type"] == "model":
            config = schema.get("config")
        schema = schema["schema"]
    return schema["fields"], definitions, config
