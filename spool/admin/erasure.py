"""`CallErasures`: takes all of a call out of the spool, and knows for a while which calls those were.

An order is written down before anything is done, with the ids of its calls, so that one that was interrupted can be
finished; afterwards only their keyed hashes stay. Nothing of a call is left in the files in the end: freed pages are
given back to the file system, and the write-ahead log is emptied.
"""

import asyncio
import hmac
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from spool.admin.commands import KEYS_PER_STEP, QueueAdmin
from spool.db import sql
from spool.db.sql import record_of
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.live_calls import LiveCall
from spool.queue.ingest import WritesInFlight
from spool.queue.live import LiveCalls
from spool.queue.maintenance import vacuum
from spool.queue.reader import Reader
from spool.queue.reclaim import OrphanChunks
from spool.queue.retention import Shredder, delete_receipts
from spool.queue.traces import delete_trace
from spool.records import Clock, DeliveryKey, Form, OwnedCall, Record, tenant_of

_SALT = "SELECT value FROM meta WHERE name = 'erasure_salt'"
_ALL = "SELECT call_hash, call_id, tenant, ordered_at FROM erasures"
_ORDER = (
    "INSERT INTO erasures (call_hash, call_id, tenant, ordered_at) VALUES (?, ?, ?, ?) ON CONFLICT (call_hash) "
    "DO UPDATE SET call_id = excluded.call_id, tenant = excluded.tenant, ordered_at = excluded.ordered_at"
)
_DONE = "UPDATE erasures SET call_id = NULL, tenant = NULL WHERE call_hash = ?"
_FORGET = "DELETE FROM erasures WHERE call_id IS NULL AND ordered_at < ?"
_OF_CALL = "r.call_id = ? AND coalesce(r.tenant, '') = coalesce(?, r.tenant, '')"
"""Which records belong to an `OwnedCall`."""
_RECORDS_OF_AGENT = "SELECT DISTINCT call_id, coalesce(tenant, '') FROM records WHERE agent_id = ?"
_TRACES_OF_AGENT = "SELECT coalesce(call_id, lower(hex(trace_id))), principal FROM traces WHERE agent_id = ?"
_RECORDS_OF_CALL = f"SELECT {sql.RECORD_COLUMNS} FROM records r WHERE r.call_id = ?"
_ENDING_LIKE = (
    "SELECT DISTINCT call_id, coalesce(tenant, ''), number_hint FROM records WHERE settled_at IS NOT NULL "
    "AND number_hint LIKE '%' || ? LIMIT ?"
)
_OPEN_RECORDS = (
    f"SELECT {sql.RECORD_COLUMNS} FROM records r WHERE r.settled_at IS NULL AND r.record_id > ? "
    "ORDER BY r.record_id LIMIT ?"
)
_OPEN_DELIVERIES = (
    "SELECT d.record_id, d.destination_id, d.form FROM deliveries d JOIN records r USING (record_id) "
    f"WHERE {_OF_CALL} AND d.state <= 3 AND +d.state <= 3 LIMIT ?"
)
_RECEIPTS = f"SELECT record_id FROM records r WHERE {_OF_CALL} AND settled_at IS NOT NULL LIMIT ?"
_DELIVERED_TO = (
    "SELECT d.destination_id, count(*) FROM deliveries d JOIN records r USING (record_id) "
    f"WHERE {_OF_CALL} AND (d.state = 4 OR EXISTS (SELECT 1 FROM attempts a WHERE a.record_id = d.record_id AND "
    "a.destination_id = d.destination_id AND a.form = d.form AND a.outcome = 'delivered')) GROUP BY d.destination_id"
)
"""Also what was confirmed after it had been given up."""
_UPLOADS = "SELECT key_hash, token_id, record_uid FROM uploads WHERE call_id = ?"
_TRACES = (
    "SELECT trace_id, principal, spans, agent_id FROM traces WHERE call_id = ? "
    "OR (call_id IS NULL AND lower(hex(trace_id)) = ?)"
)
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
    turns: int = 0
    """Of the same."""
    tenants: frozenset[str] = frozenset()
    """Whose it is; empty: nobody's in particular."""


