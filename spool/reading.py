"""Everything that is read while the writer goes on: the queue, payloads, traces, tokens, upload addresses.

Each statement is a snapshot of its own; no snapshot is held while anything else is awaited, since a held one would
keep the write-ahead log from being reset.
"""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

import aiosqlite

from spool import statements
from spool.database import reader_pragmas, translated
from spool.errors import CorruptPayload
from spool.payloads import chunk_range
from spool.records import (
    DeliveryState,
    Due,
    Form,
    Fragment,
    Lane,
    Record,
    TracedDelivery,
    TracedRecord,
    Upload,
)
from spool.rows import RECORD_WIDTH, Row, delivery_of, record_of
from spool.settling import Names

LONGEST_WAIT = 24 * 3600 * 1000
"""No delivery is ever postponed by more; what seems to be due later was written by a clock that ran ahead."""
CHUNKS_PER_READ = 4


class Reader:
    """Two reading connections: one for questions, one for payloads, so that neither waits for the other."""

    def __init__(self, questions: aiosqlite.Connection, payloads: aiosqlite.Connection, names: Names) -> None:
        self._questions = questions
        self._payloads = payloads
        self.names = names

    @classmethod
    async def open(cls, path: Path, names: Names) -> "Reader":
        """Open both connections."""
        return cls(await _connect(path), await _connect(path), names)

    async def close(self) -> None:
        """Close both connections."""
        await self._questions.close()
        await self._payloads.close()

    async def due(self, destination_id: int, lane: Lane, *, now: int, limit: int) -> Due:
        """See `uploaders.uploader.Queue.due`."""
        bounds = {"destination": destination_id, "lane": lane, "now": now, "horizon": now + LONGEST_WAIT}
        rows = await self._ask(statements.DUE, {**bounds, "limit": limit})
        deliveries = tuple(delivery_of(row, self.names.spool_id, self.names.names) for row in rows)
        if len(deliveries) == limit:
            return Due(deliveries, now)
        next_due = await self._ask(statements.NEXT_DUE, bounds)
        return Due(deliveries, next_due[0][0])

    async def frames(self, record: Record, fragment: Fragment) -> AsyncIterator[bytes]:
        """The stored frames of a fragment, verified; raises `CorruptPayload`."""
        wanted = chunk_range(record.first_chunk, record.fragments, fragment)
        for start in range(wanted.start, wanted.stop, CHUNKS_PER_READ):
            stop = min(start + CHUNKS_PER_READ, wanted.stop)
            with translated("reading a payload"):
                rows = await self._payloads.execute_fetchall(statements.READ_CHUNKS, (start, stop - 1))
            for expected, (chunk_id, checksum, frame) in _zip_longest(range(start, stop), rows):
                if chunk_id != expected or crc32(frame) != checksum:
                    raise CorruptPayload(
                        f"chunk {expected} of record {record.uid} is "
                        f"{'missing' if chunk_id != expected else 'damaged: its checksum differs'}"
                    )
                yield frame

    async def token(self, token_id: int) -> str | None:
        """The agent's own token by its id; None once it was overwritten."""
        rows = await self._ask(statements.READ_TOKEN, (token_id,))
        return rows[0][0] if rows else None

    async def trace(self, call_id: str) -> tuple[TracedRecord, ...]:
        """The newest 256 records of a call, the oldest first."""
        rows = await self._ask(statements.TRACE_RECORDS, (call_id,))
        return tuple([await self._traced(row) for row in reversed(rows)])

    async def upload(self, statement: str, key: bytes | str) -> Upload | None:
        """The upload address that `statement` finds by `key`."""
        rows = await self._ask(statement, (key,))
        return Upload(*rows[0]) if rows else None

    async def oldest(self, destination_id: int, lane: Lane) -> int | None:
        """When the oldest record with a queued delivery there was accepted."""
        found = []
        for state in (DeliveryState.READY, DeliveryState.WAITING, DeliveryState.HELD):
            found += [row[0] for row in await self._ask(statements.OLDEST_IN_STATE, (destination_id, lane, int(state)))]
        return min(found, default=None)

    async def recount(self) -> tuple[list[Row], list[Row]]:
        """The counters and an independent count of open deliveries, both of one snapshot."""
        with translated("recounting deliveries"):
            await self._questions.execute("BEGIN")
            try:
                return await self._ask(statements.ALL_COUNTERS), await self._ask(statements.RECOUNT_OPEN)
            finally:
                await self._questions.execute("ROLLBACK")

    async def count_receipts(self) -> int:
        """How many receipts are kept."""
        rows = await self._ask(statements.COUNT_RECEIPTS)
        return int(rows[0][0])

    async def _traced(self, row: Row) -> TracedRecord:
        record = record_of(row, self.names.spool_id)
        superseded, settled_at = row[RECORD_WIDTH:]
        deliveries = tuple(
            TracedDelivery(
                self.names.names[destination_id], Form(form), Lane(lane), DeliveryState(state), attempts, due_at,
                ended_at, error,
            )
            for destination_id, form, lane, state, attempts, due_at, ended_at, error in await self._ask(
                statements.TRACE_DELIVERIES, (record.record_id,)
            )
        )  # fmt: skip
        return TracedRecord(record, bool(superseded), settled_at, deliveries)

    async def _ask(self, statement: str, parameters: Any = ()) -> list[Row]:
        with translated("reading from the spool"):
            return list(await self._questions.execute_fetchall(statement, parameters))


async def _connect(path: Path) -> aiosqlite.Connection:
    with translated("opening the spool for reading"):
        connection = await aiosqlite.connect(path, isolation_level=None)
        for pragma in reader_pragmas():
            await connection.execute(pragma)
    return connection


def _zip_longest(expected: Iterable[int], rows: Iterable[Row]) -> Iterable[tuple[int, Row]]:
    found = {row[0]: row for row in rows}
    return ((chunk_id, found.get(chunk_id, (None, 0, b""))) for chunk_id in expected)
