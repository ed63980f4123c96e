"""An admin application over a real spool, and short ways of asking it."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from aiohttp.test_utils import TestClient

from gateway.admin.events import Observers, RecentEvents
from gateway.admin.metrics import Metrics
from gateway.intake.staging import StagingArea, Workers, prepare_directory
from gateway.operations.selection import Accepts
from gateway.operations.service import DeliveryAdmin
from spool.records import DeadLetter, Delivery, Form, NewDelivery
from spool.store import Spool
from tests.admin.world import World
from tests.spool.building import BUCKET, CORE, DETAIL, ENDPOINT, Clock, a_record, opened, split_fragments
from uploaders.dispatch.dispatcher import Dispatcher

AnyDesk = TypeVar("AnyDesk", bound="Desk")

OTHER = "other"
TAKES = {
    ENDPOINT: Accepts(frozenset(Form), ordered=True),
    OTHER: Accepts(frozenset(Form) - {Form.NOTICE}, ordered=True),
    BUCKET: Accepts(frozenset({Form.WHOLE, Form.CORE, Form.DETAIL}), ordered=False),
}


class Desk:
    """A spool with its desk behind the admin listener."""

    def __init__(self, spool: Spool, clock: Clock, staging: StagingArea) -> None:
        self.spool = spool
        self.clock = clock
        self.dispatcher = Dispatcher(spool, {}, clock, lambda: 0.0, Observers(Metrics(), RecentEvents(clock)))
        self.desk = DeliveryAdmin(spool, staging, self.dispatcher, TAKES, clock)
        self.app = World(desk=self.desk).app

    async def buried(
        self,
        call_id: str,
        *deliveries: NewDelivery,
        reason: str = "HTTP 400",
        token: str | None = None,
        rest: bytes = b'"rest": 1',
    ) -> Delivery:
        """A record whose first delivery is a dead letter; a core with its detail unless told otherwise."""
        new = a_record(call_id, *(deliveries or (CORE, DETAIL)), fragments=split_fragments(rest), token=token)
        accepted = await self.spool.accept(new)
        await self.spool.settle(accepted.ready[0], DeadLetter(reason))
        return accepted.ready[0]


class AskedDesk(Desk):
    """A desk that is asked over a real socket."""

    def __init__(self, spool: Spool, clock: Clock, staging: StagingArea) -> None:
        super().__init__(spool, clock, staging)
        self.client: TestClient

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
async def at_the_desk(directory: Path, made: type[AnyDesk]) -> AsyncIterator[AnyDesk]:
    """A desk over a new spool."""
    clock = Clock()
    async with opened(directory, clock=clock, destinations=TAKES) as spool:
        with ThreadPoolExecutor(1) as executor:
            yield made(spool, clock, StagingArea(prepare_directory(directory), spool, Workers(executor)))
