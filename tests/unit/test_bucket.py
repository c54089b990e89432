"""What a bucket may be declared to be, how it differs from one that exists, and what the server is told of it."""

import dataclasses
import pickle
from datetime import timedelta
from typing import Any

import pytest

from kvorm import Bucket, Difference, ModelError, Placement, UnsupportedError
from kvorm.backends.nats.config import from_stream, to_stream, updated
from kvorm.bucket import differences

SECOND = timedelta(seconds=1)
FULL = Bucket(
    "orders",
    history=10,
    ttl=timedelta(days=1),
    replicas=3,
    storage="memory",
    max_value_bytes=1000,
    max_bytes=10**6,
    compression=True,
    marker_ttl=timedelta(hours=1),
    placement=Placement("east", ("ssd",)),
    description="all orders",
    metadata={"team": "sales"},
)


def test_a_name_is_enough() -> None:
    bucket = Bucket("orders")
    assert (bucket.name, bucket.history, bucket.ttl, bucket.storage) == ("orders", 1, None, "file")
    assert bucket == Bucket("orders", history=1)
    assert pickle.loads(pickle.dumps(FULL)) == FULL


def test_settings_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        Bucket("orders", 10)  # type: ignore[misc]


def test_a_declaration_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Bucket("orders").history = 5  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a*", ">", "ä", "a\n", "a/b", "a=b", None, 5])
def test_wrong_names(name: Any) -> None:
    with pytest.raises(ModelError, match="use letters, digits, '-' and '_' only"):
        Bucket(name)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("history", 0, "history=0 must be an int from 1 to 64"),
        ("history", 65, "history=65 must be an int from 1 to 64"),
        ("history", True, "history=True must be an int"),
        ("history", None, "history=None must be an int"),
        ("history", 1.0, "history=1.0 must be an int"),
        ("replicas", 0, "replicas=0 must be an int from 1 to 5"),
        ("replicas", 6, "replicas=6 must be an int from 1 to 5"),
        ("max_value_bytes", 0, "max_value_bytes=0 must be an int from 1 to 2147483391"),
        ("max_bytes", -1, "max_bytes=-1 must be an int from 1"),
        ("ttl", 60, "ttl=60 must be a timedelta of at least 0.1 s"),
        ("ttl", timedelta(0), "must be a timedelta of at least 0.1 s"),
        ("ttl", timedelta(milliseconds=99), "must be a timedelta of at least 0.1 s"),
        ("marker_ttl", timedelta(milliseconds=999), "must be a timedelta of at least 1 s"),
        ("marker_ttl", timedelta(seconds=1.5), "marker_ttl=0:00:01.500000 must be whole seconds"),
        ("storage", "disk", "storage='disk' must be 'file' or 'memory'"),
        ("metadata", {"kvorm.layout": "2"}, "metadata names that begin with '_nats' or 'kvorm.' are reserved"),
        ("metadata", {"_nats.ver": "2"}, "metadata names that begin with '_nats' or 'kvorm.' are reserved"),
    ],
)
def test_settings_out_of_range(setting: str, value: Any, message: str) -> None:
    with pytest.raises(ModelError, match=f"^bucket 'orders': .*{message}"):
        Bucket("orders", **{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("history", 64),
        ("replicas", 5),
        ("ttl", timedelta(milliseconds=100)),
        ("marker_ttl", SECOND),
        ("max_value_bytes", 1),
        ("max_bytes", 1),
    ],
)
def test_settings_at_their_limits(setting: str, value: Any) -> None:
    assert getattr(Bucket("orders", **{setting: value}), setting) == value


@pytest.mark.parametrize(
    ("ttl", "marker_ttl", "created"),
    [
        (None, None, None),
        (None, 5 * SECOND, 5 * SECOND),
        (timedelta(days=1), None, timedelta(minutes=1)),
        (timedelta(seconds=30.7), None, 30 * SECOND),
        (timedelta(milliseconds=100), None, SECOND),
        (timedelta(days=1), 5 * SECOND, 5 * SECOND),
    ],
)
def test_a_bucket_with_a_lifetime_keeps_markers(
    ttl: timedelta | None, marker_ttl: timedelta | None, created: timedelta | None
) -> None:
    assert Bucket("orders", ttl=ttl, marker_ttl=marker_ttl).created_marker_ttl() == created


def test_renamed_is_the_same_elsewhere() -> None:
    assert FULL.renamed("staging-orders") == dataclasses.replace(FULL, name="staging-orders")


# Differences


def test_a_bucket_is_what_it_is_declared_to_be() -> None:
    assert differences(FULL, FULL) == {}


def test_what_was_not_said_may_be_anything() -> None:
    assert differences(Bucket("orders", history=10, ttl=FULL.ttl, storage="memory"), FULL) == {}


