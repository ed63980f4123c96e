"""A watch over outboxes, and what it says of them."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.sdk_outbox.rescue import OutboxWatch
from gateway.sdk_outbox.rows import OutboxState, OutboxStatus, Outcome
from tests.intake.world import World, running
from tests.system.waiting import until

INTERVAL = 0.02


class Heard:
    """Counts nothing: the status does."""

    def row_settled(self, path: str, outcome: Outcome, size: int) -> None:
        pass


class Watching:
    """A watch, and what it says of its outboxes."""

    def __init__(self, world: World, watch: OutboxWatch) -> None:
        self.world = world
        self.watch = watch

    def status(self, index: int = 0) -> OutboxStatus:
        return self.watch.status()[index]

    async def until(self, state: OutboxState, rescued: int = 0, index: int = 0) -> None:
        async def reached() -> bool:
            status = self.status(index)
            return status.state is state and status.outcomes.get(Outcome.RESCUED, 0) >= rescued

        await until(reached, f"outbox {index} is {state} with {rescued} rescued")


@asynccontextmanager
async def watching_over(folder: Path, *paths: Path, owners: Collection[int] = ()) -> AsyncIterator[Watching]:
    async with running(folder / "spool") as world:
        watch = OutboxWatch(paths, INTERVAL, world.intake.sink(key=None), world.clock, Heard(), owners=owners)
        watch.start()
        try:
            yield Watching(world, watch)
        finally:
            await watch.stop(5.0)
