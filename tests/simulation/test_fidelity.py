"""The simulated server answers as a real one does: the same random requests, and no difference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from nats.aio.client import Client

from kvorm import Bucket
from kvorm.backends.nats.config import to_stream
from kvorm.backends.nats.link import api_prefix
from kvorm.testing.servers import NatsServer
from kvorm.testing.simulation.loop import VirtualLoop
from kvorm.testing.simulation.world import World

Answer = tuple[object, ...]

SUBJECTS = ["$KV.b.x", "$KV.b.y", "$KV.b.z.a"]
FILTERS = [*SUBJECTS, "$KV.b.>", "$KV.b.z.>", "$KV.b.*", "$KV.b.none"]
API = api_prefix(None)
# What is said about time, sizes and the server itself, and no bucket can tell.
TOLD = {"seq", "duplicate", "error", "message", "total", "offset", "limit", "success", "num_pending", "delivered"}


async def play(url: str, seed: int) -> list[Answer]:
    """Make random requests; return what was answered, without what differs between any two servers."""
    random = Random(seed)
    client = Client()
    await client.connect(url, allow_reconnect=False)
    answers: list[Answer] = []
    try:
        bucket = Bucket("b", history=random.choice([1, 3]))
        await ask(client, f"{API}.STREAM.CREATE.KV_b", to_stream(bucket, (2, 13, 0)))
        for number in range(60):
            subject, body, headers = request(random, number, last=number)
            answered = await ask(client, subject, body, headers)
            answers.append((subject, json.dumps(body) if isinstance(body, dict) else body, str(headers), *answered))
        for policy in ("last_per_subject", "all", "by_start_sequence", "new"):
            filter_, first = random.choice(FILTERS), random.randint(1, 20)
            answers.append(await consumed(client, policy, filter_, first))
        answers.append(tuple(await ask(client, f"{API}.STREAM.DELETE.KV_b", b"")))
        answers.append(tuple(await ask(client, "$KV.b.x", b"1")))
    finally:
        await client.close()
    return answers


def request(random: Random, number: int, last: int) -> tuple[str, bytes | dict[str, Any], dict[str, str] | None]:
    subject, sequence = random.choice(SUBJECTS), random.randint(1, last + 2)
    match random.randrange(12):
        case 0 | 1 | 2 | 3:
            headers = {}
            if random.random() < 0.6:
                headers["Nats-Msg-Id"] = random.choice(["a", "b", str(number)])
            if random.random() < 0.6:
                headers["Nats-Expected-Last-Subject-Sequence"] = str(random.choice([0, 1, 2, 3, last // 2]))
            if random.random() < 0.2:
                headers["Nats-Rollup"] = random.choice(["sub", "nonsense"])
            return subject, str(number).encode() if random.random() < 0.8 else b"", headers or None
        case 4:
            return f"{API}.STREAM.MSG.GET.KV_b", {"last_by_subj": subject}, None
        case 5:
            return f"{API}.STREAM.MSG.GET.KV_b", {"next_by_subj": random.choice(FILTERS), "seq": sequence}, None
        case 6:
            return f"{API}.STREAM.MSG.GET.KV_b", {"seq": sequence}, None
        case 7:
            return f"{API}.DIRECT.GET.KV_b.{random.choice(SUBJECTS)}", b"", None
        case 8:
            return f"{API}.DIRECT.GET.KV_b", {"seq": sequence}, None
        case 9:
            return f"{API}.DIRECT.GET.KV_b", {"multi_last": random.sample(FILTERS, 2)}, None
        case 10:
            body = {"next_by_subj": random.choice(FILTERS), "seq": sequence, "batch": random.randint(1, 5)}
            return f"{API}.DIRECT.GET.KV_b", body, None
        case _:
            return f"{API}.STREAM.INFO.KV_b", {"subjects_filter": random.choice(FILTERS)}, None


async def ask(
    client: Client, subject: str, body: bytes | dict[str, Any], headers: dict[str, str] | None = None
) -> list[object]:
    """Return all answers: several where the request is one for a batch."""
    payload = json.dumps(body).encode() if isinstance(body, dict) else body
    many = isinstance(body, dict) and ("multi_last" in body or "batch" in body)
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish(subject, payload, reply=inbox, headers=headers)
    told: list[object] = []
    while True:
        message = await subscription.next_msg(2)
        head = {str(name): value for name, value in (message.headers or {}).items() if name != "Nats-Time-Stamp"}
        told.append((sorted(head.items()) if "DIRECT" in subject else head.get("Status"), plain(message.data)))
        if not many or head.get("Status"):
            break
    await subscription.unsubscribe()
    return told


def plain(data: bytes) -> object:
    """Return what an answer says, without times, sizes and what the server says of itself."""
    try:
        answer = json.loads(data)
    except ValueError:
        return data
    if not isinstance(answer, dict):
        return data
    told = {name: value for name, value in answer.items() if name in TOLD}
    told.get("message", {}).pop("time", None)
    told.get("delivered", {}).pop("last_active", None)
    told.pop("delivered", None)
    if "state" in answer:
        names = ("messages", "first_seq", "last_seq", "num_subjects", "subjects")
        told["state"] = {name: answer["state"][name] for name in names if name in answer["state"]}
    return told


async def consumed(client: Client, policy: str, filter_: str, first: int) -> Answer:
    """Return what a consumer delivers, and its first heartbeat."""
    got: list[object] = []
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    config: dict[str, Any] = {
        "name": f"c-{policy}",
        "deliver_subject": inbox,
        "deliver_policy": policy,
        "ack_policy": "none",
        "idle_heartbeat": 100_000_000,
        "flow_control": True,
        "inactive_threshold": 5_000_000_000,
        "filter_subjects": [filter_],
    }
    if policy == "by_start_sequence":
        config["opt_start_seq"] = first
    body = {"stream_name": "KV_b", "config": config, "action": "create"}
    created = await ask(client, f"{API}.CONSUMER.CREATE.KV_b.c-{policy}", body)
    while True:
        message = await subscription.next_msg(2)
        headers = sorted((str(name), value) for name, value in (message.headers or {}).items())
        # The time stands in the reply.
        tokens = message.reply.split(".")
        got.append((message.subject if message.reply else "", tokens[5:7] + tokens[8:], headers, message.data))
        if not message.reply:
            break
    await subscription.unsubscribe()
    deleted = [await ask(client, f"{API}.CONSUMER.DELETE.KV_b.c-{policy}", b"") for _ in range(2)]
    return policy, filter_, created, got, deleted


BATCHES = {
    "whole": [1, 2, 3, 4, 5, "end 6"],
    "one is lost": [1, 2, 4, 5, "end 6"],
    "the first is lost": [2, 3, "end 4"],
    "the last is lost": [1, 2, "end 4"],
    "without an end": [1, 2, 3],
    "one is refused": [1, "large 2", 3, 4, "end 5"],
    "the first is refused": ["large 1", 2, "end 3"],
}


async def play_batches(url: str, *, allowed: bool) -> dict[str, object]:
    """Send messages of batches; return what was answered, and what is stored."""
    client = Client()
    await client.connect(url, allow_reconnect=False)
    told: dict[str, object] = {}
    try:
        config = {**to_stream(Bucket("b", history=64, max_value_bytes=100), (2, 15, 0)), "allow_batched": allowed}
        await ask(client, f"{API}.STREAM.CREATE.KV_b", config)
        for name, steps in BATCHES.items():
            told[name] = await batch(client, steps)
        told["stored"] = await ask(client, f"{API}.STREAM.INFO.KV_b", {"subjects_filter": ">"})
        await ask(client, f"{API}.STREAM.DELETE.KV_b", b"")
    finally:
        await client.close()
    return told


async def batch(client: Client, steps: Sequence[int | str]) -> list[object]:
    """Send one; return the answers but for those that only tell how far it is: the server is free when to send them."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(f"{inbox}.>")
    for step in steps:
        kind, number = str(step).split() if isinstance(step, str) else ("", step)
        operation = 3 if kind == "end" else int(str(number) != "1")
        data = {"end": b"", "large": b"x" * 1_000}.get(kind, b"1")
        await client.publish(f"$KV.b.k{number}", data, reply=f"{inbox}.2.fail.{number}.{operation}.$FI")
    told: list[object] = []
    # A stream answers in order.
    await client.publish("$KV.b.over", b"", reply=f"{inbox}.over")
    async for message in subscription.messages:
        if message.subject.endswith(".over"):
            break
        answer = json.loads(message.data)
        if answer.get("type") != "ack":
            answer.pop("batch", None)
            told.append((message.subject.removeprefix(inbox), answer))
    await subscription.unsubscribe()
    return told


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with NatsServer(tmp_path_factory.mktemp("fidelity")) as running:
        yield running


@pytest.mark.parametrize("seed", range(8))
def test_the_same_answers(server: NatsServer, seed: int) -> None:
    loop = VirtualLoop()
    try:
        world = World(loop, Random(seed), nodes=1)
        simulated = loop.run_until_complete(play(world.urls[0], seed))
    finally:
        loop.close()
    real = asyncio.run(play(server.url, seed))
    for ours, theirs in zip(simulated, real, strict=True):
        assert ours == theirs


@pytest.mark.parametrize("allowed", [True, False])
def test_the_same_answers_to_batches(server: NatsServer, allowed: bool) -> None:
    loop = VirtualLoop()
    try:
        world = World(loop, Random(0), nodes=1)
        simulated = loop.run_until_complete(play_batches(world.urls[0], allowed=allowed))
    finally:
        loop.close()
    assert simulated == asyncio.run(play_batches(server.url, allowed=allowed))
