"""The life of a gateway: the order in which its parts start and stop, signals, and the drain deadline.

A sidecar gets its SIGTERM while its agent still talks. So a stop goes on accepting and delivering until no call is
open, nothing was posted for a while and the core lane is empty, or until the deadline; a second signal ends it at
once. What is undelivered then waits in the spool for the next start.
"""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import structlog
import uvloop
from aiohttp import web

from gateway.admin.app import build_admin_app
from gateway.admin.events import RecentEvents
from gateway.admin.metrics import Metrics
from gateway.admin.sources import Clock, Lifecycle, Phase, Sources
from gateway.admin.status import summarize_forever
from gateway.intake.admission import Gate
from gateway.intake.parse_worker import Examiner
from gateway.intake.server import IntakeServer
from gateway.live_calls import Courtesy, OpenCalls
from gateway.operations.service import OrderDesk
from gateway.process import raise_limit
from gateway.sdk_outbox.rescue import OutboxWatch
from gateway.sdk_outbox.rows import OutboxStatus
from spool.directory import Custody
from spool.errors import SpoolError
from spool.stats import SpoolStats, TracedRecord
from spool.store import Spool
from uploaders.base import DestinationStatus
from uploaders.dispatch.dispatcher import Dispatcher

# The parts of a running gateway, and what hears of everything that happens in it.


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


LOOK_SECONDS = 0.1
"""How often a stopping gateway looks whether it may end."""
GRACE_SECONDS = 2.0
"""For posts and attempts under way at the end of a stop, to come to theirs."""
SETTLE_SECONDS = 0.2
"""For attempts that have just ended, to be written down, when there is no time for others."""
MAKE_WAY_SECONDS = 0.5
"""For posts under way to be told that they were not accepted, when the database is damaged."""
_OBJECTS_PER_COLLECTION = 10_000

_log = structlog.get_logger("callspool")


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class StopRule:
    """How patient a stop is. All in seconds."""

    deadline: float
    """The longest a stop may take."""
    quiet: float
    """Without a post for so long, none is expected any more."""
    call_max_age: float
    """A call that began longer ago has lost its end."""


class Blueprint(Protocol):
    """A gateway that is still to be built."""

    admin: Listen
    admin_token: str | None
    stop_rule: StopRule
    clock: Clock
    watchers: Watchers

    async def build(self) -> Service:
        """Open the spool and wire everything to it. Raises `SpoolError` or `OSError`."""
        ...


def serve(blueprint: Blueprint) -> int:
    """Run a gateway until it is told to stop. Returns the exit code: 0, or 1 where it could not start."""
    raise_limit()
    # What was imported stays, so that the collector need not look at it again and again; and each post makes some
    # hundred objects that go without it: with Python's threshold it ran at every fifth.
    gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    return uvloop.run(Gateway(blueprint).run())


