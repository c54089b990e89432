"""kvorm: typed objects in NATS JetStream Key-Value buckets, each save checked against the revision it was read at."""

from kvorm.bucket import Bucket, Placement
from kvorm.entry import ABSENT, ANY, CaughtUp, Entry, Head, Marker, Page, Reset
from kvorm.errors import (
    BucketMismatchError,
    BucketNotFoundError,
    BulkError,
    CodecError,
    ConflictError,
    DecodeError,
    Difference,
    EncodeError,
    InvalidKeyError,
    KeyExistsError,
    KeyNotFoundError,
    KvormError,
    ModelError,
    NotFoundError,
    PermissionDeniedError,
    RevisionMismatchError,
    StoreClosedError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)
from kvorm.health import BucketHealth, Health
from kvorm.model import Key, Mapping, Model
from kvorm.permissions import Permissions, permissions
from kvorm.repository import Repository
from kvorm.stamp import revision_of
from kvorm.store import MemoryStore, NatsStore, Store, connect
from kvorm.view import View
from kvorm.watch import Watch

__all__ = [
    "ABSENT",
    "ANY",
    "Bucket",
    "BucketHealth",
    "BucketMismatchError",
    "BucketNotFoundError",
    "BulkError",
    "CaughtUp",
    "CodecError",
    "ConflictError",
    "DecodeError",
    "Difference",
    "EncodeError",
    "Entry",
    "Head",
    "Health",
    "InvalidKeyError",
    "Key",
    "KeyExistsError",
    "KeyNotFoundError",
    "KvormError",
    "Mapping",
    "Marker",
    "MemoryStore",
    "Model",
    "ModelError",
    "NatsStore",
    "NotFoundError",
    "Page",
    "PermissionDeniedError",
    "Permissions",
    "Placement",
    "Repository",
    "Reset",
    "RevisionMismatchError",
    "Store",
    "StoreClosedError",
    "StoreError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "UnsupportedError",
    "ValueTooLargeError",
    "View",
    "Watch",
    "connect",
    "permissions",
    "revision_of",
]
