"""`callspool work`: one worker, from its start to its graceful shutdown.

It has no spool: what it reads stays in Kafka until its offsets are committed.
"""

import asyncio
import os
import random
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from config.destinations import DestinationTable, KafkaDestination
from config.destinations.stores import StoreTable, detail_options
from config.settings import Settings
from gateway.admin.app import WorkFigures, build_worker_app
from gateway.admin.auth import Access
from gateway.admin.metrics import Metrics
from gateway.listeners import CannotListen
from gateway.process import on_signals, raise_limit, run_to_the_end, systemd_of
from gateway.runtime.destinations import DriverMissing, announcing_store, require_kafka, store_of
from gateway.runtime.listening import admin_listener, certificates_followed, tls_of
from gateway.runtime.options import completion_rule, kafka_options, routing
from gateway.runtime.stores import CallStores, claim_reader
from gateway.runtime.telemetry import span_sender
from gateway.telemetry import Spans, trace_context
from gateway.tls import CertificateUnusable
from spool.records import system_clock
from uploaders.stores.store import StoreError

if TYPE_CHECKING:
    from gateway.worker.consumer import TopicConsumer
    from gateway.worker.messages import Batch, Incoming, Ledger
    from gateway.worker.writer import BatchWriter

SWEEP_STOP_SECONDS: Final = 2.0
"""Of the deadline of a shutdown, what is left for everything but the last batch."""

_log = structlog.get_logger("callspool")
Table = TypeVar("Table", bound=DestinationTable)


class NotConfigured(ValueError):
    """The settings do not say what to read, or where to write; the message says what to set."""


def source_of(settings: Settings) -> KafkaDestination:
    """The cluster that a worker reads. Raises `NotConfigured`."""
    clusters = [each for each in settings.destinations if isinstance(each, KafkaDestination)]
    return _chosen(clusters, settings.work.source, "work.source", "kafka destination", "CALLSPOOL_KAFKA_BROKERS")


def target_of(settings: Settings) -> StoreTable:
    """The store that a worker writes to. Raises `NotConfigured`."""
    stores = [each for each in settings.destinations if isinstance(each, StoreTable)]
    return _chosen(stores, settings.work.store, "work.store", "store", "CALLSPOOL_DATABASE_URL")


def _chosen(found: Sequence[Table], name: str | None, setting: str, what: str, variable: str) -> Table:
    """The one of this name, or else the only one."""
    names = ", ".join(each.name for each in found)
    if not found:
        raise NotConfigured(f"there is no {what}: set {variable}, or add one to the file")
    if name is None and len(found) > 1:
        raise NotConfigured(f"there are several of kind {what}: set {setting} to one of {names}")
    chosen = next((each for each in found if name in {None, each.name}), None)
    if chosen is None:
        raise NotConfigured(f"{setting} should be the name of a {what}: {names}")
    return chosen


def serve(settings: Settings) -> int:
    """Run a worker until a signal stops it. Returns the exit code: 0, or 1 where it could not start or go on.

    Raises `NotConfigured`.
    """
    worker = Worker(settings)
    raise_limit()
    return run_to_the_end(worker.run())


