"""`Spool`: the one class of the durable store that others hold.

It accepts records (durable when `accept` returns), hands out what is due, writes what attempts came to, and reads
payloads back. It knows nothing of HTTP, S3 or JSON.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from spool import statements
from spool.acceptance import Acceptance, Stored
from spool.database import connect_writer, migrate, translated
from spool.directory import DATABASE_NAME, DirectoryLock, prepare_directory
from spool.incoming import Incoming, total_chunks
from spool.maintenance import Maintenance, ReceiptLimits
from spool.payloads import FrameWriter, described
from spool.quota import Quota, default_limit
from spool.reading import Reader
from spool.records import (
    Accepted,
    Delivery,
    Due,
    Fragment,
    Lane,
    NewRecord,
    Record,
    Settlement,
    SpoolStats,
    TracedRecord,
    Upload,
)
from spool.settling import Names, Release, Settle, Wake
from spool.writer import CommitObserver, Transaction, Writer

INLINE_BYTES = 32 << 10
"""Smaller payloads are compressed at once (some 10 us each): less than a trip to another thread costs."""
OVERHEAD_BYTES = 1024
"""What a record takes in the spool besides its payload, about."""
RELEASE_STEP = 500
HOUR = 3600 * 1000


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """How a spool is kept. Times in milliseconds, sizes in bytes."""

    directory: Path
    max_bytes: int | None = None
    """The quota; None: what `spool.quota.default_limit` says at the first start."""
    compression_level: int = 1
    duplicate_window: int = 24 * HOUR
    receipts_keep: int = 24 * HOUR
    receipts_max: int = 100_000
    lock_timeout: float = 10.0
    """Seconds to wait for another process that owns the directory."""


class Spool:
    """A spool directory, owned by this process. Made by `open`, ended by `close`."""

    def __init__(
        self,
        options: SpoolOptions,
        clock: Callable[[], int],
        lock: DirectoryLock,
        writer: Writer,
        reader: Reader,
        quota: Quota,
        next_chunk: int,
        warning: str | None,
    ) -> None:
        self.warning = warning
        """What the operator should know about the directory, if anything."""
        self._options = options
        self._clock = clock
        self._lock = lock
        self._writer = writer
        self._reader = reader
        self._quota = quota
        self._next_chunk = next_chunk
        self._frame_writer = FrameWriter(options.compression_level)
        self._compressors = ThreadPoolExecutor(2, thread_name_prefix="spool-compress")
        receipts = ReceiptLimits(options.receipts_keep, options.receipts_max)
        self._maintenance = Maintenance(writer, reader, receipts, clock, upload_keep=24 * HOUR)
        self._maintaining = asyncio.create_task(self._maintenance.run(), name="spool-maintenance")

    @classmethod
    async def open(
        cls, options: SpoolOptions, destinations: Iterable[str], clock: Callable[[], int], observer: CommitObserver
    ) -> "Spool":
        """Take the directory, bring its schema up to date, and be ready for posts.

        Takes as long with a million records waiting as with none: nothing is counted or scanned. Raises
        `UnsuitableDirectory`, `SpoolLocked`, `SchemaTooNew`, `CorruptDatabase` or `SpoolUnavailable`.
        """
        warning = prepare_directory(options.directory)
        lock = DirectoryLock(options.directory)
        await asyncio.to_thread(lock.acquire, options.lock_timeout)
        try:
            path = options.directory / DATABASE_NAME
            start = await asyncio.to_thread(_prepare, path, options, tuple(destinations))
            reader = await Reader.open(path, start.names)
            writer = Writer(path, asyncio.get_running_loop(), observer)
        except BaseException:
            lock.release()
            raise
        return cls(options, clock, lock, writer, reader, Quota(start.limit_bytes), start.next_chunk, warning)

    async def close(self) -> None:
        """Write what was submitted and give the directory back."""
        self._maintaining.cancel()
        await asyncio.gather(self._maintaining, return_exceptions=True)
        self._compressors.shutdown(wait=False)
        await self._reader.close()
        await self._writer.close()
        self._lock.release()

    # Intake ----------------------------------------------------------------------------------------------------

    async def accept(self, new: NewRecord) -> Accepted:
        """Make a record durable, with the deliveries that it owes, or recognise it as a duplicate.

        When this returns, the commit that holds the record has been fsynced. Raises `SpoolFull` or
        `SpoolUnavailable`; then nothing of the record is kept.
        """
        if new.raw_bytes <= INLINE_BYTES:
            return await self._accept_small(new)
        return await self._accept_large(new)

    async def _accept_small(self, new: NewRecord) -> Accepted:
        frames, fragments = [], {}
        for fragment, pieces in new.fragments.items():
            own = list(self._frame_writer.frames(pieces))
            fragments[fragment] = described(own)
            frames += own
        first = self._reserve_chunks(len(frames))
        return await self._commit(new, Stored(first, first, frames, fragments, loose=False))

    async def _accept_large(self, new: NewRecord) -> Accepted:
        loop = asyncio.get_running_loop()
        first = self._reserve_chunks(total_chunks(new.fragments))
        incoming = Incoming.of(new.fragments, first, self._options.compression_level)
        promised = 0
        self._maintenance.incoming.add(first)
        try:
            batch, last = await loop.run_in_executor(self._compressors, incoming.next_batch)
            while not last:
                byte_count = sum(len(frame.data) for frame in batch)
                self._quota.promise(byte_count, self.used_bytes)
                promised += byte_count
                await self._writer.submit(incoming.add_batch(batch), byte_count)
                self._quota.settle(byte_count)
                promised -= byte_count
                batch, last = await loop.run_in_executor(self._compressors, incoming.next_batch)
            return await self._commit(new, incoming.stored(batch))
        finally:
            self._quota.settle(promised)
            self._maintenance.incoming.discard(first)
            if incoming.loose:
                self._maintenance.chunks_are_loose()

    async def _commit(self, new: NewRecord, stored: Stored) -> Accepted:
        byte_count = sum(len(frame.data) for frame in stored.frames)
        promised = byte_count + OVERHEAD_BYTES
        self._quota.promise(promised, self.used_bytes)
        now = self._clock()
        operation = Acceptance(
            new,
            stored,
            self._reader.names.spool_id,
            self._reader.names.ids,
            now,
            now - self._options.duplicate_window,
        )
        try:
            return await self._writer.submit(operation, byte_count)
        finally:
            self._quota.settle(promised)

    def promise_staging(self, byte_count: int) -> None:
        """Count `byte_count` bytes of a staging file in the quota, or raise `SpoolFull`."""
        self._quota.promise(byte_count, self.used_bytes)

    def settle_staging(self, byte_count: int) -> None:
        """That many bytes of staging files are gone."""
        self._quota.settle(byte_count)

    def _reserve_chunks(self, count: int) -> int:
        first = self._next_chunk
        self._next_chunk += count
        return first

    # Upload addresses ------------------------------------------------------------------------------------------

    async def register_upload(
        self, key_hash: bytes, s3_key: str, call_id: str, token: str | None, expires_at: int
    ) -> None:
        """Remember an address that is given to an agent; durable when this returns."""

        def add(transaction: Transaction) -> None:
            token_id = transaction.tokens.use(transaction.connection, token) if token else None
            transaction.execute(statements.ADD_UPLOAD, (key_hash, s3_key, call_id, token_id, expires_at))

        await self._writer.submit(add)

    async def find_upload(self, key_hash: bytes) -> Upload | None:
        """The address whose key has this hash; None when there is none, or it expired a day ago."""
        return await self._reader.upload(statements.READ_UPLOAD_BY_HASH, key_hash)

    async def find_upload_by_s3_key(self, s3_key: str) -> Upload | None:
        """The address that was given with this object key."""
        return await self._reader.upload(statements.READ_UPLOAD_BY_S3_KEY, s3_key)

    # Queue and payloads (uploaders.uploader.Queue and PayloadReader) -------------------------------------------

    async def due(self, destination: str, lane: Lane, *, now: int, limit: int) -> Due:
        """The oldest `limit` deliveries that may be sent now, in commit order."""
        return await self._reader.due(self._reader.names.ids[destination], lane, now=now, limit=limit)

    async def settle(self, delivery: Delivery, settlement: Settlement) -> tuple[Delivery, ...]:
        """Write what an attempt did; returns, once that is durable, the deliveries that it freed."""
        freed = await self._writer.submit(Settle(delivery, settlement, self._reader.names, self._clock()))
        if sum(fragment.chunks for fragment in delivery.record.fragments.values()) > 1:
            self._maintenance.chunks_are_loose()
        return freed

    async def release(
        self, destination: str, token_id: int | None, *, limit: int | None = None
    ) -> tuple[Delivery, ...]:
        """Free what was held for this token, the oldest first; returns the first of the freed ones."""
        first: tuple[Delivery, ...] = ()
        left = limit
        while left is None or left > 0:
            step = RELEASE_STEP if left is None else min(left, RELEASE_STEP)
            count, freed = await self._writer.submit(Release(destination, token_id, step, self._reader.names))
            first = first or freed
            if count < step:
                break
            left = None if left is None else left - count
        return first

    async def wake(self, destination: str, *, now: int) -> None:
        """Make every delivery that is ready but not yet due, due now."""
        await self._writer.submit(Wake(self._reader.names.ids[destination], now))

    def frames(self, record: Record, fragment: Fragment) -> AsyncIterator[bytes]:
        """The stored zstd frames of a fragment, verified; raises `CorruptPayload`."""
        return self._reader.frames(record, fragment)

    async def token(self, token_id: int) -> str | None:
        """The agent's own token by its id; None once it was overwritten."""
        return await self._reader.token(token_id)

    # What people and metrics ask -------------------------------------------------------------------------------

    async def trace(self, call_id: str) -> tuple[TracedRecord, ...]:
        """The newest 256 records of a call, receipts included, the oldest first."""
        return await self._reader.trace(call_id)

    @property
    def used_bytes(self) -> int:
        """Pages in use and write-ahead log. Free pages of the database are used again and do not count."""
        return self._writer.used_bytes + self._writer.log_bytes

    def stats(self) -> SpoolStats:
        """The spool at this moment, from memory."""
        names = self._reader.names.names
        lanes = {
            (names[destination_id], lane): counts
            for (destination_id, lane), counts in self._writer.transaction.counters.image.items()
        }
        oldest = {key: at for key, at in self._maintenance.oldest.items() if lanes[key].queued}
        return SpoolStats(
            self.used_bytes,
            self._quota.limit_bytes,
            lanes,
            oldest,
            self._maintenance.unaccounted,
            self._writer.failure,
        )


