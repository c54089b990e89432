"""What the service stores."""

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from kvorm import Bucket, Key, Model

Status = Literal["new", "paid", "shipped"]


class Order(Model, bucket=Bucket("orders", history=10)):
    """An order as it is now; the last ten revisions are kept."""

    tenant: Key[str]
    id: Key[UUID]
    total: Decimal
    status: Status = "new"


class Bill(Model, bucket="bills"):
    """One payment, once: the revision in which the order was paid is a part of the key."""

    tenant: Key[str]
    order: Key[UUID]
    order_revision: Key[int]
    total: Decimal


class AuditRecord(Model, bucket="audit"):
    """One change of one order, for good."""

    tenant: Key[str]
    order: Key[UUID]
    order_revision: Key[int]
    what: str
    when: datetime