class CallErasures:
    """For the event loop."""

    def __init__(
        self, writer: Writer, reader: Reader, queue: QueueAdmin, live: LiveCalls, orphans: OrphanChunks, clock: Clock,
        refuse_for: int | None, shredder: Shredder, in_flight: WritesInFlight,
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
        self._in_flight = in_flight
        self._salt = b""
        self.known: dict[bytes, int] = {}
        """When each call was ordered to be erased, by its hash."""
        self.whose: Callable[[str, str | None], str] = lambda principal, _agent_id: tenant_of(principal) or ""
        """The tenant of what this principal posts of this agent; the gateway knows better, where it has tenants."""

    async def open(self) -> None:
        """Read which calls were erased. Raises `SpoolError`."""
        self._salt = bytes((await self._reader.ask(_SALT))[0][0])
        await self._read()
        await self.expire()

    def refuses(self, call_id: str, principal: str, agent_id: str | None) -> bool:
        """Whether a post of this call is refused, because it was erased: its tenant's, or whoever's."""
        if self._refuse_for is None:
            return False
        hashes = (self.hash_of(OwnedCall(call_id)), self.hash_of(OwnedCall(call_id, self.whose(principal, agent_id))))
        return any(self._clock() - self.known[each] < self._refuse_for for each in hashes if each in self.known)

    def hash_of(self, call: OwnedCall) -> bytes:
        """What is kept of the id of an erased call."""
        salt = self._salt if call.tenant is None else hmac.digest(self._salt, call.tenant.encode(), "sha256")
        return hmac.digest(salt, call.call_id.encode("utf-8", "surrogatepass"), "sha256")

    async def pending(self) -> list[OwnedCall]:
        """The calls of orders that were not finished."""
        rows = await self._reader.ask(_ALL)
        return [OwnedCall(call_id, tenant) for _, call_id, tenant, _ in rows if call_id is not None]

    async def calls_of_agent(self, agent_id: str) -> list[OwnedCall]:
        """The calls of this agent, as far as receipts go back."""
        found = [OwnedCall(*row) for row in await self._reader.ask(_RECORDS_OF_AGENT, (agent_id,))]
        posted = await self._reader.ask(_TRACES_OF_AGENT, (agent_id,))
        posted += [(each.call_id, each.principal) for each in self._live.calls.values() if each.agent_id == agent_id]
        return found + [OwnedCall(call_id, self.whose(principal, agent_id)) for call_id, principal in posted]

    async def receipts_like(self, ending: str, limit: int) -> list[tuple[OwnedCall, str]]:
        """Calls whose call logs are not here any more and whose number ends so, with the masked number."""
        rows = await self._reader.ask(_ENDING_LIKE, (ending, limit))
        return [(OwnedCall(call_id, tenant), hint) for call_id, tenant, hint in rows]

    async def records_of(self, call_id: str) -> list[Record]:
        """All records of calls of this id, as far as receipts go back."""
        rows = await self._reader.ask(_RECORDS_OF_CALL, (call_id,))
        return [record_of(row, self._reader.destinations.spool_id) for row in rows]

    async def open_records(self, after: int) -> list[Record]:
        """Records whose payload is here, in their order: the next ones after this number; none at the end."""
        rows = await self._reader.ask(_OPEN_RECORDS, (after, _RECORDS_AT_ONCE))
        return [record_of(row, self._reader.destinations.spool_id) for row in rows]

    async def holdings(self, call: OwnedCall) -> CallHoldings:
        """What is here of a call."""
        records = await self._reader.ask(f"SELECT coalesce(r.tenant, '') FROM records r WHERE {_OF_CALL}", call)
        deliveries = await self._reader.ask(_OPEN_DELIVERIES, (*call, 1 << 30))
        traces = await self._reader.ask(_TRACES, (call.call_id, call.call_id))
        spans = sum(count for _, principal, count, agent in traces if self._is_of(call, principal, agent))
        live = self._live_of(call)
        whose = {tenant for (tenant,) in records} | {self.whose(each.principal, each.agent_id) for each in live}
        turns = sum(each.turns for each in live)
        return CallHoldings(len(records), len(deliveries), spans, turns, frozenset(whose))

    async def delivered(self, call: OwnedCall) -> list[tuple[str, int]]:
        """How many deliveries of a call each destination has confirmed, as far as receipts go back."""
        names = self._reader.destinations.names
        return [(names[row[0]], row[1]) for row in await self._reader.ask(_DELIVERED_TO, call)]

    async def open_traces(self) -> int:
        """How many calls are known by spans that no call log was made of yet."""
        ((count,),) = await self._reader.ask("SELECT count(*) FROM traces WHERE spans > 0")
        return int(count)

    def _is_of(self, call: OwnedCall, principal: str, agent_id: str | None) -> bool:
        return call.tenant is None or self.whose(principal, agent_id) == call.tenant

    def _live_of(self, call: OwnedCall) -> list[LiveCall]:
        of_id = [each for each in self._live.calls.values() if each.call_id == call.call_id]
        return [each for each in of_id if self._is_of(call, each.principal, each.agent_id)]

    async def order(self, calls: Sequence[OwnedCall]) -> None:
        """Write down that these calls are to be erased; from now on their posts may be refused.

        What of them was on its way in is in the spool on return, where `give_up` finds it.
        """
        now = self._clock()
        hashes = [(self.hash_of(call), *call, now) for call in calls]
        # At once: what is let in while this is written would come after it.
        self.known = self.known | {call_hash: now for call_hash, *_ in hashes}
        try:
            for start in range(0, len(hashes), KEYS_PER_STEP):
                await self._writer.submit(partial(_order, rows=hashes[start : start + KEYS_PER_STEP]))
        finally:
            await self._read()
        await self._in_flight.finish({call.call_id for call in calls})

    async def give_up(self, call: OwnedCall) -> list[DeliveryKey]:
        """Discard what is owed of a call, dead letters included, its spans and its turns; returns the deliveries."""
        names, given_up = self._reader.destinations.names, []
        while rows := await self._reader.ask(_OPEN_DELIVERIES, (*call, KEYS_PER_STEP)):
            keys = [DeliveryKey(record_id, names[destination], Form(form)) for record_id, destination, form in rows]
            await self._queue.discard(keys)
            given_up += keys
        await self._writer.submit(partial(_delete_traces, call_id=call.call_id, belongs=partial(self._is_of, call)))
        for each in self._live_of(call):
            await self._live.erase(each.call_id, each.principal)
        return given_up

    async def forget(self, calls: Iterable[OwnedCall]) -> int:
        """Delete the receipts and upload addresses of these calls; returns how many records these were."""
        count = 0
        for call in calls:
            records = await self.records_of(call.call_id)
            uids = None if call.tenant is None else {each.uid for each in records if (each.tenant or "") == call.tenant}
            await self._writer.submit(partial(_delete_uploads, call_id=call.call_id, uids=uids))
            while deleted := await self._writer.submit(partial(_delete_records, call=call)):
                count += deleted
        return count

    async def finish(self, calls: Sequence[OwnedCall]) -> None:
        """All of these calls is erased: only their hashes stay, if at all."""
        hashes = [self.hash_of(call) for call in calls]
        await self._writer.submit(partial(_finish, hashes=hashes))
        await self.expire()

    async def expire(self) -> None:
        """Forget the calls whose posts need no longer be refused."""
        before = self._clock() + 1 if self._refuse_for is None else self._clock() - self._refuse_for
        if self.known:
            await self._writer.submit(partial(_expire, before=before))
            await self._read()

    async def _read(self) -> None:
        self.known = {bytes(call_hash): at for call_hash, _, _, at in await self._reader.ask(_ALL)}

    async def wipe(self) -> bool:
        """Leave nothing of what was deleted in the files; False where a reader kept the log from being emptied.

        Where a key is configured, the keys of it are destroyed, so that copies of the files are unreadable, too.
        """
        await self._orphans.delete()
        await self._shredder.shred()
        while await self._writer.submit(partial(vacuum, keep_bytes=0)):
            continue
        return await asyncio.to_thread(self._writer.empty_log, WIPE_SECONDS)


def _order(transaction: Transaction, rows: Sequence[tuple[bytes, str, str | None, int]]) -> None:
    for row in rows:
        transaction.execute(_ORDER, row)


def _finish(transaction: Transaction, hashes: Sequence[bytes]) -> None:
    for call_hash in hashes:
        transaction.execute(_DONE, (call_hash,))


def _expire(transaction: Transaction, before: int) -> None:
    transaction.execute(_FORGET, (before,))


def _delete_traces(transaction: Transaction, call_id: str, belongs: Callable[[str, str | None], bool]) -> None:
    for trace_id, principal, _, agent_id in transaction.execute(_TRACES, (call_id, call_id)).fetchall():
        if belongs(principal, agent_id):
            delete_trace(transaction, trace_id, principal)


def _delete_records(transaction: Transaction, call: OwnedCall) -> int:
    rows = transaction.execute(_RECEIPTS, (*call, KEYS_PER_STEP)).fetchall()
    for row in rows:  # uploads that nothing will complete: their bucket has aborted them
        for table in ("multipart_parts", "multiparts"):
            transaction.execute(f"DELETE FROM {table} WHERE record_id = ?", row)
    return delete_receipts(transaction, [record_id for (record_id,) in rows])


def _delete_uploads(transaction: Transaction, call_id: str, uids: Collection[str] | None) -> None:
    """Those of these records; None: all."""
    for key_hash, token_id, uid in transaction.execute(_UPLOADS, (call_id,)).fetchall():
        if uids is not None and uid not in uids:
            continue
        if token_id is not None:
            transaction.tokens.release(token_id)
        transaction.execute(sql.DELETE_UPLOAD, (key_hash,))
