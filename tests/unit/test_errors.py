"""The tree of errors: its shape, what each one carries, and that all of them survive a process boundary."""

import copy
import inspect
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

import kvorm
from kvorm import ABSENT, Difference, Entry, Marker, errors

TREE = {
    "KvormError": "Exception",
    "ModelError": "KvormError",
    "InvalidKeyError": "KvormError",
    "CodecError": "KvormError",
    "EncodeError": "CodecError",
    "DecodeError": "CodecError",
    "NotFoundError": "KvormError",
    "BucketNotFoundError": "NotFoundError",
    "KeyNotFoundError": "NotFoundError",
    "ConflictError": "KvormError",
    "KeyExistsError": "ConflictError",
    "RevisionMismatchError": "ConflictError",
    "BulkError": "KvormError",
    "ValueTooLargeError": "KvormError",
    "BucketMismatchError": "KvormError",
    "UnsupportedError": "KvormError",
    "StoreError": "KvormError",
    "StoreUnavailableError": "StoreError",
    "StoreTimeoutError": "StoreError",
    "PermissionDeniedError": "StoreError",
    "StoreClosedError": "StoreError",
}
"""As design.md draws it: class -> its first base."""

WRITTEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Order(BaseModel):
    id: str


ENTRY = Entry(Order(id="1"), 3, WRITTEN, ("1",), "1", "orders", "life")
MARKER = Marker(("1",), "purged", 4, WRITTEN, "1", "orders", "life")
UNDECODABLE = errors.DecodeError(bucket="orders", key="1", revision=7, data=b"{", reason="no JSON")
CONFLICT = errors.RevisionMismatchError("orders/1 moved", bucket="orders", key="1", expected=2, current=ENTRY)

EXAMPLES: list[tuple[errors.KvormError, dict[str, object]]] = [
    (errors.KvormError("why"), {}),
    (errors.ModelError("why"), {}),
    (errors.InvalidKeyError("why", key=("a", 1)), {"key": ("a", 1)}),
    (errors.CodecError("why"), {}),
    (
        errors.EncodeError("orders/1: why", bucket="orders", key="1", reason="why"),
        {"bucket": "orders", "key": "1", "reason": "why"},
    ),
    (UNDECODABLE, {"bucket": "orders", "key": "1", "revision": 7, "data": b"{", "reason": "no JSON"}),
    (errors.NotFoundError("why"), {}),
    (errors.BucketNotFoundError("orders is gone", bucket="orders"), {"bucket": "orders"}),
    (
        errors.KeyNotFoundError("orders/1 is gone", bucket="orders", key="1", marker=MARKER),
        {"bucket": "orders", "key": "1", "marker": MARKER},
    ),
    (
        errors.ConflictError("orders/1", bucket="orders", key="1", expected=2, current=None),
        {"bucket": "orders", "key": "1", "expected": 2, "current": None},
    ),
    (
        errors.KeyExistsError("orders/1", bucket="orders", key="1", expected=ABSENT, current=MARKER),
        {"bucket": "orders", "key": "1", "expected": ABSENT, "current": MARKER},
    ),
    (CONFLICT, {"bucket": "orders", "key": "1", "expected": 2, "current": ENTRY}),
    (
        errors.ValueTooLargeError(bucket="orders", key="1", size=9, limit=8),
        {"bucket": "orders", "key": "1", "size": 9, "limit": 8},
    ),
    (
        errors.BucketMismatchError("orders", bucket="orders", differences={"history": Difference(3, 1)}),
        {"bucket": "orders", "differences": {"history": Difference(3, 1)}},
    ),
    (errors.UnsupportedError("why"), {}),
    (errors.StoreError("why"), {}),
    (errors.StoreUnavailableError("why"), {}),
    (errors.StoreTimeoutError("why", timeout=timedelta(seconds=2)), {"timeout": timedelta(seconds=2)}),
    (errors.PermissionDeniedError("why", subject="$KV.orders.1"), {"subject": "$KV.orders.1"}),
    (errors.StoreClosedError("why"), {}),
]


