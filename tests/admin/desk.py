"""An admin application over a real spool, and short ways of asking it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient

from gateway.orders.desk import OrderDesk
from spool.records import Bury, Delivery, NewDelivery
from spool.store import Spool
from tests.admin.world import World
from tests.spool.building import CORE, DETAIL, Clock, a_record, opened, split_fragments


class Desk:
    """A spool with its desk behind the admin listener, asked over a real socket."""

    def __init__(self, spool: Spool, clock: Clock, client: TestClient) -> None:
        self.spool = spool
        self.clock = clock
        self.client = client

    async def buried(
        self, call_id: str, *deliveries: NewDelivery, reason: str = "HTTP 400", token: str | None = None
    ) -> Delivery:
        """A record whose first delivery is a dead letter; a core with its detail unless told otherwise."""
        new = a_record(call_id, *(deliveries or (CORE, DETAIL)), fragments=split_fragments(), token=token)
        accepted = await self.spool.accept(new)
        await self.spool.settle(accepted.ready[0], Bury(reason))
        return accepted.ready[0]

    async def list(self, **query: Any) -> Any:
        """A page of deliveries."""
        answer = await self.client.get("/api/deliveries", params=query)
        assert answer.status == 200, await answer.text()
        return await answer.json()

    async def order(self, name: str, select: dict[str, Any] | None = None, **fields: Any) -> Any:
        """One step of an order."""
        answer = await self.client.post(f"/api/orders/{name}", json={"select": select or {}, **fields})
        assert answer.status == 200, await answer.text()
        return await answer.json()


@asynccontextmanager
async def at_the_desk(directory: Path, aiohttp_client: Callable[..., Any]) -> AsyncIterator[Desk]:
    """A desk over a new spool."""
    clock = Clock()
    async with opened(directory, clock=clock) as spool:
        client = await aiohttp_client(World(desk=OrderDesk(spool.orders, clock)).app)
        yield Desk(spool, clock, client)
