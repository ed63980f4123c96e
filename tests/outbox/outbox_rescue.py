"""What empties an outbox into a real intake: once, or for as long as a watch over outboxes runs."""

from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.sdk_outbox.model import OutboxState, OutboxStatus, Outcome
from gateway.sdk_outbox.reader import OutboxReader
from gateway.sdk_outbox.rescue import OutboxWatch, Remains, Rescuer
from spool.records import Fragment
from tests.intake.running_intake import RunningIntake, running
from tests.system.waiting import until


@dataclass
class Rescue:
    """An outbox, and the world that its rows go to. The world's clock is in milliseconds, the outbox's in seconds."""

    world: RunningIntake
    outbox: Path
    key: str | None = None
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.reader = OutboxReader(self.outbox)
        sink = self.world.intake.sink(key=self.key)
        self.rescuer = Rescuer(self.reader, sink, self.world.clock, self)

    def row_settled(self, _path: str, outcome: Outcome, _size: int) -> None:
        self.outcomes[outcome] += 1

    @property
    def now(self) -> float:
        """Seconds, as rows have them."""
        return self.world.clock.now / 1000

    async def run(self) -> Remains:
        """Empty the outbox once."""
        try:
            await self.open()
            return await self.rescuer.empty(lambda: True)
        finally:
            await self.reader.close()

    async def open(self) -> None:
        """Start the process that reads the outbox."""
        stamp = self.reader.stamp()
        assert stamp is not None
        assert await self.reader.open(stamp)

    async def stored(self, call_id: str) -> bytes:
        """The only record of a call, as it lies in the spool."""
        traced = await self.world.only_record(call_id)
        return await self.world.stored(traced.record, Fragment.BODY)


@asynccontextmanager
async def rescuing(folder: Path, *, key: str | None = None, **options: Any) -> AsyncIterator[Rescue]:
    """A rescue from `folder/outbox.db`; `options` are those of the intake's world."""
    async with running(folder / "spool", **options) as world:
        yield Rescue(world, folder / "outbox.db", key)


# A watch over outboxes, and what it says of them.


INTERVAL = 0.02


class Heard:
    """Counts nothing: the status does."""

    def row_settled(self, path: str, outcome: Outcome, size: int) -> None:
        pass


class Watching:
    """A watch, and what it says of its outboxes."""

    def __init__(self, world: RunningIntake, watch: OutboxWatch) -> None:
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