def test_the_tree_is_the_one_of_the_design() -> None:
    classes = {
        name: cls
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, Exception) and cls.__module__ == errors.__name__
    }
    assert {name: cls.__bases__[0].__name__ for name, cls in classes.items()} == TREE


@pytest.mark.parametrize("name", TREE)
def test_each_class_is_exported_from_kvorm(name: str) -> None:
    assert getattr(kvorm, name) is getattr(errors, name)
    assert name in kvorm.__all__
    assert name in errors.__all__


def test_some_are_builtin_errors_too() -> None:
    assert issubclass(errors.InvalidKeyError, ValueError)
    assert issubclass(errors.BulkError, ExceptionGroup)


def test_each_class_has_an_example_here() -> None:
    assert {type(error).__name__ for error, _ in EXAMPLES} == TREE.keys() - {"BulkError"}


@pytest.mark.parametrize(("error", "attributes"), EXAMPLES, ids=lambda one: type(one).__name__)
def test_attributes_and_message_survive_pickling_and_copying(
    error: errors.KvormError, attributes: dict[str, object]
) -> None:
    for other in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is type(error)
        assert (str(other), other.args) == (str(error), error.args)
        assert vars(other) == attributes


def test_a_conflict_with_an_undecodable_value_survives_pickling() -> None:
    error = errors.KeyExistsError("orders/1", bucket="orders", key="1", expected=ABSENT, current=UNDECODABLE)
    current = pickle.loads(pickle.dumps(error)).current
    assert isinstance(current, errors.DecodeError)
    assert (current.revision, current.data) == (7, b"{")


def test_a_class_of_the_users_survives_pickling() -> None:
    error = OrderIsLateError("order 1 is late", by=timedelta(days=1))
    assert pickle.loads(pickle.dumps(error)).by == timedelta(days=1)


class OrderIsLateError(errors.KvormError):
    def __init__(self, message: str, *, by: timedelta) -> None:
        super().__init__(message)
        self.by = by


def test_messages_name_the_place_and_say_what_to_do() -> None:
    assert str(UNDECODABLE) == (
        "orders/1 at revision 7 is not a valid value: no JSON. Mend it by writing the key anew, or read on with "
        "on_invalid='skip'."
    )
    assert str(errors.ValueTooLargeError(bucket="orders", key="1", size=9, limit=8)) == (
        "orders/1: the value has 9 bytes, at most 8 can be stored. Split it, or raise max_value_bytes of the bucket "
        "(and max_payload of the server)."
    )


def bulk() -> errors.BulkError:
    return errors.BulkError.of(saved={0: 5}, failed={2: ValueError("two"), 1: CONFLICT})


def test_a_bulk_error_tells_each_item() -> None:
    error = bulk()
    assert str(error).startswith("2 of 3 items failed; see .failed by index")
    assert error.saved == {0: 5}
    assert error.failed.keys() == {1, 2}
    assert error.exceptions == (CONFLICT, error.failed[2])


def test_a_bulk_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(bulk()))
    assert type(error) is errors.BulkError
    assert str(error) == str(bulk())
    assert error.saved == {0: 5}
    assert [type(one) for one in error.exceptions] == [errors.RevisionMismatchError, ValueError]
    assert error.failed[1].current == ENTRY


def test_a_bulk_error_is_split_by_except_star() -> None:
    conflicts: list[Exception] = []
    rest: list[Exception] = []
    try:
        raise bulk()
    except* errors.ConflictError as group:
        conflicts += group.exceptions
        assert isinstance(group, errors.BulkError)
        assert group.failed == {1: CONFLICT}
        assert group.saved == {0: 5}
    except* ValueError as group:
        rest += group.exceptions
    assert conflicts == [CONFLICT]
    assert [str(one) for one in rest] == ["two"]
