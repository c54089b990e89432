"""The way in and out of our own: what it hands over is what nats-py would have."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from kvorm.backends.nats import direct
from kvorm.backends.nats.direct import DirectClient, Received, header_block, new_client, parse_headers

NAMES = st.text("abcXYZ019-", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["Z", "C"]), max_size=12)
HEADERS = st.dictionaries(NAMES, VALUES, max_size=4)
# Older versions of nats-py drop all headers of a message where one is not ASCII.
ASCII_HEADERS = st.dictionaries(
    NAMES, st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12), max_size=4
)
STATUS = st.sampled_from(["", " 404", " 503", " 404 Message Not Found", " 100 Idle Heartbeat"])
TAKEN, NOT_TAKEN = 7, 8


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, Received | None]:
    """What the server could send, and what is to be handed over for it."""
    if draw(st.booleans()) and draw(st.booleans()):
        return b"+OK\r\n", None
    sid = draw(st.sampled_from([TAKEN, TAKEN, TAKEN, NOT_TAKEN]))
    reply = draw(st.sampled_from(["", "_INBOX.r.1", "$JS.ACK.s.c.1.2.3"]))
    data = draw(st.binary(max_size=40) | st.just(b"\r\nMSG a 7 3\r\nabc\r\n"))
    words = f"subject.{draw(NAMES)} {sid} {reply}".split()
    headers = draw(st.none() | HEADERS)
    if headers is None:
        block = None
        wire = f"MSG {' '.join(words)} {len(data)}\r\n".encode() + data + b"\r\n"
    else:
        block = header_block(headers)
        wire = f"HMSG {' '.join(words)} {len(block)} {len(block) + len(data)}\r\n".encode() + block + data + b"\r\n"
    received = Received(words[0], reply, block, data)
    assert received.headers == headers
    return wire, received if sid == TAKEN else None


async def read_in_pieces(pieces: Sequence[bytes]) -> list[Received]:
    client = DirectClient()
    taken: list[Received] = []
    client._takers[str(TAKEN)] = taken.append
    for piece in pieces:
        await client._ps.parse(piece)
    assert not client._ps.buf
    return taken


@given(st.lists(messages(), max_size=8), st.data())
def test_messages_come_whole_and_in_order_however_they_are_cut(
    sent: list[tuple[bytes, Received | None]], data: st.DataObject
) -> None:
    stream = b"".join(wire for wire, _ in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    expected = [received for _, received in sent if received is not None]
    assert asyncio.run(read_in_pieces(pieces)) == expected


@given(HEADERS)
def test_headers_come_back_as_they_were_sent(headers: dict[str, str]) -> None:
    assert parse_headers(header_block(headers)) == headers


@given(STATUS, ASCII_HEADERS)
def test_headers_are_read_as_nats_py_reads_them(status: str, headers: dict[str, str]) -> None:
    if status in (" 404", " 503"):
        headers = {}  # the server sends none there, and nats-py does not expect any
    block = header_block(headers).replace(b"NATS/1.0", b"NATS/1.0" + status.encode(), 1)
    assert parse_headers(block) == (asyncio.run(Client()._process_headers(block)) or {})


def test_the_answer_to_a_ping_may_wait_behind_a_long_list() -> None:
    async def read(data: bytes) -> int:
        client = DirectClient()
        client._pings_outstanding = 2
        await client._ps.parse(data)
        return client._pings_outstanding

    assert asyncio.run(read(b"+OK\r\n" * 7_000)) == 0
    # What comes now and then says nothing: the way to the server may be broken.
    assert asyncio.run(read(b"+OK\r\n")) == 2


def test_another_nats_py_is_used_by_its_public_names_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(new_client(), DirectClient)
    monkeypatch.setattr(direct, "_PROCESS", ["self", "message"])
    assert type(new_client()) is Client
