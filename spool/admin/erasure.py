"""`CallErasures`: takes all of a call out of the spool, and knows for a while which calls those were.

An order is written down before anything is done, with the ids of its calls, so that one that was interrupted can be
finished; afterwards only their keyed hashes stay. Nothing of a call is left in the files in the end: freed pages are
given back to the file system, and the write-ahead log is emptied.
"""

import asyncio
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from spool.admin.commands import KEYS_PER_STEP, QueueAdmin
from spool.db import sql
from spool.db.sql import record_of
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.queue.live import LiveCalls
from spool.queue.maintenance import vacuum
from spool.queue.reader import Reader
from spool.queue.reclaim import OrphanChunks
from spool.queue.retention import delete_receipts
from spool.queue.shred import Shredder
from spool.records import Clock, DeliveryKey, Form, Record

_SALT = "SELECT value FROM meta WHERE name = 'erasure_salt'"
_ALL = "SELECT call_hash, call_id, ordered_at FROM erasures"
_ORDER = (
    "INSERT INTO erasures (call_hash, call_id, ordered_at) VALUES (?, ?, ?) "
    "ON CONFLICT (call_hash) DO UPDATE SET call_id = excluded.call_id, ordered_at = excluded.ordered_at"
)
_DONE = "UPDATE erasures SET call_id = NULL WHERE call_hash = ?"
_FORGET = "DELETE FROM erasures WHERE call_id IS NULL AND ordered_at < ?"
_CALLS_OF_AGENT = (
    "SELECT call_id FROM records WHERE agent_id = ?1 UNION "
    "SELECT coalesce(call_id, lower(hex(trace_id))) FROM traces WHERE agent_id = ?1 UNION "
    "SELECT call_id FROM live_calls WHERE agent_id = ?1"
)
_OPEN_RECORDS = (
    f"SELECT {sql.RECORD_COLUMNS} FROM records r WHERE r.settled_at IS NULL AND r.record_id > ? "
    "ORDER BY r.record_id LIMIT ?"
)
_OPEN_DELIVERIES = (
    "SELECT d.record_id, d.destination_id, d.form FROM deliveries d JOIN records r USING (record_id) "
    "WHERE r.call_id = ? AND d.state <= 3 AND +d.state <= 3 LIMIT ?"
)
_RECEIPTS = "SELECT record_id FROM records WHERE call_id = ? AND settled_at IS NOT NULL LIMIT ?"
_DELIVERED_TO = (
    "SELECT d.destination_id, count(*) FROM deliveries d JOIN records r USING (record_id) "
    "WHERE r.call_id = ? AND d.state = 4 GROUP BY d.destination_id"
)
_UPLOADS = "SELECT key_hash, token_id FROM uploads WHERE call_id = ?"
_TRACES = (
    "SELECT trace_id, principal, token_id, spans FROM traces WHERE call_id = ?1 "
    "OR (call_id IS NULL AND lower(hex(trace_id)) = ?1)"
)
_EVERY_ROW = 1 << 62
_RECORDS_AT_ONCE = 50
WIPE_SECONDS = 10.0
"""How long the log may be held by readers while it is to be emptied."""


@dataclass(frozen=True, slots=True)
class CallHoldings:
    """What the spool has of a call."""

    records: int = 0
    deliveries: int = 0
    """Queued ones and dead letters."""
    spans: int = 0
    """Of a call that has not ended."""
    delivered: tuple[tuple[str, int], ...] = ()
    """How many deliveries each destination has confirmed, as far as receipts go back."""


