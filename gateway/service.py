"""The parts of a running gateway, and what hears of everything that happens in it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gateway.admin.events import RecentEvents
from gateway.admin.metrics import Metrics
from gateway.courtesy import Courtesy
from gateway.intake.calls import OpenCalls
from gateway.intake.examiner import Examiner
from gateway.intake.gate import Gate
from gateway.intake.server import IntakeServer
from gateway.orders.desk import OrderDesk
from gateway.outbox.watch import OutboxWatch
from spool.store import Spool
from uploaders.dispatcher import Dispatcher
from uploaders.uploader import DestinationStatus


@dataclass(frozen=True, slots=True)
class Watchers:
    """Made before everything else, so that they can tell of a start that fails."""

    metrics: Metrics
    events: RecentEvents

    def details_given_up(self, count: int, payload_bytes: int) -> None:
        """Details were given up because the spool was full."""
        self.metrics.details_given_up(count)
        self.events.details_given_up(count, payload_bytes)


@dataclass(frozen=True, slots=True)
class Service:
    """The parts, as the lifecycle starts and stops them."""

    spool: Spool
    dispatcher: Dispatcher
    intake: IntakeServer
    gate: Gate
    calls: OpenCalls
    courtesy: Courtesy
    desk: OrderDesk
    examiner: Examiner
    executor: ThreadPoolExecutor
    outboxes: OutboxWatch

    def destinations(self) -> tuple[DestinationStatus, ...]:
        """How every destination does; those that only the spool still knows come last."""
        configured = self.dispatcher.status()
        known = {status.name for status in configured}
        gone = sorted({name for name, _ in self.spool.stats().lanes} - known)
        return (*configured, *(_held(name) for name in gone))

    async def close(self) -> None:
        """Give everything back, when nothing listens or delivers any more."""
        await self.examiner.close()
        await self.spool.close()
        await asyncio.to_thread(self.executor.shutdown)


def _held(name: str) -> DestinationStatus:
    return DestinationStatus(
        name=name,
        type="",
        configured=False,
        up=False,
        reason="not in the configuration any more: what is owed to it is held",
        retry_at=None,
        in_flight={},
    )