class Worker:
    """One run of a worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._source = source_of(settings)
        self._target = target_of(settings)
        self._instance = settings.work.instance or socket.gethostname()
        self._metrics = Metrics()
        self._systemd = systemd_of(os.environ)
        self._told_to_stop = asyncio.Event()
        self._hurried = asyncio.Event()
        self._parts: tuple[TopicConsumer, BatchWriter, Ledger] | None = None

    async def run(self) -> int:
        """Start, work, and shut down gracefully on a signal. Returns the exit code."""
        on_signals(self._told_to_stop, self._hurried, at_a_terminal=sys.stderr.isatty())
        try:
            require_kafka(self._source.name)
            async with self._systemd.kept_informed(lambda: self._figures().in_one_line()), self._admin_listener():
                await self._work()
        except (StoreError, CannotListen, CertificateUnusable, DriverMissing, OSError) as error:
            _log.error("cannot_run", reason=str(error))
            return 1
        except Exception as error:
            from gateway.worker.consumer import ConsumerFailed  # noqa: PLC0415  # an extra

            if not isinstance(error, ConsumerFailed):
                raise
            _log.error("cannot_go_on", reason=str(error))
            return 1
        _log.info("stopped")
        return 0

    async def _work(self) -> None:
        from gateway.worker.consumer import ConsumerRule, TopicConsumer  # noqa: PLC0415  # an extra
        from gateway.worker.messages import Ledger  # noqa: PLC0415  # as above
        from gateway.worker.writer import BatchWriter  # noqa: PLC0415  # as above
        from uploaders.kafka.producer import MessageProducer  # noqa: PLC0415  # as above

        settings, work, name = self._settings, self._settings.work, self._target.name
        # What it completes is announced by a receiver on the same database, where the settings of both say so.
        announces = announcing_store(settings.destinations) == name
        store = store_of(self._target, completion_rule(settings.completion), system_clock, announces=announces)
        stores = CallStores(
            {name: store}, settings.completion.sweep, routing(settings.completion), self._metrics, random.random
        )
        options, ledger = kafka_options(self._source), Ledger()
        batch_max = work.batch_max or self._target.worker_batch
        dead = MessageProducer(options)
        claims = claim_reader(settings.references, self._metrics.reference_downloaded)
        writer = BatchWriter(
            store, name, options.topics, dead, ledger, self._metrics,
            share=batch_max, at_once=self._target.concurrency.core, options=detail_options(self._target),
            claims=claims,
        )  # fmt: skip
        rule = ConsumerRule(work.group, self._instance, work.session_timeout, batch_max, work.batch_wait)
        sender = span_sender(settings.traces, self._instance, self._metrics)
        write = writer.write if sender is None else partial(_write_in_span, sender.spans, writer.write)
        consumer = TopicConsumer(options, rule, write, ledger)
        try:
            await stores.open()
            self._parts = consumer, writer, ledger
            stores.start()
            _log.info(
                "working", version=version("callspool"), reads=self._source.target, group=work.group,
                instance=self._instance, writes=self._target.target,
            )  # fmt: skip
            self._systemd.ready()
            await self._read(consumer)
        finally:
            await stores.stop()
            await dead.close()
            if claims is not None:
                await claims.close()
            await store.close()
            if sender is not None:
                await sender.close()

    async def _read(self, consumer: "TopicConsumer") -> None:
        """Until a signal; then what is in hand is written and committed, within the deadline."""
        reading = asyncio.create_task(consumer.run())
        stopped = asyncio.create_task(self._told_to_stop.wait())
        await asyncio.wait({reading, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        self._systemd.stopping()
        seconds = max(0.0, self._settings.shutdown.deadline - SWEEP_STOP_SECONDS)
        consumer.stop(seconds)
        if not reading.done():
            _log.info("stopping")
            hurried = asyncio.create_task(self._hurried.wait())
            await asyncio.wait({reading, hurried}, return_when=asyncio.FIRST_COMPLETED)
            if not hurried.cancel():
                consumer.stop(0.0)
        await reading

    def _figures(self) -> WorkFigures:
        if self._parts is None:
            messages = dict.fromkeys(("new", "duplicate", "dead", "dropped"), 0)
            return WorkFigures(messages, 0, 0, 0, 0, {}, ("the worker is starting",))
        consumer, writer, ledger = self._parts
        entry, counted = ledger.entry(), consumer.figures
        obstacles = [] if counted.joined else ["the worker has not joined its group yet"]
        if counted.refusal is not None:
            obstacles.append(f"Kafka, {counted.refusal}")
        if writer.obstacle is not None:
            obstacles.append(writer.obstacle)
        if self._told_to_stop.is_set():
            obstacles.append("the worker is stopping")
        return WorkFigures(
            {"new": entry.new, "duplicate": entry.duplicate, "dead": entry.dead, "dropped": entry.dropped},
            entry.unaccounted, counted.rebalances, counted.commit_failures, counted.partitions, counted.lags,
            tuple(obstacles),
        )  # fmt: skip

    @asynccontextmanager
    async def _admin_listener(self) -> AsyncIterator[None]:
        settings = self._settings.admin
        access = Access(hosts=settings.hosts, refused=self._metrics.admin_refused)
        app, tls = build_worker_app(self._figures, self._metrics, access), tls_of(self._settings)
        async with (
            admin_listener(app, settings, tls.get("admin")) as listener,
            certificates_followed(tls, lambda: {"admin": listener}),
        ):
            yield


async def _write_in_span(spans: Spans, write: "Callable[[Batch], Awaitable[None]]", batch: "Batch") -> None:
    """Write a batch as one span, linked to the spans that its messages were sent in."""
    started, failed = time.time_ns(), True
    contexts = filter(None, map(_context_of, batch.messages))
    try:
        await write(batch)
        failed = False
    finally:
        spans.batch("write batch", contexts, started, len(batch.messages), failed=failed)


def _context_of(message: "Incoming") -> str | None:
    headers = dict(message.headers)
    parent, state = headers.get("traceparent", b""), headers.get("tracestate", b"")
    return trace_context(parent.decode("ascii", "replace"), state.decode("ascii", "replace"))