def test_what_was_said_is_compared_setting_by_setting() -> None:
    declared = Bucket(
        "orders",
        history=5,
        replicas=1,
        max_value_bytes=2000,
        max_bytes=10**7,
        compression=False,
        marker_ttl=timedelta(hours=2),
        placement=Placement("west"),
        description="orders",
        metadata={"team": "support", "more": "1"},
    )
    assert differences(declared, FULL) == {
        "history": Difference(5, 10),
        "ttl": Difference(None, timedelta(days=1)),
        "replicas": Difference(1, 3),
        "storage": Difference("file", "memory"),
        "max_value_bytes": Difference(2000, 1000),
        "max_bytes": Difference(10**7, 10**6),
        "compression": Difference(False, True),
        "marker_ttl": Difference(timedelta(hours=2), timedelta(hours=1)),
        "placement": Difference(Placement("west"), Placement("east", ("ssd",))),
        "description": Difference("orders", "all orders"),
        "metadata['team']": Difference("support", "sales"),
        "metadata['more']": Difference("1", None),
    }


# Streams

SERVER = (2, 15, 0)


@pytest.mark.parametrize("bucket", [Bucket("orders"), FULL, Bucket("orders", ttl=timedelta(milliseconds=100))])
def test_a_created_stream_is_what_was_declared(bucket: Bucket) -> None:
    actual = from_stream(to_stream(bucket, SERVER))
    assert differences(bucket, actual) == {}
    assert actual == dataclasses.replace(
        bucket,
        replicas=bucket.replicas or 1,
        compression=bool(bucket.compression),
        marker_ttl=bucket.created_marker_ttl(),
    )


def test_a_created_stream_is_a_plain_key_value_bucket() -> None:
    config = to_stream(Bucket("orders"), SERVER)
    assert config["name"] == "KV_orders"
    assert config["subjects"] == ["$KV.orders.>"]
    assert config["metadata"] == {"kvorm.layout": "1"}
    for setting in ("allow_direct", "allow_atomic", "allow_batched", "allow_rollup_hdrs", "deny_delete"):
        assert config[setting] is True, setting
    assert config["discard"] == "new"
    assert config["max_msg_size"] == -1
    assert config["duplicate_window"] == 30 * 10**9


def test_old_servers_are_not_told_what_they_do_not_know() -> None:
    assert "allow_atomic" not in to_stream(Bucket("orders"), (2, 11, 9))
    assert "allow_batched" not in to_stream(Bucket("orders"), (2, 13, 9))


def test_the_duplicate_window_is_never_above_the_lifetime() -> None:
    assert to_stream(Bucket("orders", ttl=SECOND), SERVER)["duplicate_window"] == 10**9
    assert updated(to_stream(Bucket("orders"), SERVER), Bucket("orders", ttl=SECOND))["duplicate_window"] == 10**9


def test_headers_have_room_beside_the_largest_value() -> None:
    config = to_stream(Bucket("orders", max_value_bytes=1000), SERVER)
    assert config["max_msg_size"] == 1256
    assert from_stream(config).max_value_bytes == 1000
    foreign = {name: value for name, value in config.items() if name != "metadata"}
    assert from_stream(foreign).max_value_bytes == 1256


def test_an_update_changes_what_was_said_and_keeps_the_rest() -> None:
    config = {**to_stream(FULL, SERVER), "republish": {"src": ">"}}
    changed = updated(config, Bucket("orders", history=20, ttl=FULL.ttl, storage="memory", metadata={"more": "1"}))
    assert changed["republish"] == {"src": ">"}
    assert changed["metadata"] == {"team": "sales", "kvorm.layout": "1", "more": "1"}
    assert differences(dataclasses.replace(FULL, history=20), from_stream(changed)) == {}


@pytest.mark.parametrize("layout", ["2", "10", "x"])
def test_a_newer_layout_is_refused(layout: str) -> None:
    config = {**to_stream(Bucket("orders"), SERVER), "metadata": {"kvorm.layout": layout}}
    with pytest.raises(UnsupportedError, match=f"bucket 'orders' has layout {layout}, this kvorm knows layout 1: upgr"):
        from_stream(config)


def test_a_stream_that_is_no_bucket_is_refused() -> None:
    config = {**to_stream(Bucket("orders"), SERVER), "max_msgs_per_subject": -1}
    with pytest.raises(UnsupportedError, match="stream KV_orders keeps any number of messages per subject"):
        from_stream(config)


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
def test_a_queue_is_refused(retention: str) -> None:
    config = {**to_stream(Bucket("orders"), SERVER), "retention": retention}
    with pytest.raises(UnsupportedError, match=f"stream KV_orders has retention '{retention}' and is no Key-Value"):
        from_stream(config)


def test_the_servers_own_metadata_is_not_ours() -> None:
    config = {**to_stream(FULL, SERVER), "metadata": {"_nats.ver": "2.15.1", "team": "sales"}}
    assert from_stream(config).metadata == {"team": "sales"}


def test_metadata_of_a_later_kvorm_is_not_in_the_way() -> None:
    config = {**to_stream(FULL, SERVER), "metadata": {"kvorm.layout": "1", "kvorm.later": "x", "team": "sales"}}
    assert from_stream(config).metadata == {"team": "sales"}


@pytest.mark.parametrize("setting", [{"max_msgs_per_subject": 1000}, {"max_age": 10**6}])
def test_a_stream_beyond_what_a_bucket_may_be_is_refused(setting: dict[str, int]) -> None:
    with pytest.raises(UnsupportedError, match=r"stream KV_orders cannot be a Key-Value bucket: .* must be"):
        from_stream({**to_stream(Bucket("orders"), SERVER), **setting})
