"""Ingest: payloads are compressed, given room in the quota, and written; large ones in bounded transactions.

A payload that compresses to at most `GROUP_HEAVY_BYTES` is written in the transaction that accepts its record. A
larger one is written batch by batch before that, in a range of chunks that is registered as orphaned, so that a crash
leaves nothing that would have to be searched for.
"""

import asyncio
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from spool.db import sql
from spool.db.transaction import Result, Transaction
from spool.db.writer import GROUP_HEAVY_BYTES, Writer
from spool.errors import SpoolFull, SpoolUnavailable
from spool.payload.frames import Frame, FrameEncoder, Seal, SmallPayload, StoredPayload, chunk_count, places
from spool.queue.accept import Acceptance, accept, require_orphans, write_frames
from spool.queue.reclaim import Evictor, OrphanChunks
from spool.records import Accepted, Buffer, Clock, DestinationIds, Fragment, Lane, NewRecord, StoredFragment
from spool.space import Quota, QuotaReservation, TenantShares


@dataclass(slots=True)
class Incoming:
    """One payload, compressed a batch at a time. `next_batch` may run in any thread, one call at a time."""

    first_chunk: int
    chunks: int
    raw_bytes: int
    frames: Generator[tuple[Fragment, Frame], None, None]
    sizes: dict[Fragment, list[int]]
    """Chunks, raw bytes and stored bytes of each fragment, in the order of chunks, as far as they are compressed."""
    seal: Seal | None = None
    """What its frames are sealed with, if they are."""
    orphaned: bool = False
    """Whether some of it is in the spool already, as orphan chunks."""
    _written: int = 0

    @classmethod
    def of(
        cls, fragments: Mapping[Fragment, Sequence[Buffer]], first_chunk: int, level: int, *, sealing: bool
    ) -> "Incoming":
        """The payload of `fragments`, whose chunks begin at `first_chunk`."""
        sizes = {fragment: [0, 0, 0] for fragment in fragments}
        raw_bytes = sum([len(piece) for pieces in fragments.values() for piece in pieces])
        seal = Seal.new() if sealing else None
        frames = _frames(fragments, FrameEncoder(level), seal)
        return cls(first_chunk, total_chunks(fragments), raw_bytes, frames, sizes, seal)

    def next_batch(self) -> tuple[list[Frame], bool]:
        """Up to `GROUP_HEAVY_BYTES` of frames, and whether these were the last."""
        batch: list[Frame] = []
        byte_count = 0
        for fragment, frame in self.frames:
            batch.append(frame)
            byte_count += len(frame.data)
            sizes = self.sizes[fragment]
            sizes[0] += 1
            sizes[1] += frame.raw_bytes
            sizes[2] += frame.zstd_bytes
            if byte_count >= GROUP_HEAVY_BYTES:
                break
        return batch, sum(sizes[0] for sizes in self.sizes.values()) == self.chunks

    @property
    def expected_bytes(self) -> int:
        """How many bytes are still to come behind what is compressed, if that compresses as well as this did."""
        done, stored = (sum(sizes[at] for sizes in self.sizes.values()) for at in (1, 2))
        return (self.raw_bytes - done) * stored // max(1, done)

    def stored(self, last_batch: list[Frame]) -> StoredPayload:
        """The whole payload, of which `last_batch` is still to be written."""
        fragments = {fragment: StoredFragment(*sizes) for fragment, sizes in self.sizes.items()}
        next_chunk, key = self.first_chunk + self._written, None if self.seal is None else self.seal.key
        return StoredPayload(self.first_chunk, next_chunk, last_batch, fragments, self.orphaned, key)

    def close(self) -> None:
        """Let go of the buffers that were given; a mapped file can be unmapped then."""
        self.frames.close()

    def write_batch(self, batch: list[Frame]) -> Callable[[Transaction], None]:
        """The operation that writes a batch which is not the last."""
        whole = (self.first_chunk, self.first_chunk + self.chunks - 1)
        operation = partial(
            write_orphans,
            first_chunk=self.first_chunk + self._written,
            frames=batch,
            whole=whole,
            register=not self.orphaned,
        )
        self._written += len(batch)
        self.orphaned = True
        return operation


