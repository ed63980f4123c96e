"""Maintenance: deleting what nothing needs (retention), giving back space, recounting; and the scrub."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from spool.db import sql
from spool.db.connection import PAGE_SIZE
from spool.db.sql import Row
from spool.db.transaction import Operation, Result, Transaction
from spool.db.writer import Writer
from spool.errors import CorruptDatabase
from spool.ownership import CorruptionLatch
from spool.queue.live import LOST_KEEP, LiveCalls, purge_live
from spool.queue.ordering import unblock_stuck
from spool.queue.reader import ReadConnection, Reader
from spool.queue.reclaim import OrphanChunks
from spool.queue.retention import (
    DEAD,
    DELIVERIES_PER_STEP,
    QUEUED,
    ROWS_PER_STEP,
    Retention,
    Rule,
    Shredder,
    expire_old,
    purge_excess_receipts,
    purge_old_receipts,
    rules,
)
from spool.queue.traces import purge_traces
from spool.queue.uploads import UploadAddresses
from spool.records import Clock, Delivery, DeliveryState, Lane
from spool.space import Quota

EVERY_SECONDS = 5.0
PAGES_PER_STEP = 64
"""1 MiB, about 8 ms. With 256 pages posts beside it took 24 ms (median) and 284 (p99), with 64 and pauses 7 and 90."""
LONGEST_PAUSE_SECONDS = 0.1
KEEP_FREE_BYTES = 64 << 20
"""Free pages up to this are kept for the payloads to come; a page that is given back must be allocated again. On a full
disk none are: only what the disk itself has lets posts in again."""
RECEIPTS_LEAVE = 8
"""Receipts are deleted, the oldest first, where less than this part of the quota is left: they never cost a post."""
USED_UPLOAD_KEEP = 24 * 3600 * 1000
"""Milliseconds for which an upload address that was used is known."""
UNUSED_UPLOAD_KEEP = 60_000
"""For so many milliseconds an upload that comes too late is told so; then its address is not known any more."""
TRACE_KEEP = 3600 * 1000
"""Milliseconds for which a closed trace is remembered: late spans of it are an update of its call."""
RECOUNT_SHARE = 0.01
"""The share of the time for recounts: one that takes 50 ms is made every 5 s, one of 1 s every 100 s."""


def purge_uploads(transaction: Transaction, used_before: int, unused_before: int) -> int:
    """Delete upload addresses that expired before these times, with the tokens that only they use; returns how many."""
    rows = transaction.execute(sql.EXPIRED_UPLOADS, (unused_before, used_before, ROWS_PER_STEP)).fetchall()
    for key_hash, token_id in rows:
        if token_id is not None:
            transaction.tokens.release(token_id)
        transaction.execute(sql.DELETE_UPLOAD, (key_hash,))
    return len(rows)


def vacuum(transaction: Transaction, keep_bytes: int) -> bool:
    """Return a bounded number of free pages to the file system; returns whether there are more than are to be kept."""
    free = transaction.execute("PRAGMA freelist_count").fetchone()[0]
    if free * PAGE_SIZE <= keep_bytes:
        return False
    for _ in range(min(PAGES_PER_STEP, free)):
        # Whatever number it is given, the sqlite3 module steps this statement once, and each step frees one page.
        transaction.execute("PRAGMA incremental_vacuum(1)")
    return True


def scrub_tokens(transaction: Transaction) -> None:
    """Clear what is left of deleted tokens in the database."""
    transaction.tokens.scrub(transaction.connection)


class Maintenance:
    """A task beside the work. Each of its steps is small, and goes through the writer like any post."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        orphans: OrphanChunks,
        retention: Retention,
        clock: Clock,
        announce: Callable[[tuple[Delivery, ...]], None],
        uploads: UploadAddresses,
        live: LiveCalls,
        quota: Quota,
        shredder: Shredder,
    ) -> None:
        self._shredder = shredder
        self._writer = writer
        self._reader = reader
        self._orphans = orphans
        self._most_receipts = retention.receipts_max
        tenants = retention.tenants.items()
        self._expiries = rules(retention.expire_after, {name: each.expire_after for name, each in tenants})
        self._dead_rules = rules(retention.dead_keep, {name: each.dead_keep for name, each in tenants})
        self._receipt_rules = rules(retention.receipts_keep, {name: each.receipts_keep for name, each in tenants})
        self._purged: dict[Rule, int] = {}
        """Before which time each rule left no receipt behind."""
        self._announce = announce
        self._uploads = uploads
        self._live = live
        self._quota = quota
        self._clock = clock
        self._next_recount = 0.0
        self._one_at_a_time = asyncio.Lock()
        self.oldest: Mapping[tuple[str, Lane], int] = {}
        self.oldest_ready: Mapping[tuple[str, Lane], int] = {}
        self.dead_reasons: Mapping[tuple[str, Lane], Mapping[str, int]] = {}
        self.unaccounted = 0
        self._failures: dict[str, str] = {}

    @property
    def failure(self) -> str | None:
        """What could not be done when it was tried last, and why; None when all is well."""
        return "; ".join(self._failures.values()) or None

    async def run(self) -> None:
        """Until cancelled: a round every `EVERY_SECONDS`, and orphan chunks as soon as there are any."""
        loop = asyncio.get_running_loop()
        next_round = loop.time()
        while True:
            await self._attempt("deleting payloads", self._orphans.delete)
            if loop.time() >= next_round:
                next_round = loop.time() + EVERY_SECONDS
                await self.round()
            # Not wait_for: up to Python 3.11 it loses a cancellation that comes together with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_round):
                    await self._orphans.appeared.wait()
            self._orphans.appeared.clear()

    async def round(self) -> None:
        """Everything but orphan chunks, once. What fails keeps nothing else from being done.

        One at a time: each of two would delete as many receipts as are too many.
        """
        async with self._one_at_a_time:
            await self._attempt("giving back space", self._give_back_space)
            await self._attempt("expiring deliveries", self._expire)
            await self._attempt("deleting receipts and upload addresses", self._purge)
            await self._attempt("clearing tokens", self._scrub_tokens)
            await self._attempt("destroying keys", self._shredder.shred_in_time)
            await self._attempt("freeing deliveries", self._unblock_stuck)
            await self.recount()

    async def recount(self) -> None:
        """Read what `stats` shows of what is waited for, and dead, as each round does."""
        await self._attempt("recounting", self._recount)

    async def _attempt(self, what: str, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except Exception as error:  # noqa: BLE001  # shown as `failure`; whatever it is, it is tried again
            self._failures[what] = f"{what} failed: {error}"
        else:
            self._failures.pop(what, None)

    async def _gently(self, step: Operation[Result]) -> Result:
        """Have one step of something long written, and then leave posts as much time as it took."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        result = await self._writer.submit(step)
        await asyncio.sleep(min(loop.time() - started, LONGEST_PAUSE_SECONDS))
        return result

    async def _give_back_space(self) -> None:
        keep = 0 if self._writer.disk.shortage else KEEP_FREE_BYTES
        while await self._gently(partial(vacuum, keep_bytes=keep)):
            continue

    async def _scrub_tokens(self) -> None:
        await self._writer.submit(scrub_tokens)

    async def _expire(self) -> None:
        for states, all_rules in ((QUEUED, self._expiries), (DEAD, self._dead_rules)):
            for rule in all_rules:
                old = True
                while old:
                    now = self._clock()
                    found = await self._reader.open_before(now - rule.keep, rule, states, DELIVERIES_PER_STEP)
                    old = bool(found)
                    if found:
                        operation = partial(
                            expire_old, old=found, states=states, now=now, destinations=self._reader.destinations
                        )
                        self._announce(await self._gently(operation))

    async def _purge(self) -> None:
        now = self._clock()
        too_many = await self._reader.count_receipts() - self._most_receipts
        while too_many > 0:
            deleted = await self._writer.submit(partial(purge_excess_receipts, too_many=too_many))
            too_many -= deleted or too_many
        for rule in self._receipt_rules:
            before = now - rule.keep
            old_receipts = partial(purge_old_receipts, rule=rule, since=self._purged.get(rule, 0), before=before)
            while await self._writer.submit(old_receipts) == ROWS_PER_STEP:
                continue
            self._purged[rule] = before
        while not self._quota.fits(self._quota.limit_bytes // RECEIPTS_LEAVE, self._writer.total_bytes):
            if not await self._gently(partial(purge_excess_receipts, too_many=ROWS_PER_STEP)):
                break
        self._uploads.expire(now)
        old_uploads = partial(purge_uploads, used_before=now - USED_UPLOAD_KEEP, unused_before=now - UNUSED_UPLOAD_KEEP)
        while await self._writer.submit(old_uploads) == ROWS_PER_STEP:
            continue
        old_traces = partial(purge_traces, before=now - TRACE_KEEP, limit=ROWS_PER_STEP)
        while await self._writer.submit(old_traces) == ROWS_PER_STEP:
            continue
        self._live.expire(now - LOST_KEEP)
        old_calls = partial(purge_live, before=now - LOST_KEEP, limit=ROWS_PER_STEP)
        while await self._writer.submit(old_calls) == ROWS_PER_STEP:
            continue

    async def _unblock_stuck(self) -> None:
        for (destination_id, lane), counts in self._writer.counters.image.items():
            if counts.waiting:
                await self._writer.submit(partial(unblock_stuck, destination_id=destination_id, lane=lane))

    async def _recount(self) -> None:
        """Read what `stats` shows: the oldest of each lane, why some are dead, and whether the counters are right."""
        oldest, ready, reasons = {}, {}, {}
        for (destination_id, lane), counts in self._writer.counters.image.items():
            key = (self._reader.destinations.names[destination_id], lane)
            by_state = await self._reader.oldest(destination_id, lane)
            if by_state:
                oldest[key] = min(by_state.values())
            if DeliveryState.READY in by_state:
                ready[key] = by_state[DeliveryState.READY]
            if counts.dead:
                reasons[key] = await self._reader.dead_reasons(destination_id, lane)
        self.oldest, self.oldest_ready, self.dead_reasons = oldest, ready, reasons
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next_recount:
            started = loop.time()
            self.unaccounted = unaccounted(await self._reader.recount())
            self._next_recount = loop.time() + (loop.time() - started) / RECOUNT_SHARE


def unaccounted(recount: list[Row]) -> int:
    """Deliveries owed that are neither ended nor among the open ones that were counted, over all lanes.

    Shortages and surpluses add up, so that they cannot hide each other.
    """
    missing: dict[tuple[int, str], int] = {}
    for by_counters, destination_id, lane, count in recount:
        lane_key = destination_id, lane
        missing[lane_key] = missing.get(lane_key, 0) + (count if by_counters else -count)
    return sum(abs(count) for count in missing.values())


# Scrub: the check that runs beside the work, whether the database can still be read, a slice at a time.
#
# It reads what deliveries may not read for a long time, so that corruption is found while a corrupt database holds few
# records, and not on the day on which they are needed. After a fault the database is replaced: see `CorruptionLatch`.

SHARE = 0.02
"""Of the time: 10 GB that are read at 500 MB/s take a thousand seconds."""
SCRUB_EVERY_SECONDS = 3600.0
SCRUB_AGAIN_SECONDS = 60.0
"""After a round that failed."""
CHUNKS_PER_SLICE = 8
"""Up to 8 MiB, some 20 ms."""

TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'chunks' ORDER BY name"
# The frames are read and thrown away: only reading a frame shows that its pages are there. Whether it matches its
# checksum is asked when it is delivered, and a bad one is a matter of its record alone.
NEXT_CHUNKS = "SELECT chunk_id, frame FROM chunks WHERE chunk_id > ? ORDER BY chunk_id LIMIT ?"


class Scrub:
    """Looks at all of the database once an hour, beginning at once. `run` ends only by being cancelled."""

    def __init__(self, path: Path, corruption: CorruptionLatch) -> None:
        self._path = path
        self._corruption = corruption
        self.failure: str | None = None
        """Why the last round did not reach its end; None when it did."""

    async def run(self) -> None:
        """Round after round, with pauses, until corruption was seen. After one that failed comes the next."""
        loop = asyncio.get_running_loop()
        while self._corruption.reason is None:
            next_round = loop.time() + SCRUB_EVERY_SECONDS
            try:
                await self._whole_round()
            except CorruptDatabase as error:
                self._corruption.report(str(error))
                return
            except Exception as error:  # noqa: BLE001  # also where no thread starts; shown, and tried again
                self.failure = f"the background check failed: {error}"
                next_round = loop.time() + SCRUB_AGAIN_SECONDS
            else:
                self.failure = None
            await asyncio.sleep(max(0.0, next_round - loop.time()))

    async def _whole_round(self) -> None:
        connection = await ReadConnection.open(self._path, self._corruption)
        try:
            async for seconds in self.round(connection):
                await asyncio.sleep(seconds / SHARE)
        finally:
            await connection.close()

    async def round(self, connection: ReadConnection) -> AsyncIterator[float]:
        """One slice after the other; gives how many seconds each took. Raises `CorruptDatabase`."""
        loop = asyncio.get_running_loop()
        for (table,) in await connection.ask(TABLES):
            started = loop.time()
            lines = [line for (line,) in await connection.ask(f"PRAGMA quick_check({table})") if line != "ok"]
            if lines:
                raise CorruptDatabase(f"the scrub found corruption in {table}: {lines[0]}")
            yield loop.time() - started
        last = 0
        while True:
            started = loop.time()
            rows = await connection.ask(NEXT_CHUNKS, (last, CHUNKS_PER_SLICE))
            yield loop.time() - started
            if not rows:
                return
            last = rows[-1][0]
