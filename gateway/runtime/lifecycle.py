"""The life of a gateway: the order in which its parts start and stop, signals, graceful shutdown, and the restart
after corruption.

A sidecar gets its SIGTERM while its agent still talks. So a graceful shutdown continues to accept and drain until no
call is open, nothing was posted for a while and the core lane is empty, or until the deadline; a second signal ends it
at once. What is undelivered then waits in the spool for the next start.
"""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from config.loader import Loaded, effective_settings
from config.settings import DrainUntil, Settings
from config.values import ListenAddress
from gateway.admin.app import build_admin_app
from gateway.admin.audit import AuditFile, AuditLog
from gateway.admin.auth import Access, make_local_token
from gateway.admin.events import Observers, RecentEvents
from gateway.admin.history import Recorder
from gateway.admin.metrics import Metrics
from gateway.admin.status import follow_readiness, summarize_forever
from gateway.admin.view import BackPressure, Lifecycle, Phase, SettingInForce
from gateway.calls import LiveEntry
from gateway.intake.server import IntakeServer
from gateway.listeners import CannotListen
from gateway.live_calls import ThrottleStatus
from gateway.operations.erasure import CallEraser
from gateway.operations.schemas import Reloaded
from gateway.operations.service import DeliveryAdmin
from gateway.operations.tenants import TenantAdmin
from gateway.process import on_signals, raise_limit, run_to_the_end, systemd_of
from gateway.runtime.build import App, build
from gateway.runtime.destinations import DriverMissing
from gateway.runtime.listening import admin_listener, certificates_followed, introduce, listening_at, tls_of, url_of
from gateway.runtime.options import admin_tokens, tenant_tokens
from gateway.runtime.reload import LOOK_SECONDS, FileWatch, Reread, read_again
from gateway.sdk_outbox.model import OutboxStatus
from gateway.tls import CertificateUnusable, ServerTls
from spool.errors import SpoolError
from spool.ownership import SpoolDirectory
from spool.records import system_clock
from spool.salvage.service import SalvageService
from spool.stats import SpoolStats, TracedRecord
from spool.store import Spool
from uploaders.base import DestinationStatus
from uploaders.stores.routing import CallReads
from uploaders.stores.store import StoreError
from uploaders.tasks import Tasks

if TYPE_CHECKING:
    from uploaders.pipeline.service import Pipeline

POLL_SECONDS = 0.1
"""How often a graceful shutdown checks whether everything is drained."""
GRACE_SECONDS = 2.0
"""How long posts and attempts that are under way at the end of a shutdown have to finish."""
SETTLE_SECONDS = 0.2
"""How long the results of attempts have to be written down when there is no time for more attempts."""
RELOAD_SECONDS = 30.0
"""How long attempts under way have to end before settings are applied; posts are accepted meanwhile."""
RESTART_SECONDS = 0.5
"""How long posts under way have to be refused when the database is corrupt."""
_OBJECTS_PER_COLLECTION = 10_000
_SWITCH_SECONDS = 0.0005
"""How long one thread may keep the interpreter from others that wait for it."""

_UNUSABLE = (SpoolError, CertificateUnusable, StoreError, CannotListen, DriverMissing, OSError)
"""How a start fails where its settings, although they were checked, cannot be used: also one after a reload."""
_log = structlog.get_logger("callspool")


def serve(loaded: Loaded, reread: Reread) -> int:
    """Run a gateway until a signal stops it; `reread` gives the settings that a reload applies.

    Returns the exit code: 0, or 1 where it could not start.
    """
    raise_limit()
    # What was imported stays, so that the collector need not look at it again and again; and each post makes some
    # hundred objects that go without it: with Python's threshold it ran at every fifth.
    gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    sys.setswitchinterval(_SWITCH_SECONDS)
    return run_to_the_end(Gateway(loaded, reread).run())


