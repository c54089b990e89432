"""Change[T]: what a change handler gets, and the message that carries it through FastStream."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, TypeVar

from faststream.nats import NatsMessage
from nats.aio.msg import Msg
from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from kvorm.entry import Entry, Marker
from kvorm.faststream.target import checked_model

M = TypeVar("M", bound=BaseModel)

AnyChange: TypeAlias = Entry[Any] | Marker

_FIRST_RETRY_SECONDS: Final = 0.1
_LONGEST_RETRY_SECONDS: Final = 60.0

if TYPE_CHECKING:
    Change: TypeAlias = Entry[M] | Marker
else:

    class Change:
        """`Change[Order]` is an Entry[Order] or a Marker; in AsyncAPI it is the model, which is what is on the wire."""

        __model__: ClassVar[type[BaseModel]] = BaseModel

        def __class_getitem__(cls, model: object) -> type[Change]:
            """Return the type of the changes of a model.

            A class and no Annotated union: FastAPI drops the annotations of a type.
            """
            checked = checked_model(model, "Change")
            return type(f"Change[{checked.__name__}]", (cls,), {"__model__": checked})

        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler, /) -> CoreSchema:
            return core_schema.json_or_python_schema(
                json_schema=handler.generate_schema(cls.__model__),
                python_schema=core_schema.is_instance_schema((Entry, Marker), cls_repr=cls.__name__),
            )


@dataclass
class ChangeMsg(Msg):
    """A message of nats-py with the change that it means.

    Its subject is that of the subscription, not that of the key: middlewares make metrics of subjects, and keys are
    without number.

    Attributes:
        change: the change, typed.
        attempt: how often it was delivered, this time included.
    """

    change: AnyChange | None = None
    attempt: int = 1

    @classmethod
    def of(cls, msg: Msg, change: AnyChange, *, subscription: str) -> ChangeMsg:
        """Return a message of a work group; acknowledging it acknowledges the one that came."""
        came: dict[str, Any] = {each.name: getattr(msg, each.name) for each in fields(msg)}
        came["subject"] = subscription
        return cls(**came, change=change, attempt=msg.metadata.num_delivered or 1)

    @classmethod
    def told(cls, change: AnyChange, *, subscription: str) -> ChangeMsg:
        """Return a message for a change that nobody waits to have acknowledged."""
        data = b"" if isinstance(change, Marker) else _wire_form(change.value)
        nobody: Any = None
        return cls(nobody, subject=subscription, data=data, _ackd=True, change=change)


class ChangeMessage(NatsMessage):
    """FastStream's form of it; it is decoded already, whatever decoder or codec the broker has."""

    raw_message: ChangeMsg

    async def decode(self) -> AnyChange | None:
        """Return the change."""
        return self.raw_message.change

    async def nack(self, delay: float | None = None) -> None:
        """Have it delivered again, each time after a longer pause unless one is said."""
        await super().nack(retry_pause(self.raw_message.attempt) if delay is None else delay)


async def parse_change(msg: ChangeMsg) -> ChangeMessage:
    """Return a message as middlewares and handlers get it."""
    headers = msg.headers or {}
    change = msg.change
    return ChangeMessage(
        raw_message=msg,
        body=msg.data,
        headers=headers,
        content_type="application/json",
        message_id=f"{change.revision}@{change.bucket}/{change.raw_key}" if change is not None else None,
        correlation_id=headers.get("correlation_id"),
    )


def subject(bucket: str, key: str) -> str:
    """Return the subject of a raw key, or of a filter."""
    return f"$KV.{bucket}.{key}"


def retry_pause(attempt: int) -> float:
    """Return the seconds to wait after an attempt that failed."""
    return min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(attempt - 1, 16))


def _wire_form(value: BaseModel) -> bytes:
    return value.model_dump_json(by_alias=True, round_trip=True).encode()
