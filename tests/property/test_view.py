"""A view beside the bucket: whatever is done, both have the same. In memory, where a sequence takes milliseconds."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from kvorm import ANY, Bucket, Key, MemoryStore, Model, Repository, View, revision_of
from kvorm.testing.clock import ManualClock

TTL = timedelta(seconds=10)


class Item(Model, bucket=Bucket("items", history=3)):
    tenant: Key[str]
    number: Key[int]
    text: str = ""
    tags: list[str] = Field(default_factory=list[str])


class ShortLived(Item, bucket=Bucket("items", history=3, ttl=TTL)):
    pass


KEYS = [("acme", 1), ("acme", 2), ("b.b", 1), ("*", -3)]

keys = st.sampled_from(KEYS)
operations = st.one_of(
    st.tuples(st.just("save"), keys, st.text(max_size=2)),
    st.tuples(st.sampled_from(["delete", "purge", "spoil", "foreign"]), keys, st.just("")),
    st.tuples(st.sampled_from(["pass time", "recreate", "compare"]), st.just(KEYS[0]), st.just("")),
)


class Sides:
    """A repository and views of it."""

    def __init__(self, model: type[Item]) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock)
        self.items: Repository[Item] = self.store.repository(model)

    async def do(self, name: str, key: tuple[str, int], text: str) -> None:
        match name:
            case "save":
                item = self.items.model(tenant=key[0], number=key[1], text=text, tags=[text])
                await self.items.save(item, expect=ANY)
            case "delete" | "purge":
                if await self.items.exists(*key):
                    await getattr(self.items, name)(*key)
            case "spoil":
                self.append(f"{key[0].replace('.', '=2E').replace('*', '=2A')}.{key[1]}", b"?")
            case "foreign":
                self.append("no.key.of.it", b"?")
            case "pass time":
                self.clock.advance(TTL / 2)
            case "recreate":
                # At once: in between, a watch that looks ends with BucketNotFoundError.
                self.store.server.delete("items")
                self.store.server.create(self.items.bucket)
                # Its revisions may look like those before; let the views notice.
                for _ in range(10):
                    await asyncio.sleep(0)
            case _:
                pass

    def append(self, raw_key: str, data: bytes) -> None:
        stored = self.store.server.find("items")
        stored.log.append(raw_key, data, {})
        stored.announce()

    async def compare(self, view: View[Item], **key_fields: Any) -> None:
        # A marker that is due has a revision, too, and a bucket made anew has to be noticed first.
        self.store.server.find("items").expire()
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while view.revision != self.store.server.find("items").log.last_sequence:  # noqa: ASYNC110
                await asyncio.sleep(0)
        invalid: dict[str, int] = {}
        found = self.items.find(on_invalid=lambda error: invalid.update({error.key: error.revision}), **key_fields)
        expected = {(item.tenant, item.number): (revision_of(item), item) async for item in found}
        assert {key: (revision_of(item), item) for key, item in view.items()} == expected
        assert {error.key: error.revision for error in view.invalid.values()} == invalid
        assert set(view) == set(expected)
        assert len(view) == len(expected)
        assert all((key in view) == (key in expected) for key in KEYS)
        by_text = view.by("text")
        assert {text: {item.number for item in by_text[text]} for text in by_text} == {
            text: {item.number for _, item in expected.values() if item.text == text}
            for text in {item.text for _, item in expected.values()}
        }


async def run(model: type[Item], done: list[tuple[str, tuple[str, int], str]]) -> None:
    sides = Sides(model)
    await sides.store.ensure(sides.items)
    async with sides.store, sides.items.view() as view, sides.items.view(tenant="acme") as part:
        for operation in done:
            await sides.do(*operation)
            if operation[0] == "compare":
                await sides.compare(view)
        await sides.compare(view)
        await sides.compare(part, tenant="acme")
        for item in view.values():
            item.tags.append("mine")
            item.text = "mine"
        await sides.compare(view)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([Item, ShortLived]), st.lists(operations, max_size=25))
def test_a_view_equals_the_bucket(model: type[Item], done: list[tuple[str, tuple[str, int], str]]) -> None:
    asyncio.run(run(model, done))
