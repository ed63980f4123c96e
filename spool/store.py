"""`Spool`: the one class of the durable store that others hold.

It accepts records (durable when `accept` returns), hands out what is due, writes the outcome of attempts, and reads
payloads back. It knows nothing of HTTP, S3 or JSON.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from spool.admin.commands import QueueAdmin
from spool.admin.erasure import CallErasures
from spool.admin.query import Selection
from spool.admin.rekey import Rekeying
from spool.db import sql
from spool.db.connection import translated
from spool.db.startup import Start, open_or_replace
from spool.db.writer import CommitObserver, Writer
from spool.directory import DATABASE_NAME
from spool.errors import SpoolError
from spool.keys import KeyRing, SpoolKeys, require_keys
from spool.ownership import SpoolDirectory
from spool.payload.frames import PayloadCache
from spool.queue.accept import Acceptance
from spool.queue.ingest import Ingest, WritesInFlight
from spool.queue.live import LiveCalls
from spool.queue.maintenance import Maintenance, Scrub
from spool.queue.reader import Reader
from spool.queue.reclaim import Evictor, OrphanChunks
from spool.queue.retention import Retention, Shredder
from spool.queue.settle import UploaderState, make_due, record_chunks, release, settle
from spool.queue.traces import Traces
from spool.queue.uploads import UploadAddresses
from spool.records import (
    Accepted,
    BreakerUpdate,
    Clock,
    Delivered,
    Delivery,
    DeliveryKey,
    Due,
    Form,
    Fragment,
    Lane,
    NewRecord,
    OfTenant,
    Outline,
    Record,
    Redirect,
    Settlement,
    Upload,
    WhenFull,
)
from spool.salvage.importer import ImportTarget
from spool.salvage.service import SalvageService
from spool.space import DiskSpace, Quota, TenantLimits, TenantShares, headroom_bytes, make_room_to_open, reserve_of
from spool.stats import CallFilter, CallPage, FailedAttempt, SpoolStats, TenantUse, TracedRecord

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
    """Deliveries of records older than this are given up, counted anew from a replay or reroute; None: never."""
    dead_keep: int | None = None
    """The same of dead letters."""
    receipts_keep: int = 24 * HOUR
    receipts_max: int = 100_000
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict)
    """Every tenant that is known, with its own limits; where there are any, a start reads every open record."""
    refuse_erased: int | None = 30 * 24 * HOUR
    """How long posts of calls that were erased are refused; None: they are accepted."""
    erase_freed: bool = False
    """Whether what is deleted is overwritten in the database, too, and not only let go of."""
    keys: KeyRing = field(default_factory=KeyRing)
    """What payloads and tokens are encrypted with; without a key they are not."""
    lock_timeout: float = 10.0
    """Seconds to wait for another process that owns the directory."""

    @property
    def retention(self) -> Retention:
        """How long what nobody needs any more is kept."""
        return Retention(self.expire_after, self.dead_keep, self.receipts_keep, self.receipts_max, self.tenants)


ROWS_PER_STEP = 500
"""Large changes to the queue are written in transactions of so many deliveries."""


class Spool:
    """A spool directory, owned by this process. Made by `open`, ended by `close`."""

    directory: SpoolDirectory
    """The directory, its quarantine, and whether corruption was seen in the database."""
    reader: Reader
    """Reads: traces, upload addresses, calls that are live."""
    listener: Callable[[tuple[Delivery, ...]], None] | None = None
    """Called, on the event loop, with deliveries that may be sent: those of each new record, and what an expiry or
    an order freed."""
    evictor: Evictor
    """Evicts details for what does not fit, where the options want that."""
    live: LiveCalls
    """Calls that are going on, by their heartbeats and turns."""
    traces: Traces
    """Spans of calls that are still going on."""
    uploader_state: UploaderState
    """What uploaders keep through restarts: open circuit breakers, and the progress of multipart uploads."""
    admin: QueueAdmin
    """What operators ask and order about deliveries that have not ended."""
    erasures: CallErasures
    """Takes all of a call out, and knows which calls that were."""
    rekeying: Rekeying
    """Brings everything under the current main key."""
    salvage: SalvageService
    """Imports what other databases hold."""

    def __init__(
        self, options: SpoolOptions, clock: Clock, directory: SpoolDirectory,
        start: Start, reader: Reader, writer: Writer,
    ) -> None:  # fmt: skip
        self._options = options
        self._clock = clock
        self._writer = writer
        self.directory = directory
        self.reader = reader
        self._destinations = destinations = reader.destinations
        announce = self._announce

        # The quota, and what makes room.
        reserve = reserve_of(start.limit_bytes, options.reserve_for_cores)
        self._quota = quota = Quota(start.limit_bytes, reserve, self._longest_wait)
        self._shares = shares = TenantShares(options.tenants, start.limit_bytes, lambda: writer.tenant_bytes)
        self._orphans = orphans = OrphanChunks(writer)
        self._shredder = Shredder(writer, destinations.spool_id, asyncio.get_running_loop().time)
        self._evicts = options.when_full is WhenFull.EXPIRE_DETAILS
        self.evictor = Evictor(writer, quota, destinations, orphans, clock, announce)

        # What comes in.
        self._cache = PayloadCache()
        self._uploads = UploadAddresses(writer, quota)
        in_flight = WritesInFlight()
        self.live = LiveCalls(writer, reader, quota, shares, clock, in_flight)
        self.traces = Traces(writer, reader, quota, shares, clock, in_flight)
        self._ingest = Ingest(
            writer, quota, orphans, destinations, clock, next_chunk=start.next_chunk,
            compression_level=options.compression_level, duplicate_window=options.duplicate_window,
            accepted=self._accepted, evictor=self.evictor if self._evicts else None, shares=shares,
            in_flight=in_flight,
        )  # fmt: skip

        # What uploaders keep, and what operators order.
        self.uploader_state = UploaderState(writer, destinations)
        self.admin = QueueAdmin(writer, reader, clock, announce, orphans)
        self.erasures = CallErasures(
            writer, reader, self.admin, self.live, orphans, clock, options.refuse_erased, self._shredder, in_flight
        )
        self.rekeying = Rekeying(writer, reader, destinations.spool_id)
        target = ImportTarget(
            writer, quota, destinations, self._ingest, orphans, clock, announce, self.traces, self.live, in_flight,
            self.is_erased,
        )  # fmt: skip
        self.salvage = SalvageService(target, directory)

        # What runs in the background.
        self._maintenance = Maintenance(
            writer, reader, orphans, options.retention, clock, announce, self._uploads, self.live, quota, self._shredder
        )
        self._scrub = Scrub(directory.path / DATABASE_NAME, directory.corruption)
        self._maintaining = asyncio.create_task(self._maintenance.run(), name="spool-maintenance")
        self._scrubbing = asyncio.create_task(self._scrub.run(), name="spool-scrub")

    @classmethod
    async def open(
        cls, options: SpoolOptions, destinations: Iterable[str], clock: Clock, observer: CommitObserver
    ) -> "Spool":
        """Own the directory, bring its schema up to date, and be ready for posts.

        Takes as long with a million records waiting as with none: nothing is counted or scanned. A corrupt database is
        moved into quarantine, and a new one made. Raises `UnsuitableDirectory`, `SpoolLocked`, `SchemaTooNew`,
        `KeyUnavailable` or `SpoolUnavailable`; then nothing is left open or owned.
        """
        path = options.directory / DATABASE_NAME
        directory = await SpoolDirectory.acquire(options.directory, options.lock_timeout)
        keys = SpoolKeys()
        try:
            require_keys(directory.path, options.keys)
            make_room_to_open(directory.path)
            start = await asyncio.to_thread(open_or_replace, path, options.max_bytes, tuple(destinations), clock())
            directory.refresh()
            with translated(f"opening the keys of the spool {path}"):
                keys = await asyncio.to_thread(SpoolKeys.open, directory.path, options.keys, needed=start.encrypted)
            reader = await Reader.open(path, start.destinations, directory.corruption, keys)
            try:
                with translated(f"opening the spool {path} for writing"):
                    disk = DiskSpace(directory.path, headroom_bytes(directory.path, start.limit_bytes))
                    writer = Writer(
                        path,
                        asyncio.get_running_loop(),
                        observer,
                        disk,
                        directory.corruption,
                        options.compression_level,
                        start.log_cap_bytes,
                        keys,
                        erase_freed=options.erase_freed,
                        counts_tenants=bool(options.tenants),
                    )
            except BaseException:
                await reader.close()
                raise
        except BaseException:
            keys.close()
            await directory.release(clock())
            raise
        spool = cls(options, clock, directory, start, reader, writer)
        try:
            await spool.erasures.open()
        except BaseException:
            await spool.close()
            raise
        return spool

    async def close(self) -> None:
        """Write what was submitted and give the directory back; a large payload on its way in is refused.

        A database in which corruption was seen is moved into quarantine.
        """
        for task in (self._maintaining, self._scrubbing):
            task.cancel()
        await asyncio.gather(self._maintaining, self._scrubbing, return_exceptions=True)
        await asyncio.to_thread(self._ingest.close)
        with suppress(SpoolError):  # the next start shreds what this one cannot
            await self._shredder.shred(unused=True)
        try:
            await self.reader.close()
        finally:
            await self._writer.close()
            self._writer.keys.close()
            await self.directory.release(self._clock())

    # Intake ----------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The random id of this spool: it begins the name of every record, and marks what its gateway sends."""
        return self._destinations.spool_id

    async def accept(self, new: NewRecord) -> Accepted:
        """Make a record durable, with the deliveries that it owes, or recognise it as a duplicate.

        When this returns, the commit that holds the record has been fsynced. Raises `SpoolFull` or
        `SpoolUnavailable`; then nothing of the record is kept.
        """
        accepted = await self._ingest.accept(new)
        if new.upload_key_hash is not None:
            self._uploads.used(new.upload_key_hash)
        if new.ends_call and (new.call_id, new.principal) in self.live.calls:
            self.live.ended(new.call_id, new.principal, new.happened_at)
        if new.loses is not None:
            self.live.lost(new.loses)
        return accepted

    def is_erased(self, call_id: str, principal: str, agent_id: str | None) -> bool:
        """Whether what this principal posts of this call, and agent, is refused, because it was erased."""
        return bool(self.erasures.known) and self.erasures.refuses(call_id, principal, agent_id)

    def _accepted(self, acceptance: Acceptance) -> None:
        ready = acceptance.accepted.ready
        readers = sum([one.lane is Lane.CORE and one.form is not Form.NOTICE for one in ready])
        if readers and acceptance.stored is not None:
            self._cache.keep(ready[0].record.record_id, acceptance.stored, readers)
        self._announce(ready)

    def reserve_staging(self, byte_count: int) -> None:
        """Count so many bytes of a staging file in the quota, or raise `SpoolFull`. Nothing is evicted for them."""
        self._quota.stage(byte_count, self.used_bytes)

    async def can_make_staging_room(self, byte_count: int) -> bool:
        """Whether a body of so many bytes could be staged and accepted, if details may be evicted for it."""
        return self._evicts and await self.evictor.can_make_room(_staged_and_stored(byte_count), core=False)

    async def make_staging_room(self, byte_count: int, rest: int) -> None:
        """Evict details for so many bytes that came, if that may be, and suffices for `rest` more of them as well."""
        if self._evicts:
            await self.evictor.make_room(
                byte_count, core=False, rest=_staged_and_stored(byte_count + rest) - byte_count
            )

    def release_staging(self, byte_count: int) -> None:
        """So many bytes of staging files were removed."""
        self._quota.unstage(byte_count)

    async def recount(self) -> None:
        """Have `stats` show at once what maintenance reads once a round: ages, reasons of dead letters."""
        await self._maintenance.recount()

    def _longest_wait(self) -> int | None:
        """For how many milliseconds the oldest record that is still owed has waited, as maintenance saw last."""
        oldest = min(self._maintenance.oldest.values(), default=None)
        return None if oldest is None else max(0, self._clock() - oldest)

    def _announce(self, ready: tuple[Delivery, ...]) -> None:
        if self.listener is not None:
            self.listener(ready)

    # Upload addresses ------------------------------------------------------------------------------------------

    async def register_upload(
        self, key_hash: bytes, s3_key: str, call_id: str, token: str | None, expires_at: int
    ) -> None:
        """Remember an address that is given to an agent; durable when this returns. Of very many the oldest goes."""
        await self._uploads.add(key_hash, s3_key, call_id, token, expires_at)

    async def find_upload(self, key_hash: bytes) -> Upload | None:
        """The address whose key has this hash; None when there is none, or it expired a day ago."""
        return await self.reader.upload(sql.READ_UPLOAD_BY_HASH, key_hash)

    async def find_upload_by_s3_key(self, s3_key: str) -> Upload | None:
        """The address that was given with this object key."""
        return await self.reader.upload(sql.READ_UPLOAD_BY_S3_KEY, s3_key)

    # Queue and payloads (uploaders.base.Queue and PayloadReader) -------------------------------------------

    async def due(
        self, destination: str, lane: Lane, *, now: int, limit: int, of_tenant: OfTenant | None = None
    ) -> Due:
        """The oldest `limit` deliveries that may be sent now, in commit order; of one tenant, or of all."""
        destination_id = self._destinations.ids[destination]
        return await self.reader.due(destination_id, lane, now=now, limit=limit, of_tenant=of_tenant)

    async def settle(
        self, delivery: Delivery, settlement: Settlement, breaker: BreakerUpdate | None = None, took: int | None = None
    ) -> tuple[Delivery, ...]:
        """Write what an attempt did, also to its destination's breaker, in one transaction; it `took` milliseconds.

        Returns, once that is durable, the deliveries that it freed.
        """
        operation = partial(
            settle,
            delivery=delivery,
            settlement=settlement,
            breaker=breaker,
            destinations=self._destinations,
            now=self._clock(),
            took=took,
        )
        freed = await self._writer.submit(operation, record_id=delivery.record.record_id)
        if isinstance(settlement, Delivered | Redirect) and record_chunks(delivery.record) > 1:
            self._orphans.appeared.set()
        return freed

    async def release(
        self, destination: str, token_id: int | None, *, limit: int | None = None
    ) -> tuple[Delivery, ...]:
        """Free what was held for this token, the oldest first; returns the first of the freed ones."""
        destination_id = self._destinations.ids[destination]
        first: tuple[Delivery, ...] = ()
        left = limit
        while left is None or left > 0:
            step = ROWS_PER_STEP if left is None else min(left, ROWS_PER_STEP)
            operation = partial(
                release,
                destination_id=destination_id,
                token_id=token_id,
                limit=step,
                destinations=self._destinations,
            )
            count, freed = await self._writer.submit(operation)
            first = first or freed
            if count < step:
                break
            left = None if left is None else left - count
        return first

    async def held_tokens(self, destination: str) -> tuple[int | None, ...]:
        """The tokens for which deliveries are held; None for the token that all deliveries there share."""
        return await self.reader.held_tokens(self._destinations.ids[destination])

    async def revive(self, destination: str, *, since: int, refused: Callable[[str], bool]) -> tuple[Delivery, ...]:
        """Put back dead letters that became some since then for a reason of which `refused` holds, as if never tried.

        Returns those that may be sent now.
        """
        await self._writer.submit(lambda _transaction: None)  # behind the settlements that are still to be written
        wanted = Selection(destination=destination, since=since)
        keys: list[DeliveryKey] = []
        after: DeliveryKey | None = None
        while True:
            page = await self.admin.find(wanted, limit=ROWS_PER_STEP, after=after)
            keys += [one.key for one in page.found if refused(one.delivery.error or "")]
            after = page.next
            if after is None:
                break
        return (await self.admin.replay(keys)).ready

    async def make_due(self, destination: str, *, now: int) -> None:
        """Make every delivery due now that was deferred until its destination accepts deliveries again."""
        destination_id = self._destinations.ids[destination]
        for lane in Lane:
            first: int | None = 0
            while first is not None:
                operation = partial(
                    make_due, destination_id=destination_id, lane=lane, now=now, first=first, limit=ROWS_PER_STEP
                )
                first = await self._writer.submit(operation)

    def frames(self, record: Record, fragment: Fragment) -> AsyncIterator[bytes]:
        """The stored frames of a fragment, verified; raises `CorruptPayload`."""
        return self._cache.take(record.record_id, fragment) or self.reader.frames(record, fragment)

    async def token(self, token_id: int) -> str | None:
        """The agent's own token by its id; None once it was overwritten."""
        known = self._writer.tokens.value_of(token_id)
        return await self.reader.token(token_id) if known is None else known

    # What people and metrics ask -------------------------------------------------------------------------------

    async def trace(self, call_id: str) -> tuple[TracedRecord, ...]:
        """The newest 256 records of a call, receipts included, the oldest first."""
        return await self.reader.trace(call_id)

    async def similar_call_ids(self, call_id: str) -> tuple[str, ...]:
        """Call ids that somebody may have meant who typed this one, the nearest first."""
        return await self.reader.similar_call_ids(call_id)

    async def newest(self, after: int, limit: int) -> tuple[TracedRecord, ...]:
        """The newest `limit` records whose number is above `after`, receipts included, the oldest first."""
        return await self.reader.newest(after, limit)

    async def recent_attempts(self, destination: str, limit: int) -> list[FailedAttempt]:
        """The latest attempts that failed at a destination, among those of the newest records; the latest first."""
        return await self.reader.recent_attempts(destination, limit)

    async def agents(self, tenant: str | None) -> list[str]:
        """The agents of the newest records, of one tenant or of all."""
        return await self.reader.agents(tenant)

    async def outline(self, record_id: int) -> Outline:
        """What lists show of a record besides."""
        return await self.reader.outline(record_id)

    async def calls(self, wanted: CallFilter, limit: int) -> CallPage:
        """A page of calls, the newest first, receipts included."""
        return await self.reader.calls(wanted, limit)

    def tenant_use(self, tenant: str) -> TenantUse:
        """What a tenant has here, and what holds for it: read from memory."""
        own, options = self._options.tenants.get(tenant, TenantLimits()), self._options
        return TenantUse(
            self._writer.tenant_bytes.get(tenant, 0),
            self._shares.limit_of(tenant),
            options.receipts_keep if own.receipts_keep is None else own.receipts_keep,
            options.expire_after if own.expire_after is None else own.expire_after,
        )

    @property
    def used_bytes(self) -> int:
        """Pages in use, write-ahead log and headroom. Free pages of the database are used again and do not count."""
        return self._writer.total_bytes

    @property
    def maintenance_failure(self) -> str | None:
        """What the spool could not do for itself when it tried last, and why: it may grow, or stats may be old."""
        return "; ".join(filter(None, (self._maintenance.failure, self._scrub.failure))) or None

    def stats(self) -> SpoolStats:
        """The spool at this moment, from memory."""
        names = self._destinations.names
        image = self._writer.counters.image
        lanes = {(names[destination], lane): counts for (destination, lane), counts in image.items()}
        oldest = {key: at for key, at in self._maintenance.oldest.items() if lanes[key].queued}
        return SpoolStats(
            self.used_bytes + self._quota.staged_bytes,
            self._quota.limit_bytes,
            lanes,
            oldest,
            self._maintenance.unaccounted,
            self.directory.corruption.reason or self._writer.failure,
            self._writer.disk.shortage,
            self._quota.reserve_bytes,
            {key: reasons for key, reasons in self._maintenance.dead_reasons.items() if lanes[key].dead},
            self.directory.quarantined,
            {key: at for key, at in self._maintenance.oldest_ready.items() if lanes[key].ready},
        )


def _staged_and_stored(byte_count: int) -> int:
    """What a body of so many bytes takes: its staging file, and what is stored of it, in the log and the database."""
    return byte_count + byte_count // 2