def write_orphans(
    transaction: Transaction, first_chunk: int, frames: Sequence[Frame], whole: tuple[int, int], *, register: bool
) -> None:
    """Write frames of a payload that is still coming in; the first batch registers the `whole` range as orphans."""
    if register:
        transaction.execute(sql.ADD_ORPHAN_CHUNKS, whole)
    else:
        require_orphans(transaction, whole[0])
    write_frames(transaction, frames, first_chunk)


def total_chunks(fragments: Mapping[Fragment, Sequence[Buffer]]) -> int:
    """How many chunks the raw pieces of all fragments make."""
    return sum(chunk_count(sum(map(len, pieces))) for pieces in fragments.values())


def _frames(
    fragments: Mapping[Fragment, Sequence[Buffer]], encoder: FrameEncoder, seal: Seal | None
) -> Generator[tuple[Fragment, Frame], None, None]:
    position = 0
    for fragment, pieces in fragments.items():
        count = chunk_count(sum(map(len, pieces)))
        for place, frame in zip(places(fragment, count, position), encoder.frames(pieces), strict=True):
            # The zstd frames of a core stay for the cache; details are not kept there.
            yield fragment, seal.seal(frame, place, keep_plain=fragment is not Fragment.REST) if seal else frame
        position += count


INLINE_BYTES = 32 << 10
"""Smaller payloads are compressed in the writer's thread (some 20 us each), which they are given to anyway."""
OVERHEAD_BYTES = 1024
"""What a record takes in the spool besides its payload, about."""


