"""A model as bytes, and back: plain JSON, as the class itself writes and reads it.

The law: encoding a valid instance is JSON-equal to `model_dump_json(by_alias=True, round_trip=True)`; decoding accepts
exactly what `model_validate_json(by_alias=True, by_name=True)` accepts and gives an equal model. The class's own
compiled serializer and validator do the work, called without the methods around them; msgspec writes the classes whose
plan shows no difference. ADR 0002 has the figures.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation

from kvorm.errors import ModelError
from kvorm.exact import compile_exact
from kvorm.plan import compile_plan
from kvorm.readback import check_readable

M = TypeVar("M", bound=BaseModel)

_SHOWN = 3
"""How many of the errors of one value a reason names."""


class CodecFailure(Exception):  # noqa: N818 (never leaves kvorm; the error that does is a CodecError)
    """A value could not become bytes, or bytes could not become a value; raised `from` what refused it.

    Below the repository, which knows bucket, key and revision and says so with EncodeError and DecodeError.

    Attributes:
        reason: what is wrong, in one line and without the value itself.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: Final = reason


class Codec(Generic[M]):
    """Writes and reads the instances of one class. Stateless, so that threads and tasks may share it.

    The class is taken as it is now: what a later `model_rebuild(force=True)` changes is not seen.

    Raises:
        ModelError: the class is not complete, or could not read back what it writes.
    """

    def __init__(self, model: type[M]) -> None:
        _complete(model)
        check_readable(model)
        self.model: Final = model
        # The methods of `model` add 0.4 µs to each call of these (benchmarks/codec.py).
        self._to_json: Final = model.__pydantic_serializer__.to_json
        self._validate_json: Final = model.__pydantic_validator__.validate_json
        self._write_plain: Final = compile_plan(model)
        rules = compile_exact(model) if self._write_plain is not None else None
        self._write_exact: Final = compile_plan(model, rules) if rules is not None else None

    def encode(self, value: M) -> bytes:
        """Return the JSON of a valid instance; `prove` is for one that may have been bent around validation.

        An instance of a subclass is written as the codec's own class, and one in a field as the field's class.

        Raises:
            CodecFailure: `value` is of another class, or its content has no JSON.
        """
        if self._write_plain is None:
            return self._encode(value)
        try:
            return self._write_plain(value)
        except Exception:
            # Whatever it was (another class, a number beyond 64 bits, an unknown type), Pydantic writes it.
            return self._encode(value)

    def prove(self, value: M) -> tuple[bytes, M]:
        """Return the JSON of `value`, and what reading it back gives: `value` itself where no reading is needed.

        A plain class reads back an equal object. One with serializers, validators or excluded fields of its own, or
        with an instance of a subclass in it, reads back a valid one.

        Raises:
            CodecFailure: as `encode`, or it cannot be read back so.
        """
        if self._write_plain is None:
            return self._prove_valid(value)
        if self._write_exact is not None:
            try:
                return self._write_exact(value), value
            except Exception:
                pass  # whatever it was, what follows meets it again
        try:
            plain = self._write_plain(value)
        except KeyError:
            # A class that the plan does not know: it may have more than its field's class shows.
            return self._prove_valid(value)
        except Exception:
            plain = self._encode(value)
        try:
            read_back = self.decode(plain)
        except CodecFailure:
            pass
        else:
            if read_back == value:
                return plain, read_back
        # Bent: what msgspec made of it says nothing. What Pydantic makes of it may still read back.
        data, read_back = self._prove_valid(value)
        if read_back != value:
            raise CodecFailure("read back, it would not equal this object")
        return data, read_back

    def _prove_valid(self, value: M) -> tuple[bytes, M]:
        data = self._encode(value)
        return data, self.decode(data)

    def _encode(self, value: M) -> bytes:
        # The serializer itself would write whatever it is given. The exact type first: isinstance is slow on models.
        if type(value) is not self.model and not isinstance(value, self.model):
            raise CodecFailure(f"{type(value).__name__} is not {self.model.__name__}")
        try:
            return self._to_json(value, by_alias=True, round_trip=True, warnings=False)
        except Exception as error:  # serializers are user code
            raise CodecFailure(_reason(error)) from error

    def decode(self, data: bytes) -> M:
        """Return the model that `data` says; keys may be aliases or names of fields.

        Raises:
            CodecFailure: `data` is no JSON, or not of this class.
        """
        try:
            value: M = self._validate_json(data, by_alias=True, by_name=True)
        except Exception as error:  # validators are user code and may raise anything
            raise CodecFailure(_reason(error)) from error
        return value


def _complete(model: type[BaseModel]) -> None:
    """Build what waits for a forward reference or was deferred (`defer_build`)."""
    if model.__pydantic_complete__:
        return
    try:
        model.model_rebuild()
    except PydanticUndefinedAnnotation as error:
        raise ModelError(
            f"{model.__name__} is not complete: {error.name!r} is not defined. "
            f"Define or import it, then call {model.__name__}.model_rebuild()."
        ) from error


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"
    # Without input: values do not belong into logs.
    details = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{'.'.join(map(str, each['loc'])) or 'value'}: {each['msg']}" for each in details[:_SHOWN]]
    if len(details) > _SHOWN:
        told.append(f"and {len(details) - _SHOWN} more")
    return "; ".join(told)
