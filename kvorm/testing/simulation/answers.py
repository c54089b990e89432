"""What the simulated JetStream answers, in the words of the server."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from kvorm.backends.log import StoredMessage
from kvorm.backends.nats.direct import header_block

_TYPE: Final = "io.nats.jetstream.api.v1."


class Refusal(NamedTuple):
    """Why JetStream says no."""

    code: int
    err_code: int
    description: str


NO_STREAM: Final = Refusal(404, 10059, "stream not found")
NO_CONSUMER: Final = Refusal(404, 10014, "consumer not found")
NO_MESSAGE: Final = Refusal(404, 10037, "no message found")
NAME_IN_USE: Final = Refusal(400, 10058, "stream name already in use with a different configuration")
UNAVAILABLE: Final = Refusal(503, 10008, "JetStream system temporarily unavailable")
IN_PROCESS: Final = Refusal(400, 10158, "expected last sequence mismatch: message is already in process")
CONCURRENT: Final = Refusal(400, 10164, "wrong last sequence")
TOO_LARGE: Final = Refusal(400, 10054, "message size exceeds maximum allowed")
BATCHES_DISABLED: Final = Refusal(400, 10205, "batch publish is disabled")
BATCH_UNKNOWN: Final = Refusal(400, 10208, "batch publish ID unknown")
FULL: Final = Refusal(400, 10077, "maximum bytes exceeded")


def wrong_last(sequence: int) -> Refusal:
    """Return the refusal of an expectation."""
    return Refusal(400, 10071, f"wrong last sequence: {sequence}")


def invalid_rollup(rollup: str) -> Refusal:
    """Return the refusal of a rollup that is none."""
    return Refusal(500, 10111, f'rollup value invalid: "{rollup}"')


def api(kind: str, body: Mapping[str, Any] | Refusal) -> bytes:
    """Return an answer of the API."""
    if isinstance(body, Refusal):
        body = {"error": body._asdict()}
    return msgspec.json.encode({"type": f"{_TYPE}{kind}_response", **body})


def acknowledged(stream: str, sequence: int, *, duplicate: bool = False) -> bytes:
    """Return the acknowledgement of a write."""
    told: dict[str, Any] = {"stream": stream, "seq": sequence}
    return msgspec.json.encode({**told, "duplicate": True} if duplicate else told)


def refused(stream: str, refusal: Refusal) -> bytes:
    """Return the refusal of a write."""
    return msgspec.json.encode({"error": refusal._asdict(), "stream": stream, "seq": 0})


def message(stored: StoredMessage) -> dict[str, Any]:
    """Return a message as STREAM.MSG.GET has it."""
    told: dict[str, Any] = {"subject": stored.subject, "seq": stored.sequence, "time": time(stored.written)}
    if stored.headers:
        told["hdrs"] = b64encode(header_block(stored.headers)).decode()
    if stored.data:
        told["data"] = b64encode(stored.data).decode()
    return told


def direct(stream: str, stored: StoredMessage, further: Mapping[str, str]) -> bytes:
    """Return the headers of a message as a direct get has it. Source: ADR-31."""
    return header_block(
        {
            **stored.headers,
            "Nats-Stream": stream,
            "Nats-Subject": stored.subject,
            "Nats-Sequence": str(stored.sequence),
            "Nats-Time-Stamp": time(stored.written),
            **further,
        }
    )


def status(line: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the headers of a message that is a status."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"NATS/1.0 {line}\r\n{lines}\r\n".encode()


def time(moment: datetime) -> str:
    """Return a moment as the server writes it."""
    return f"{moment.replace(tzinfo=None).isoformat()}Z"