class WritesInFlight:
    """What is on its way into the spool, so that an order to erase its call can wait for it. For the event loop."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Future[None], str | None] = {}

    @contextmanager
    def write(self, call_id: str | None) -> Iterator[None]:
        """Something of this call, None: of any, is written until the block ends."""
        end = asyncio.get_running_loop().create_future()
        self._ends[end] = call_id
        try:
            yield
        finally:
            del self._ends[end]
            end.set_result(None)

    async def finish(self, call_ids: Collection[str]) -> None:
        """Return when all has ended that is in flight now and may be of these calls."""
        found = [end for end, call_id in self._ends.items() if call_id is None or call_id in call_ids]
        if found:
            await asyncio.wait(found)


class Ingest:
    """Accepts records. For the event loop; `close` after the last one."""

    def __init__(
        self,
        writer: Writer,
        quota: Quota,
        orphans: OrphanChunks,
        destinations: DestinationIds,
        clock: Clock,
        *,
        next_chunk: int,
        compression_level: int,
        duplicate_window: int,
        accepted: Callable[[Acceptance], None],
        evictor: Evictor | None,
        shares: TenantShares,
        in_flight: WritesInFlight,
    ) -> None:
        self._writer = writer
        self._quota = quota
        self._orphans = orphans
        self._destinations = destinations
        self._clock = clock
        self._next_chunk = next_chunk
        self._level = compression_level
        self._duplicate_window = duplicate_window
        self._accepted = accepted
        self._evictor = evictor
        """Evicts details for what does not fit; None where everything in the spool stays."""
        self._shares = shares
        self._in_flight = in_flight
        self._compressors = ThreadPoolExecutor(2, thread_name_prefix="spool-compress")

    def close(self) -> None:
        """Wait for what is being compressed; a large payload on its way in is refused."""
        self._compressors.shutdown()

    async def accept(self, new: NewRecord) -> Accepted:
        """See `spool.store.Spool.accept`."""
        byte_count = sum([len(piece) for pieces in new.fragments.values() for piece in pieces])
        if byte_count <= INLINE_BYTES and self._evictor is None:  # the writer has it before anything is awaited
            return await self._commit(new, self._small(new), byte_count)
        with self._in_flight.write(new.call_id):
            if byte_count > INLINE_BYTES:
                return await self._accept_large(new)
            return await self._commit(new, self._small(new), byte_count)

    def _small(self, new: NewRecord) -> SmallPayload:
        return SmallPayload(self._take_chunk_ids(total_chunks(new.fragments)), new.fragments)

    async def _accept_large(self, new: NewRecord) -> Accepted:
        chunks = total_chunks(new.fragments)
        with self.chunk_ids(chunks) as first:
            incoming = Incoming.of(new.fragments, first, self._level, sealing=self._writer.keys.enabled)
            try:
                batch, last = await self._compressed(incoming)
                written = 0
                while not last:
                    byte_count = sum(len(frame.data) for frame in batch)
                    with await self._reserve(byte_count, new, written, incoming.expected_bytes):
                        await self._writer.submit(incoming.write_batch(batch), byte_count)
                    written += byte_count
                    batch, last = await self._compressed(incoming)
                byte_count = sum(len(frame.data) for frame in batch)
                return await self._commit(new, incoming.stored(batch), byte_count, written)
            finally:
                incoming.close()
                if incoming.orphaned:
                    self._orphans.appeared.set()

    async def _compressed(self, incoming: Incoming) -> tuple[list[Frame], bool]:
        try:
            compressing = asyncio.get_running_loop().run_in_executor(self._compressors, incoming.next_batch)
        except RuntimeError as error:
            raise SpoolUnavailable("the spool is closed") from error
        return await uninterrupted(compressing)

    async def _commit(
        self, new: NewRecord, payload: SmallPayload | StoredPayload, byte_count: int, written: int = 0
    ) -> Accepted:
        now = self._clock()
        operation = partial(
            accept,
            new=new,
            payload=payload,
            destinations=self._destinations,
            now=now,
            duplicates_since=now - self._duplicate_window,
        )
        with await self._reserve(byte_count + OVERHEAD_BYTES, new, written):
            small = payload if isinstance(payload, SmallPayload) else None
            committing = self._writer.submit(operation, byte_count, call_id=new.call_id, payload=small)
            try:
                return (await committing).accepted
            finally:
                # What was submitted is committed, whether the sender still waits for it or not.
                if committing.done() and committing.exception() is None:
                    self._accepted(committing.result())

    async def _reserve(self, byte_count: int, new: NewRecord, written: int, rest: int = 0) -> QuotaReservation:
        """Reserve room in the quota; what owes nothing to the detail lane may use the part that is kept for cores.

        `written` bytes of the record are in the spool already, and about `rest` are to follow: nothing is evicted for
        the first part of what will not fit.
        """
        try:
            self._shares.check(new.tenant, written + byte_count + rest)
        except SpoolFull as full:
            full.stored_bytes = written + byte_count
            raise
        core = all(delivery.lane is Lane.CORE for delivery in new.deliveries)
        if not core:
            byte_count *= 2  # it lies in the log and in the database for a while, and must not take the reserve by that
        if self._evictor is not None:
            await self._evictor.make_room(byte_count, core=core, rest=rest)
        try:
            return self._quota.reserve(byte_count, self._writer.total_bytes, core=core)
        except SpoolFull as full:
            full.stored_bytes = written + byte_count
            raise

    @contextmanager
    def chunk_ids(self, count: int) -> Iterator[int]:
        """The first of so many ids for chunks, which are not deleted as orphans while the block lasts."""
        first = self._take_chunk_ids(count)
        with self._orphans.incoming(first):
            yield first

    def _take_chunk_ids(self, count: int) -> int:
        first = self._next_chunk
        self._next_chunk += count
        return first


async def uninterrupted(future: "asyncio.Future[Result]") -> Result:
    """Await what uses the caller's buffers or chunks: when the caller is cancelled, its end is waited for first."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):  # impatience changes nothing: it takes milliseconds
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen, and of interest to nobody any more
        raise