class Gateway:
    """One run of a gateway."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._service: Service | None = None
        self._lifecycle = Lifecycle(Phase.STARTING)
        self._told_to_stop = asyncio.Event()
        self._hurried = asyncio.Event()

    async def run(self) -> int:
        """Start, work, and stop on SIGTERM or SIGINT. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal)
        try:
            async with self._admin():
                heirloom: socket.socket | None = None
                while not self._told_to_stop.is_set():
                    heirloom = await self._live(heirloom)
        except (SpoolError, OSError) as error:
            _log.error("cannot_run", reason=str(error))
            return 1
        _log.info("stopped")
        return 0

    async def _live(self, heirloom: socket.socket | None) -> socket.socket | None:
        """Build everything, work, and give everything back. Ends when told to, or when the database is damaged.

        `heirloom` is the socket that agents connected to before; returned is that of this time, if they are to wait
        in it for the next.
        """
        service = await self._blueprint.build()
        try:
            return await self._work(service, heirloom)
        finally:
            await service.close()

    async def _work(self, service: Service, heirloom: socket.socket | None) -> socket.socket | None:
        self._service = service
        _tell_of_directory(service.spool.custody)
        await service.intake.start(heirloom)
        service.dispatcher.start()
        service.gate.open()
        service.outboxes.start()
        self._lifecycle = Lifecycle(Phase.RUNNING)
        _log.info("running", intake_port=service.intake.port, spool_bytes=service.spool.used_bytes)
        summaries = asyncio.create_task(
            summarize_forever(service.spool.stats, lambda: service.spool.maintenance_failure)
        )
        try:
            if await _first(self._told_to_stop.wait(), service.spool.custody.damage.wait()) == 0:
                await self._stop(service)
                return None
            return await self._make_way(service)
        finally:
            summaries.cancel()

    async def _make_way(self, service: Service) -> socket.socket | None:
        """The database is damaged, and takes nothing any more: end all that uses it, but keep agents waiting."""
        reason = service.spool.custody.damage.reason
        self._lifecycle = Lifecycle(Phase.STARTING, (f"a new database takes the place of a damaged one: {reason}",))
        _log.error("database_damaged", reason=reason, what_happens="it is moved aside, and a new one takes its place")
        heirloom = service.intake.bequeath()
        await service.intake.stop(MAKE_WAY_SECONDS)
        await service.dispatcher.stop(SETTLE_SECONDS)
        return heirloom

    async def _stop(self, service: Service) -> None:
        """Drain what can be drained in time; then end the intake first, and what it feeds after it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._blueprint.stop_rule.deadline
        self._lifecycle = Lifecycle(Phase.STOPPING, ("the gateway is stopping",))
        _log.info("stopping", open_calls=self._open_calls(service))
        while not self._hurried.is_set() and loop.time() < deadline - GRACE_SECONDS and not self._drained(service):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._hurried.wait()
        await service.outboxes.stop(0.0 if self._hurried.is_set() else GRACE_SECONDS)
        cut_off = await service.intake.stop(0.0 if self._hurried.is_set() else GRACE_SECONDS)
        left = 0.0 if self._hurried.is_set() else deadline - loop.time()
        await service.dispatcher.stop(max(SETTLE_SECONDS, min(GRACE_SECONDS, left)))
        queued = sum(lane.queued for lane in service.spool.stats().lanes.values())
        _log.info("drained", left_in_spool=queued, posts_cut_off=cut_off)

    def _open_calls(self, service: Service) -> int:
        return service.calls.open_calls(self._blueprint.clock(), round(self._blueprint.stop_rule.call_max_age * 1000))

    def _drained(self, service: Service) -> bool:
        now = self._blueprint.clock()
        last = service.calls.last_post_at
        quiet = last is None or now - last >= self._blueprint.stop_rule.quiet * 1000
        stats = service.spool.stats()
        if stats.failure is not None:  # nothing can be written down: neither the end of a call nor that of a delivery
            return quiet and not service.gate.inside
        takes_posts = stats.shortage is None and stats.used_bytes < stats.limit_bytes
        expecting = service.gate.inside or (takes_posts and self._open_calls(service))
        return quiet and not expecting and service.dispatcher.core_idle()

    def _signal(self) -> None:
        (self._hurried if self._told_to_stop.is_set() else self._told_to_stop).set()

    # The admin listener: up first and down last, so that it can say why the rest is not ---------------------------

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[None]:
        watchers, listen = self._blueprint.watchers, self._blueprint.admin
        sources = Sources(
            self._stats,
            self._trace,
            self._destinations,
            lambda: self._lifecycle,
            lambda: self._service.desk if self._service else None,
            lambda name: self._service.dispatcher.retry_now(name) if self._service else None,
            lambda: self._service.courtesy.figures() if self._service else None,
            lambda: self._service.spool.salvages if self._service else None,
            self._blueprint.clock,
            self._outboxes,
        )
        app = build_admin_app(sources, watchers.metrics, watchers.events, self._blueprint.admin_token)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, listen.host, listen.port, shutdown_timeout=1.0)
            await site.start()
            _log.info("starting", admin=site.name)
            yield
        finally:
            await runner.cleanup()

    def _stats(self) -> SpoolStats | None:
        return self._service.spool.stats() if self._service else None

    async def _trace(self, call_id: str) -> tuple[TracedRecord, ...]:
        return await self._service.spool.trace(call_id) if self._service else ()

    def _outboxes(self) -> tuple[OutboxStatus, ...]:
        return self._service.outboxes.status() if self._service else ()

    def _destinations(self) -> tuple[DestinationStatus, ...]:
        return self._service.destinations() if self._service else ()


def _tell_of_directory(custody: Custody) -> None:
    """What an operator should know about the spool directory."""
    if custody.warning:
        _log.warning("spool_directory", reason=custody.warning)
    for aside in custody.asides:
        if not aside.brought:
            hint = "run `callspool salvage`: it brings what can be read into the present database"
            _log.error("database_moved_aside", directory=str(aside.directory), reason=aside.reason, what_to_do=hint)


async def _first(*waits: Coroutine[object, object, object]) -> int:
    """Wait until one of these is over; returns the place of the first one."""
    tasks = [asyncio.create_task(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(place for place, task in enumerate(tasks) if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
