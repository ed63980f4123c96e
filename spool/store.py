"""`Spool`: the one class of the durable store that others hold.

It accepts records (durable when `accept` returns), hands out what is due, writes what attempts came to, and reads
payloads back. It knows nothing of HTTP, S3 or JSON.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from spool.admin.commands import Orders
from spool.db import sql
from spool.db.connection import translated
from spool.db.startup import Start, open_or_replace
from spool.db.transaction import Operation, Transaction
from spool.db.writer import CommitObserver, Writer
from spool.directory import DATABASE_NAME, Custody
from spool.payload.cache import FreshPayloads
from spool.queue.accept import Taken
from spool.queue.ingest import OVERHEAD_BYTES, Receiver
from spool.queue.maintenance import BackgroundCheck, Maintenance, ReceiptLimits
from spool.queue.reader import Reader
from spool.queue.reclaim import RoomMaker
from spool.queue.settle import MoveOn, Release, Settle, Wake, record_chunks
from spool.queue.uploader_state import BreakerBook, MultipartLedger
from spool.records import (
    Accepted,
    Delivered,
    Delivery,
    Divert,
    Due,
    Fragment,
    Lane,
    NewRecord,
    Record,
    Settlement,
    Upload,
    WhenFull,
)
from spool.salvage.importer import Target
from spool.salvage.service import Salvages
from spool.space import DiskSpace, Quota, headroom_bytes, make_room_to_open, reserve_of
from spool.stats import SpoolStats, TracedRecord

# How a spool is kept.

HOUR = 3600 * 1000
"""Milliseconds."""


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """How a spool is kept. Times in milliseconds, sizes in bytes."""

    directory: Path
    max_bytes: int | None = None
    """The quota; None: what `spool.space.default_limit` says at the first start."""
    reserve_for_cores: int | None = None
    """The part of the quota that large records leave alone; None: what `spool.space.reserve_of` says."""
    when_full: WhenFull = WhenFull.REFUSE
    compression_level: int = 1
    duplicate_window: int = 24 * HOUR
    expire_after: int | None = None
    """Deliveries of records older than this are given up; None: never."""
    receipts_keep: int = 24 * HOUR
    receipts_max: int = 100_000
    lock_timeout: float = 10.0
    """Seconds to wait for another process that owns the directory."""


# What a spool stands on: the directory, the database in it, and the connections; laid in order, or not at all.


@dataclass(frozen=True, slots=True)
class Foundation:
    """The parts, open."""

    custody: Custody
    start: Start
    reader: Reader
    writer: Writer

    @classmethod
    async def lay(
        cls, options: SpoolOptions, destinations: tuple[str, ...], clock: Callable[[], int], observer: CommitObserver
    ) -> "Foundation":
        """Take the directory, open the database or make a new one, and connect; see `Spool.open` for the errors."""
        directory = options.directory
        path = directory / DATABASE_NAME
        custody = await Custody.take(directory, options.lock_timeout)
        try:
            make_room_to_open(directory)
            start = await asyncio.to_thread(open_or_replace, path, options.max_bytes, destinations, clock())
            custody.look()
            reader = await Reader.open(path, start.names, custody.damage)
            try:
                with translated(f"opening the spool {path} for writing"):
                    disk = DiskSpace(directory, headroom_bytes(directory, start.limit_bytes))
                    loop = asyncio.get_running_loop()
                    writer = Writer(
                        path, loop, observer, disk, custody.damage, options.compression_level, start.log_cap_bytes
                    )
            except BaseException:
                await reader.close()
                raise
        except BaseException:
            await custody.give_back(clock())
            raise
        return cls(custody, start, reader, writer)


ROWS_PER_STEP = 500
"""Large orders to the queue are written in transactions of so many deliveries."""


class Spool:
    """A spool directory, owned by this process. Made by `open`, ended by `close`."""

    def __init__(self, options: SpoolOptions, clock: Callable[[], int], foundation: Foundation) -> None:
        custody, start = foundation.custody, foundation.start
        reader, writer = foundation.reader, foundation.writer
        self.custody = custody
        """The directory, and what is known of damage to what lies in it."""
        self.listener: Callable[[tuple[Delivery, ...]], None] | None = None
        """Told, on the event loop, of deliveries that may be sent: of each new record, and what an expiry or an order
        freed."""
        self._clock = clock
        self._writer = writer
        self._reader = reader
        reserve = reserve_of(start.limit_bytes, options.reserve_for_cores)
        self._quota = Quota(start.limit_bytes, reserve, self._waited)
        self._fresh = FreshPayloads()
        receipts = ReceiptLimits(options.receipts_keep, options.receipts_max)
        self._maintenance = Maintenance(
            writer,
            reader,
            receipts,
            clock,
            upload_keep=24 * HOUR,
            expire_after=options.expire_after,
            announce=self._announce,
        )
        self.breakers = BreakerBook(writer, reader.names.ids)
        """Remembers which destinations take no deliveries (uploaders.base.BreakerMemory)."""
        self.ledger = MultipartLedger(writer, reader.names)
        """Remembers how far multipart uploads have come (uploaders.base.Ledger)."""
        self.orders = Orders(writer, reader, clock, self._announce, self._maintenance.chunks_are_loose)
        """What operators ask and decide about deliveries that have not ended."""
        self.room = RoomMaker(writer, self._quota, reader.names, self._maintenance, clock, self._announce)
        """Gives details up for what does not fit, where the options want that."""
        self._receiver = Receiver(
            writer,
            self._quota,
            self._maintenance,
            reader.names,
            clock,
            next_chunk=start.next_chunk,
            compression_level=options.compression_level,
            duplicate_window=options.duplicate_window,
            taken=self._taken,
            room=self.room if options.when_full is WhenFull.EXPIRE_DETAILS else None,
        )
        target = Target(writer, self._quota, reader.names, self._receiver, clock, self._announce)
        self.salvages = Salvages(target, custody)
        """Brings what other databases hold."""
        check = BackgroundCheck(custody.directory / DATABASE_NAME, custody.damage)
        self._maintaining = asyncio.create_task(self._maintenance.run(), name="spool-maintenance")
        self._checking = asyncio.create_task(check.run(), name="spool-check")

    @classmethod
    async def open(
        cls, options: SpoolOptions, destinations: Iterable[str], clock: Callable[[], int], observer: CommitObserver
    ) -> "Spool":
        """Take the directory, bring its schema up to date, and be ready for posts.

        Takes as long with a million records waiting as with none: nothing is counted or scanned. A damaged database is
        moved aside, and a new one made. Raises `UnsuitableDirectory`, `SpoolLocked`, `SchemaTooNew` or
        `SpoolUnavailable`.
        """
        return cls(options, clock, await Foundation.lay(options, tuple(destinations), clock, observer))

    async def close(self) -> None:
        """Write what was submitted and give the directory back; a large payload on its way in is refused.

        A database that was seen to be damaged is moved aside.
        """
        for task in (self._maintaining, self._checking):
            task.cancel()
        await asyncio.gather(self._maintaining, self._checking, return_exceptions=True)
        await self.room.close()
        await asyncio.to_thread(self._receiver.close)
        try:
            await self._reader.close()
        finally:
            await self._writer.close()
            await self.custody.give_back(self._clock())

    # Intake ----------------------------------------------------------------------------------------------------

    async def accept(self, new: NewRecord) -> Accepted:
        """Make a record durable, with the deliveries that it owes, or recognise it as a duplicate.

        When this returns, the commit that holds the record has been fsynced. Raises `SpoolFull` or
        `SpoolUnavailable`; then nothing of the record is kept.
        """
        return await self._receiver.accept(new)

    def _taken(self, taken: Taken) -> None:
        self._fresh.keep(taken)
        self._announce(taken.accepted.ready)

    def promise_staging(self, byte_count: int) -> None:
        """Count `byte_count` bytes of a staging file in the quota, or raise `SpoolFull`.

        Who calls this cannot wait: where details may be given up, that begins, and the sender's next try finds room.
        """
        self._receiver.make_room_soon(byte_count)
        self._quota.stage(byte_count, self.used_bytes)

    def settle_staging(self, byte_count: int) -> None:
        """That many bytes of staging files are gone."""
        self._quota.unstage(byte_count)

    def _waited(self) -> int | None:
        """For how many milliseconds the oldest record that is still owed has waited, as maintenance saw last."""
        oldest = min(self._maintenance.oldest.values(), default=None)
        return None if oldest is None else max(0, self._clock() - oldest)

    def _announce(self, ready: tuple[Delivery, ...]) -> None:
        """Tell whoever delivers."""
        if self.listener is not None:
            self.listener(ready)

    # Upload addresses ------------------------------------------------------------------------------------------

    async def register_upload(
        self, key_hash: bytes, s3_key: str, call_id: str, token: str | None, expires_at: int
    ) -> None:
        """Remember an address that is given to an agent; durable when this returns."""

        def add(transaction: Transaction) -> None:
            """One row, and one more use of the token."""
            token_id = transaction.tokens.use(transaction.connection, token) if token else None
            transaction.execute(sql.ADD_UPLOAD, (key_hash, s3_key, call_id, token_id, expires_at))

        await self._writer.submit(add, OVERHEAD_BYTES)

    async def find_upload(self, key_hash: bytes) -> Upload | None:
        """The address whose key has this hash; None when there is none, or it expired a day ago."""
        return await self._reader.upload(sql.READ_UPLOAD_BY_HASH, key_hash)

    async def find_upload_by_s3_key(self, s3_key: str) -> Upload | None:
        """The address that was given with this object key."""
        return await self._reader.upload(sql.READ_UPLOAD_BY_S3_KEY, s3_key)

    # Queue and payloads (uploaders.base.Queue and PayloadReader) -------------------------------------------

    async def due(self, destination: str, lane: Lane, *, now: int, limit: int) -> Due:
        """The oldest `limit` deliveries that may be sent now, in commit order."""
        return await self._reader.due(self._reader.names.ids[destination], lane, now=now, limit=limit)

    async def settle(self, delivery: Delivery, settlement: Settlement) -> tuple[Delivery, ...]:
        """Write what an attempt did; returns, once that is durable, the deliveries that it freed."""
        names, now = self._reader.names, self._clock()
        operation: Operation[tuple[Delivery, ...]]
        if isinstance(settlement, Divert):
            operation = MoveOn(delivery, settlement, names, now)
        else:
            operation = Settle(delivery, settlement, names, now)
        freed = await self._writer.submit(operation, record_id=delivery.record.record_id)
        if isinstance(settlement, Delivered | Divert) and record_chunks(delivery.record) > 1:
            self._maintenance.chunks_are_loose()
        return freed

    async def release(
        self, destination: str, token_id: int | None, *, limit: int | None = None
    ) -> tuple[Delivery, ...]:
        """Free what was held for this token, the oldest first; returns the first of the freed ones."""
        first: tuple[Delivery, ...] = ()
        left = limit
        while left is None or left > 0:
            step = ROWS_PER_STEP if left is None else min(left, ROWS_PER_STEP)
            count, freed = await self._writer.submit(Release(destination, token_id, step, self._reader.names))
            first = first or freed
            if count < step:
                break
            left = None if left is None else left - count
        return first

    async def held_tokens(self, destination: str) -> tuple[int | None, ...]:
        """The tokens for which deliveries are held; None for the token that all deliveries there share."""
        return await self._reader.held_tokens(self._reader.names.ids[destination])

    async def wake(self, destination: str, *, now: int) -> None:
        """Make every delivery that is ready but not yet due, due now."""
        for lane in Lane:
            first: int | None = 0
            while first is not None:
                wake = Wake(self._reader.names.ids[destination], lane, now, first, ROWS_PER_STEP)
                first = await self._writer.submit(wake)

    def frames(self, record: Record, fragment: Fragment) -> AsyncIterator[bytes]:
        """The stored zstd frames of a fragment, verified; raises `CorruptPayload`."""
        return self._fresh.take(record.record_id, fragment) or self._reader.frames(record, fragment)

    async def token(self, token_id: int) -> str | None:
        """The agent's own token by its id; None once it was overwritten."""
        return await self._reader.token(token_id)

    # What people and metrics ask -------------------------------------------------------------------------------

    async def trace(self, call_id: str) -> tuple[TracedRecord, ...]:
        """The newest 256 records of a call, receipts included, the oldest first."""
        return await self._reader.trace(call_id)

    async def live_calls(self, since: int, limit: int) -> list[tuple[str, int]]:
        """The newest calls that began since then and have not ended, and when they began; the oldest first."""
        return await self._reader.live_calls(since, limit)

    @property
    def used_bytes(self) -> int:
        """Pages in use, write-ahead log and headroom. Free pages of the database are used again and do not count."""
        return self._writer.total_bytes

    @property
    def maintenance_failure(self) -> str | None:
        """What the spool could not do for itself when it tried last, and why: it may grow, or figures may be old."""
        return self._maintenance.failure

    def stats(self) -> SpoolStats:
        """The spool at this moment, from memory."""
        names = self._reader.names.names
        image = self._writer.counters.image
        lanes = {(names[destination], lane): counts for (destination, lane), counts in image.items()}
        oldest = {key: at for key, at in self._maintenance.oldest.items() if lanes[key].queued}
        return SpoolStats(
            self.used_bytes + self._quota.staged_bytes,
            self._quota.limit_bytes,
            lanes,
            oldest,
            self._maintenance.unaccounted,
            self.custody.damage.reason or self._writer.failure,
            self._writer.disk.shortage,
            self._quota.reserve_bytes,
            {key: reasons for key, reasons in self._maintenance.dead_reasons.items() if lanes[key].dead},
            self.custody.asides,
        )