@dataclass(frozen=True, slots=True)
class _Start:
    names: Names
    limit_bytes: int
    next_chunk: int


def _prepare(path: Path, options: SpoolOptions, destinations: tuple[str, ...]) -> _Start:
    """Bring the database up to date and read what a start needs; a handful of look-ups, whatever it holds."""
    path.touch(0o600)
    with translated(f"opening the spool {path}"):
        connection = connect_writer(path)
        try:
            migrate(connection)
            limit_bytes = options.max_bytes or default_limit(options.directory)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(statements.WRITE_META, ("spool_id", secrets.token_hex(4)))
            connection.execute(statements.WRITE_META, ("limit_bytes", limit_bytes))
            connection.executemany(statements.ADD_DESTINATION, [(name,) for name in destinations])
            connection.execute("COMMIT")
            spool_id = connection.execute(statements.READ_META, ("spool_id",)).fetchone()[0]
            first_limit = connection.execute(statements.READ_META, ("limit_bytes",)).fetchone()[0]
            names = dict(connection.execute(statements.ALL_DESTINATIONS).fetchall())
            last_chunks = [
                connection.execute(statement).fetchone()[0] or 0
                for statement in (statements.LAST_CHUNK, statements.LAST_LOOSE_CHUNK)
            ]
        finally:
            connection.close()
    ids = {name: destination_id for destination_id, name in names.items()}
    return _Start(Names(spool_id, ids, names), options.max_bytes or first_limit, max(last_chunks) + 1)