class CallErasures:
    """For the event loop."""

    def __init__(
        self, writer: Writer, reader: Reader, queue: QueueAdmin, live: LiveCalls, orphans: OrphanChunks, clock: Clock,
        refuse_for: int | None, shredder: Shredder,
    ) -> None:  # fmt: skip
        """`refuse_for`: how long posts of erased calls are refused, in milliseconds; None: they are not."""
        self._writer = writer
        self._reader = reader
        self._queue = queue
        self._live = live
        self._orphans = orphans
        self._clock = clock
        self._refuse_for = refuse_for
        self._shredder = shredder
        self._salt = b""
        self.known: dict[bytes, int] = {}
        """When each call was ordered to be erased, by its hash."""

    async def open(self) -> None:
        """Read which calls were erased. Raises `SpoolError`."""
        self._salt = bytes((await self._reader.ask(_SALT))[0][0])
        await self._read()
        await self.expire()

    def refuses(self, call_id: str) -> bool:
        """Whether a post of this call is refused, because it was erased."""
        if self._refuse_for is None:
            return False
        ordered_at = self.known.get(self.hash_of(call_id))
        return ordered_at is not None and self._clock() - ordered_at < self._refuse_for

    def hash_of(self, call_id: str) -> bytes:
        """What is kept of the id of an erased call."""
        return hmac.digest(self._salt, call_id.encode("utf-8", "surrogatepass"), "sha256")

    async def pending(self) -> list[str]:
        """The calls of orders that were not finished."""
        return sorted(call_id for _, call_id, _ in await self._reader.ask(_ALL) if call_id is not None)

    async def calls_of_agent(self, agent_id: str) -> list[str]:
        """The calls of this agent, as far as receipts go back."""
        return [call_id for (call_id,) in await self._reader.ask(_CALLS_OF_AGENT, (agent_id,))]

    async def open_records(self, after: int) -> list[Record]:
        """Records whose payload is here, in their order: the next ones after this number; none at the end."""
        rows = await self._reader.ask(_OPEN_RECORDS, (after, _RECORDS_AT_ONCE))
        return [record_of(row, self._reader.destinations.spool_id) for row in rows]

    async def holdings(self, call_id: str) -> CallHoldings:
        """What is here of a call."""
        ((records,),) = await self._reader.ask("SELECT count(*) FROM records WHERE call_id = ?", (call_id,))
        deliveries = await self._reader.ask(_OPEN_DELIVERIES, (call_id, 1 << 30))
        spans = sum(row[3] for row in await self._reader.ask(_TRACES, (call_id,)))
        names = self._reader.destinations.names
        delivered = tuple((names[row[0]], row[1]) for row in await self._reader.ask(_DELIVERED_TO, (call_id,)))
        return CallHoldings(records, len(deliveries), spans, delivered)

    async def order(self, call_ids: Sequence[str]) -> None:
        """Write down that these calls are to be erased; from now on their posts may be refused."""
        now = self._clock()
        hashes = [(self.hash_of(call_id), call_id, now) for call_id in call_ids]
        for start in range(0, len(hashes), KEYS_PER_STEP):
            await self._writer.submit(partial(_order, rows=hashes[start : start + KEYS_PER_STEP]))
        await self._read()

    async def give_up(self, call_id: str) -> list[DeliveryKey]:
        """Discard what is owed of a call, dead letters included, its spans and its turns; returns the deliveries."""
        names, given_up = self._reader.destinations.names, []
        while rows := await self._reader.ask(_OPEN_DELIVERIES, (call_id, KEYS_PER_STEP)):
            keys = [DeliveryKey(record_id, names[destination], Form(form)) for record_id, destination, form in rows]
            await self._queue.discard(keys)
            given_up += keys
        await self._writer.submit(partial(_delete_traces, call_id=call_id))
        await self._live.erase(call_id)
        return given_up

    async def forget(self, call_ids: Iterable[str]) -> int:
        """Delete the receipts and upload addresses of these calls; returns how many records these were."""
        count = 0
        for call_id in call_ids:
            while deleted := await self._writer.submit(partial(_delete_records, call_id=call_id)):
                count += deleted
            await self._writer.submit(partial(_delete_uploads, call_id=call_id))
        return count

    async def finish(self, call_ids: Sequence[str]) -> None:
        """All of these calls is erased: only their hashes stay, if at all."""
        hashes = [self.hash_of(call_id) for call_id in call_ids]
        await self._writer.submit(partial(_finish, hashes=hashes))
        await self.expire()

    async def expire(self) -> None:
        """Forget the calls whose posts need no longer be refused."""
        before = self._clock() + 1 if self._refuse_for is None else self._clock() - self._refuse_for
        if self.known:
            await self._writer.submit(partial(_expire, before=before))
            await self._read()

    async def _read(self) -> None:
        self.known = {bytes(call_hash): at for call_hash, _, at in await self._reader.ask(_ALL)}

    async def wipe(self) -> bool:
        """Leave nothing of what was deleted in the files; False where a reader kept the log from being emptied.

        Where a key is configured, the keys of it are destroyed, so that copies of the files are unreadable, too.
        """
        await self._orphans.delete()
        await self._shredder.shred()
        while await self._writer.submit(partial(vacuum, keep_bytes=0)):
            continue
        return await asyncio.to_thread(self._writer.empty_log, WIPE_SECONDS)


def _order(transaction: Transaction, rows: Sequence[tuple[bytes, str, int]]) -> None:
    for row in rows:
        transaction.execute(_ORDER, row)


def _finish(transaction: Transaction, hashes: Sequence[bytes]) -> None:
    for call_hash in hashes:
        transaction.execute(_DONE, (call_hash,))


def _expire(transaction: Transaction, before: int) -> None:
    transaction.execute(_FORGET, (before,))


def _delete_traces(transaction: Transaction, call_id: str) -> None:
    for trace_id, principal, token_id, _ in transaction.execute(_TRACES, (call_id,)).fetchall():
        if token_id is not None:
            transaction.tokens.release(token_id)
        if transaction.keys.enabled:
            rows = (trace_id, principal, _EVERY_ROW)
            transaction.keys.ended([epoch for (epoch,) in transaction.execute(sql.EPOCHS_OF_SPANS, rows)])
        transaction.execute("DELETE FROM trace_rows WHERE trace_id = ? AND principal = ?", (trace_id, principal))
        transaction.execute("DELETE FROM traces WHERE trace_id = ? AND principal = ?", (trace_id, principal))


def _delete_records(transaction: Transaction, call_id: str) -> int:
    rows = transaction.execute(_RECEIPTS, (call_id, KEYS_PER_STEP)).fetchall()
    return delete_receipts(transaction, [record_id for (record_id,) in rows])


def _delete_uploads(transaction: Transaction, call_id: str) -> None:
    for key_hash, token_id in transaction.execute(_UPLOADS, (call_id,)).fetchall():
        if token_id is not None:
            transaction.tokens.release(token_id)
        transaction.execute(sql.DELETE_UPLOAD, (key_hash,))