class Gateway:
    """One run of a gateway. Implements what the admin listener reads: `gateway.admin.view.GatewayView`."""

    def __init__(self, loaded: Loaded, reread: Reread) -> None:
        settings = loaded.settings
        self._loaded = loaded
        self._before: Loaded | None = None
        """What to go back to where the settings of a reload cannot be used."""
        self._after: Loaded | None = None
        """What a reload is to apply."""
        self._reread = reread
        self._named: tuple[Path, ...] = ()
        """The files that the settings name which were read last: a secret may come after those that were refused."""
        self._told_to_reload = asyncio.Event()
        self._reloads: set[asyncio.Task[Reloaded]] = set()
        self._observers = Observers(Metrics(), RecentEvents(system_clock))
        self._recorder = Recorder(self._observers.metrics, self._observers.events, system_clock)
        self._audit = AuditLog()
        self._access = Access(
            admin_tokens(settings.admin),
            audit=self._audit,
            hosts=settings.admin.hosts,
            refused=self._observers.metrics.admin_refused,
            tenants=tenant_tokens(settings.tenants),
        )
        self._app: App | None = None
        self._lifecycle = Lifecycle(Phase.STARTING)
        self._systemd = systemd_of(os.environ)
        self._admin_port = settings.admin.listen.port
        self._tls: dict[str, ServerTls] = {}
        """By section; none for a listener without TLS."""
        self._told_to_stop = asyncio.Event()
        self._owes_shutdown = False
        """Whether posts were let in: told to stop while it reloads, it starts once more, and shuts down as ever."""
        self._hurried = asyncio.Event()

    async def run(self) -> int:
        """Start, work, and shut down gracefully on a signal. Returns the exit code."""
        on_signals(self._told_to_stop, self._hurried, self._reload_on_signal, at_a_terminal=sys.stderr.isatty())
        try:
            self._open_audit_log()
            self._tls = tls_of(self._settings)
            async with self._systemd.kept_informed(self._one_line), self._admin_listener():
                watching = Tasks()
                watching.keep(self._reload_on_change)
                try:
                    listening_socket: socket.socket | None = None
                    while self._owes_shutdown or not self._told_to_stop.is_set():
                        listening_socket = await self._run_once(listening_socket)
                finally:
                    await watching.cancel()
        except _UNUSABLE as error:
            _log.error("cannot_run", reason=str(error))
            return 1
        finally:
            await self._audit.close()
        _log.info("stopped")
        return 0

    async def _run_once(self, listening_socket: socket.socket | None) -> socket.socket | None:
        """Build everything, work, and close everything. Ends with the shutdown, or when the database is corrupt.

        `listening_socket` is the intake's socket of the previous time, if agents wait in it. Returns the socket of
        this time, if agents are to wait in it for the next.
        """
        try:
            app = await build(self._settings, self._observers)
        except _UNUSABLE as error:
            if self._before is None:
                raise
            self._use_settings_before(error)
            return listening_socket
        self._access.accept_tokens(admin_tokens(self._settings.admin), tenant_tokens(self._settings.tenants))
        try:
            directory = self._settings.spool.dir.absolute()
            self._access.accept_spool_token(await asyncio.to_thread(make_local_token, directory))
            return await self._work(app, listening_socket)
        except _UNUSABLE as error:
            if self._before is None:
                raise
            return await self._go_back(app, error)
        finally:
            await app.close()

    async def _work(self, app: App, listening_socket: socket.socket | None) -> socket.socket | None:
        self._app = app
        _log_directory(app.spool.directory)
        with listening_at(self._settings.intake.listen, "intake"):
            await app.intake.start(self._context("intake"), listening_socket)
        if app.webhooks is not None and self._settings.webhooks.listen is not None:
            with listening_at(self._settings.webhooks.listen, "webhooks"):
                await app.webhooks.start(self._context("webhooks"))
        await app.heartbeats.watch.open()
        app.intake_parts.gate.open()
        self._owes_shutdown = True
        app.heartbeats.watch.start()
        # Posts need no database: they are accepted while it is still waited for.
        await app.call_stores.open()
        app.dispatcher.start()
        await app.traces.assembler.open()
        app.traces.assembler.start()
        app.start_stores()
        app.outboxes.start()
        self._lifecycle = Lifecycle(Phase.RUNNING)
        self._before = None
        webhooks_port = None if app.webhooks is None else app.webhooks.port
        introduce(
            self._settings,
            app.intake.port,
            self._admin_port,
            webhooks_port,
            app.spool.used_bytes,
            first=not app.spool.stats().lanes,
        )
        self._systemd.ready()
        await self._recorder.open(self._settings.spool.dir.absolute())
        beside = Tasks()
        beside.keep(partial(summarize_forever, app.spool.stats, lambda: app.spool.maintenance_failure))
        beside.keep(partial(follow_readiness, app.spool.stats, self._observers.events))
        beside.keep(partial(self._recorder.run, app.spool.stats, app.destinations))
        try:
            corruption = app.spool.directory.corruption
            what = await _first(self._told_to_stop.wait(), corruption.wait(), self._told_to_reload.wait())
            if what == 0:
                await self._shut_down(app)
                return None
            return await (self._reopen_spool(app) if what == 1 else self._apply(app))
        finally:
            await beside.cancel()
            await self._recorder.save()

    async def _reopen_spool(self, app: App) -> socket.socket | None:
        """End everything that uses the database, which accepts nothing any more, but keep agents waiting."""
        corruption = app.spool.directory.corruption
        if corruption.reason is not None:
            obstacle = f"the spool's database is corrupt and is being replaced: {corruption.reason}"
            what_happens = "it is quarantined, and a new one replaces it"
            _log.error("database_corrupt", reason=corruption.reason, what_happens=what_happens)
        else:
            obstacle = f"the spool's database is being reopened: {corruption.reopen_reason}"
            what_happens = "its content is in the database, which is being reopened"
            _log.error("log_lost", reason=corruption.reopen_reason, what_happens=what_happens)
        self._lifecycle = Lifecycle(Phase.STARTING, (obstacle,))
        listening_socket = app.intake.dup_listening_socket()
        await app.stop_listening(RESTART_SECONDS)
        await app.stop_stores(SETTLE_SECONDS)
        await app.dispatcher.stop(SETTLE_SECONDS)
        return listening_socket

    # Reload: everything but the admin listener and the intake's socket is made anew, of other settings.

    async def reload(self) -> Reloaded:
        """See `GatewayView`."""
        self._systemd.reloading()
        loaded, result, self._named = await asyncio.to_thread(read_again, self._reread, self._settings)
        if loaded is not None:
            self._after = loaded
            self._told_to_reload.set()
        else:
            self._systemd.ready()
        return result

    def _reload_on_signal(self) -> None:
        _log.info("signal", signal="SIGHUP")
        task = asyncio.create_task(self.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_on_change(self) -> None:
        """Reload when a file of the settings has changed, while the settings say so."""
        watch: FileWatch | None = None
        while True:
            watch = (watch or FileWatch()) if self._settings.reload.on_change else None
            if watch is not None:
                watch.follow({*self._loaded.files, *self._named})
                if await asyncio.to_thread(watch.changed):
                    _log.info("files_changed")
                    await self.reload()
                    continue  # what they name is followed at once
            await asyncio.sleep(LOOK_SECONDS)

    async def _apply(self, app: App) -> socket.socket | None:
        """Let what is under way come to its end, posts and deliveries; agents that connect meanwhile wait."""
        if await _first(app.dispatcher.stop(RELOAD_SECONDS), self._told_to_stop.wait()) == 1:
            await app.dispatcher.stop(0.0)
        self._lifecycle = Lifecycle(Phase.STARTING, ("the settings are being reloaded",))
        listening_socket = app.intake.dup_listening_socket()
        await app.stop_listening(GRACE_SECONDS)
        await app.stop_stores(GRACE_SECONDS)
        # Those of a reload that was asked for meanwhile are the newest: it has nothing left to apply.
        self._before, self._loaded = self._loaded, self._after or self._loaded
        self._after = None
        self._told_to_reload.clear()
        return listening_socket

    async def _go_back(self, app: App, error: Exception) -> socket.socket | None:
        """Something of the new settings refuses to be opened: everything is made anew of those before."""
        self._use_settings_before(error)
        listening_socket = app.intake.dup_listening_socket()
        await app.stop_listening(0.0)
        await app.stop_stores(0.0)
        await app.dispatcher.stop(0.0)
        return listening_socket

    def _use_settings_before(self, error: Exception) -> None:
        assert self._before is not None, "a reload has just been applied"
        _log.error("reload_failed", reason=str(error), what_happens="the gateway keeps the old settings")
        self._loaded, self._before = self._before, None

    async def _shut_down(self, app: App) -> None:
        """Drain what can be drained in time; then end the intake first, and what it feeds after it."""
        loop, shutdown = asyncio.get_running_loop(), self._settings.shutdown
        deadline = loop.time() + shutdown.deadline
        self._lifecycle = Lifecycle(Phase.STOPPING, ("the gateway is stopping",))
        self._systemd.stopping()
        _log.info("stopping", open_calls=self._open_calls(app))
        kept_back = GRACE_SECONDS + (shutdown.evacuate_within if shutdown.evacuate_to else 0.0)
        await self._drain(lambda: self._drained(app), deadline - kept_back)
        cut_off = await app.stop_listening(0.0 if self._hurried.is_set() else GRACE_SECONDS)
        if shutdown.evacuate_to is not None and not self._hurried.is_set() and _queued(app):
            await self._evacuate(app, shutdown.evacuate_to, deadline - GRACE_SECONDS)
        # An answer that is under way is paid for: it may take what is left of the time.
        left = 0.0 if self._hurried.is_set() else deadline - loop.time() - GRACE_SECONDS
        await app.stop_stores(max(SETTLE_SECONDS, left))
        left = 0.0 if self._hurried.is_set() else deadline - loop.time()
        await app.dispatcher.stop(max(SETTLE_SECONDS, min(GRACE_SECONDS, left)))
        self._owes_shutdown = False
        _log.info("drained", left_in_spool=_queued(app), posts_cut_off=cut_off)

    async def _evacuate(self, app: App, to: str, until: float) -> None:
        """Move what is queued to the destination on standby, and deliver it there: this volume may be deleted."""
        try:
            moved = await app.delivery_admin.move_all(to)
        except SpoolError as error:
            _log.error("cannot_evacuate", to=to, reason=str(error))
            return
        _log.warning("evacuating", to=to, deliveries=moved)
        await self._drain(lambda: not _queued(app), until)

    async def _drain(self, drained: Callable[[], bool], until: float) -> None:
        """Go on until it is drained, by the loop's time `until`, or until somebody hurries."""
        while not self._hurried.is_set() and asyncio.get_running_loop().time() < until and not drained():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._hurried.wait()

    def _open_calls(self, app: App) -> int:
        return app.intake_parts.calls.open_calls(system_clock(), round(self._settings.shutdown.call_max_age * 1000))

    def _drained(self, app: App) -> bool:
        quiet = app.intake_parts.calls.quiet_seconds() >= self._settings.shutdown.quiet
        stats = app.spool.stats()
        if stats.failure is not None:  # nothing can be written down: neither the end of a call nor that of a delivery
            return quiet and not app.intake_parts.gate.in_flight
        accepts_posts = stats.shortage is None and stats.used_bytes < stats.limit_bytes
        expecting = app.intake_parts.gate.in_flight or (accepts_posts and self._open_calls(app))
        wants_all = self._settings.shutdown.until is DrainUntil.EMPTY
        return quiet and not expecting and (not _queued(app) if wants_all else app.dispatcher.core_idle())

    def _one_line(self) -> str:
        """What `systemctl status` shows."""
        stats = self.spool_stats()
        words = [self._lifecycle.phase.value, *self._lifecycle.reasons]
        if stats is not None:
            lanes = stats.lanes.values()
            words.append(f"{sum(lane.queued for lane in lanes):,} queued, {sum(lane.dead for lane in lanes):,} dead")
            words += [reason for reason in (stats.failure, stats.shortage) if reason is not None]
        return "; ".join(words)

    # The admin listener: up first and down last, so that it can say why the rest is not ---------------------------

    @contextlib.asynccontextmanager
    async def _admin_listener(self) -> AsyncIterator[None]:
        settings, observers = self._settings.admin, self._observers
        app = build_admin_app(self, observers.metrics, observers.events, self._access)
        async with admin_listener(app, settings, self._tls.get("admin")) as listener:
            self._admin_port = listener.port
            async with certificates_followed(self._tls, lambda: {"admin": listener, **self._servers()}):
                yield

    def _context(self, section: str) -> ssl.SSLContext | None:
        tls = self._tls.get(section)
        return None if tls is None else tls.context

    def _servers(self) -> dict[str, IntakeServer]:
        servers = {} if self._app is None else {"intake": self._app.intake, "webhooks": self._app.webhooks}
        return {section: server for section, server in servers.items() if server is not None}

    @contextlib.asynccontextmanager
    async def stopped(self, path: Path) -> AsyncIterator[None]:
        """Serve the admin API alone, at a Unix socket, over the spool of a gateway that is stopped.

        Nothing is accepted, and nothing is delivered; what an order queues is sent after the next start.
        """
        self._lifecycle = Lifecycle(Phase.STOPPED, ("no gateway runs",))
        self._open_audit_log()
        app = await build(self._settings, self._observers)
        try:
            directory = self._settings.spool.dir.absolute()
            self._access.accept_spool_token(await asyncio.to_thread(make_local_token, directory))
            app.spool.listener = None
            await app.spool.recount()
            await app.heartbeats.watch.open()
            self._app = app
            listener = self._settings.admin.model_copy(
                update={"listen": ListenAddress("", 0, path), "tls_cert_file": None, "socket_owner": None}
            )
            admin = build_admin_app(self, self._observers.metrics, self._observers.events, self._access)
            async with admin_listener(admin, listener, None):
                yield
        finally:
            await app.call_stores.stop()
            await app.dispatcher.stop(0.0)
            await app.close()
            await self._audit.close()

    def _open_audit_log(self) -> None:
        audit = self._settings.audit
        if audit.file is not None:
            self._audit.write_to(AuditFile(audit.file.absolute(), audit.max_bytes, audit.keep))

    @property
    def lifecycle(self) -> Lifecycle:
        """See `GatewayView`."""
        return self._lifecycle

    @property
    def spool(self) -> Spool | None:
        """See `GatewayView`."""
        return self._app.spool if self._app else None

    @property
    def receipts_seconds(self) -> float:
        """See `GatewayView`."""
        return self._settings.spool.receipts_keep

    @property
    def recorder(self) -> Recorder:
        """See `GatewayView`."""
        return self._recorder

    @property
    def intake_address(self) -> str:
        """See `GatewayView`."""
        return url_of(self._settings.intake, self._app.intake.port if self._app else self._settings.intake.listen.port)

    @property
    def _settings(self) -> Settings:
        return self._loaded.settings

    def settings(self) -> Sequence[SettingInForce]:
        """See `GatewayView`."""
        return [SettingInForce(each.key, each.value, each.origin) for each in effective_settings(self._loaded)]

    def targets(self) -> Mapping[str, str]:
        """See `GatewayView`."""
        return {each.name: each.target for each in self._settings.destinations}

    def disk_free_bytes(self) -> int | None:
        """See `GatewayView`."""
        try:
            found = os.statvfs(self._settings.spool.dir)
        except OSError:  # the directory is not there yet
            return None
        return found.f_bavail * found.f_frsize

    def audit_lines_dropped(self) -> int:
        """See `GatewayView`."""
        return self._audit.dropped

    @property
    def delivery_admin(self) -> DeliveryAdmin | None:
        """See `GatewayView`."""
        return self._app.delivery_admin if self._app else None

    @property
    def call_eraser(self) -> CallEraser | None:
        """See `GatewayView`."""
        return self._app.call_eraser if self._app else None

    @property
    def tenant_admin(self) -> TenantAdmin | None:
        """See `GatewayView`."""
        return self._app.tenant_admin if self._app else None

    @property
    def salvages(self) -> SalvageService | None:
        """See `GatewayView`."""
        return self._app.spool.salvage if self._app else None

    def now(self) -> int:
        """See `GatewayView`."""
        return system_clock()

    def spool_stats(self) -> SpoolStats | None:
        """See `GatewayView`."""
        return self._app.spool.stats() if self._app else None

    def destinations(self) -> tuple[DestinationStatus, ...]:
        """See `GatewayView`."""
        return self._app.destinations() if self._app else ()

    def outboxes(self) -> tuple[OutboxStatus, ...]:
        """See `GatewayView`."""
        return self._app.outboxes.status() if self._app else ()

    async def intake_obstacle(self) -> str | None:
        """See `GatewayView`."""
        return await asyncio.to_thread(self._app.intake_parts.staging.obstacle) if self._app else None

    def back_pressure(self) -> BackPressure | None:
        """See `GatewayView`."""
        return self._app.back_pressure() if self._app else None

    def drain_throttle(self) -> ThrottleStatus | None:
        """See `GatewayView`."""
        return self._app.throttle.status() if self._app else None

    def live_calls(self) -> tuple[LiveEntry, ...]:
        """See `GatewayView`."""
        return self._app.heartbeats.watch.calls() if self._app else ()

    @property
    def call_store(self) -> CallReads | None:
        """See `GatewayView`."""
        return self._app.call_stores.reads if self._app else None

    @property
    def pipeline(self) -> "Pipeline | None":
        """See `GatewayView`."""
        return self._app.pipeline if self._app else None

    async def trace(self, call_id: str) -> tuple[TracedRecord, ...]:
        """See `GatewayView`."""
        return await self._app.spool.trace(call_id) if self._app else ()

    async def similar_call_ids(self, call_id: str) -> tuple[str, ...]:
        """See `GatewayView`."""
        return await self._app.spool.similar_call_ids(call_id) if self._app else ()

    async def newest(self, after: int, limit: int) -> tuple[TracedRecord, ...]:
        """See `GatewayView`."""
        return await self._app.spool.newest(after, limit) if self._app else ()

    def resume(self, destination: str) -> bool | None:
        """See `GatewayView`."""
        return self._app.dispatcher.retry_now(destination) if self._app else None


def _queued(app: App) -> int:
    """Deliveries still to be made."""
    return sum(lane.queued for lane in app.spool.stats().lanes.values())


def _log_directory(directory: SpoolDirectory) -> None:
    """Log what an operator should know about the spool directory."""
    if directory.warning:
        _log.warning("spool_directory", reason=directory.warning)
    for one in directory.quarantined:
        if not one.imported:
            hint = "run `callspool salvage`: it imports every readable record into the current database"
            _log.error("database_quarantined", directory=str(one.directory), reason=one.reason, what_to_do=hint)


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
