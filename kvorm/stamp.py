"""The stamp: what an object remembers of its reading, so that its next save is checked against it.

It lives in the instance's `__dict__` under a name that is no field: equality, hash, repr, dumps and schemas do not
see it, while `copy`, `deepcopy`, `model_copy`, pickle and assignment validation keep it.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec
from pydantic import BaseModel, ConfigDict
from pydantic_core.core_schema import no_info_before_validator_function

STAMP: Final = "__kvorm_stamp__"


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """Where and at which revision an object was read or stored.

    `revision` is None for one that is not known to be stored. `open_operations` are the ids of its writes since whose
    outcome nobody told: what they may have stored is its own.
    """

    incarnation: str
    bucket: str
    raw_key: str
    revision: int | None
    erased: bool = False
    """Whether that revision is the marker which deleting or purging this object left."""
    open_operations: tuple[str, ...] = ()


def stamp_of(value: BaseModel) -> Stamp | None:
    """Return the stamp of an object, or None if it was never read or stored."""
    return cast("Stamp | None", value.__dict__.get(STAMP))


def set_stamp(value: BaseModel, stamp: Stamp) -> None:
    """Put a stamp on an object, frozen or not."""
    # Each entry comes by here, and `vars(value)` takes twice as long.
    value.__dict__[STAMP] = stamp  # pyright: ignore[reportIndexIssue]


def revision_of(value: BaseModel) -> int | None:
    """Return the revision that the next save of this object will be checked against.

    None: it was never read or stored, so the next save expects its key to be ABSENT. The same holds where it is
    saved in another store, in another bucket or under another key.
    """
    stamp = stamp_of(value)
    return stamp.revision if stamp is not None else None


def restore_stamp(value: BaseModel, stamp: Stamp) -> None:
    """Put a stamp back where Pydantic has taken it for an extra field.

    With `extra="allow"` and `validate_assignment` an assignment turns every name in `__dict__` that is no field into
    an extra field, which would be dumped.
    """
    if value.__pydantic_extra__:
        value.__pydantic_extra__.pop(STAMP, None)
    set_stamp(value, stamp)


def meets_own_stamp(config: ConfigDict) -> bool:
    """Whether Pydantic validates instances of a class again and does not pass over names that are no field."""
    return config.get("revalidate_instances", "never") != "never" and config.get("extra", "ignore") != "ignore"


def hide_stamp(schema: Any) -> None:
    """Let a model's core schema validate the fields of an instance without the stamp, which lies among them."""
    while schema["type"] != "model":
        schema = schema["schema"]
    schema["schema"] = no_info_before_validator_function(_without_stamp, schema["schema"])


def _without_stamp(fields: object) -> object:
    if not isinstance(fields, dict):
        return fields
    named = cast("dict[str, object]", fields)
    return {name: value for name, value in named.items() if name != STAMP} if STAMP in named else named
