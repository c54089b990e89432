"""Smoke test of the installed package: the main job in memory, with nothing beside the core dependencies."""

import asyncio
import importlib.metadata
import importlib.util
import sys
from importlib.resources import files
from pathlib import Path

import kvorm
from kvorm import Bucket, Entry, Key, Model

OF_EXTRAS = ("faststream", "hypothesis", "portalocker", "pytest", "rich", "typer")


class Order(Model, bucket=Bucket("orders", history=5)):
    """An order of one tenant."""

    tenant: Key[str]
    number: Key[int]
    total: float
    status: str = "new"


async def main() -> None:
    """Save, conflict, update, read, history, delete."""
    async with kvorm.connect("memory:") as store:
        orders = store.repository(Order)
        order = Order(tenant="acme", number=7, total=9.5)
        first = await orders.save(order)
        expect("a second object of that key is refused", isinstance(await refused(orders), kvorm.KeyExistsError))

        paid = await orders.update("acme", 7, apply=lambda o: o.model_copy(update={"status": "paid"}))
        expect("update returns what it saved", paid.status == "paid")
        expect("get returns it", await orders.get("acme", 7) == paid)
        expect("an old revision is there", (await orders.get("acme", 7, revision=first)).status == "new")

        await orders.delete(paid)
        expect("a deleted key reads as None", await orders.get_or_none("acme", 7) is None)
        events = await orders.history("acme", 7)
        expect("history ends in a marker", [isinstance(event, Entry) for event in events][-1] is False)


async def refused(orders: kvorm.Repository[Order]) -> BaseException | None:
    """Save a second object under the key that is taken, and return the error."""
    try:
        await orders.save(Order(tenant="acme", number=7, total=1))
    except kvorm.ConflictError as error:
        return error
    return None


def expect(what: str, true: bool) -> None:
    """End the script with exit code 1 unless `true`."""
    if not true:
        sys.exit(f"smoke test failed: {what}")


if __name__ == "__main__":
    place = Path(kvorm.__file__).parent
    expect(f"kvorm comes from the environment, not from {place}", Path(sys.prefix) in place.parents)
    expect("py.typed is in the wheel", files(kvorm).joinpath("py.typed").is_file())
    installed = [name for name in OF_EXTRAS if importlib.util.find_spec(name)]
    expect(f"this environment has no extras, yet {installed}", not installed)
    asyncio.run(main())
    print(f"kvorm {importlib.metadata.version('kvorm')} from its wheel: ok")
