"""FastAPI shows and returns a model that was read as it does any other."""

import json

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder

from kvorm import revision_of
from kvorm.testing.contract.harness import Harness
from kvorm.testing.contract.models import Note, Open, Order, new_orders


def openapi(app: FastAPI) -> str:
    app.openapi_schema = None
    return json.dumps(app.openapi())


async def test_openapi_knows_nothing_of_the_stamp(harness: Harness) -> None:
    app = FastAPI()
    app.get("/orders/{id}", response_model=Order)(lambda id: Order(tenant="acme", id=id))
    app.post("/orders")(lambda order: order)
    app.get("/notes", response_model=list[Note | Open])(list)
    before = openapi(app)
    orders = await new_orders(harness)
    fresh, stored = Order(tenant="acme", id=1), Order(tenant="acme", id=1)
    await orders.save(stored)
    for order in (stored, await orders.get("acme", 1)):
        assert revision_of(order) is not None
        assert jsonable_encoder(order) == jsonable_encoder(fresh)
    assert openapi(app) == before
    assert "stamp" not in before
    assert "kvorm" not in before
    assert set(app.openapi()["components"]["schemas"]["Order"]["properties"]) == set(Order.model_fields)
