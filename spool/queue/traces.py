"""Traces: the spans of calls that are still going on, durable post by post until their call log is made.

A post's spans of one trace are one row. When a trace is closed, the call log that was made of its rows is accepted, and
the rows are deleted, in one transaction: so after a crash they are either all there, or all in the call log.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial

from spool.db import sql
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.payload.frames import (
    SPANS_PLACE,
    Frame,
    FrameEncoder,
    Seal,
    decode,
    is_sealed,
    is_whole,
    spans_context,
)
from spool.queue.ingest import OVERHEAD_BYTES, WritesInFlight, uninterrupted
from spool.queue.reader import Reader
from spool.records import Clock, NewSpans, OpenTrace, TraceRow, tenant_of
from spool.space import Quota, TenantShares

_ADD_ROW = (
    "INSERT INTO trace_rows (trace_id, principal, spans, raw_bytes, crc32, frame, key_epoch, payload_key) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_KEY_OF_ROW = "SELECT key_epoch, payload_key FROM trace_rows WHERE row_id = ?"
_TOKEN_OF = "SELECT token_id FROM traces WHERE trace_id = ? AND principal = ?"
_ADD_TRACE = """
    INSERT INTO traces (trace_id, principal, call_id, agent_id, token_id, first_at, last_at, root_at, spans, raw_bytes)
    VALUES (:trace_id, :principal, :call_id, :agent_id, :token_id, :now, :now, :root_at, :spans, :raw_bytes)
    ON CONFLICT (trace_id, principal) DO UPDATE SET
        call_id = coalesce(call_id, excluded.call_id),
        agent_id = coalesce(agent_id, excluded.agent_id),
        token_id = coalesce(token_id, excluded.token_id),
        last_at = max(last_at, excluded.last_at),
        root_at = coalesce(root_at, excluded.root_at),
        spans = spans + excluded.spans,
        raw_bytes = raw_bytes + excluded.raw_bytes
"""
_OPEN = """
    SELECT trace_id, principal, call_id, agent_id, first_at, last_at, root_at, spans, raw_bytes, closed
    FROM traces ORDER BY last_at
"""
_ROWS = """
    SELECT row_id, spans, raw_bytes, crc32, frame FROM trace_rows
    WHERE trace_id = ? AND principal = ? AND row_id > ? ORDER BY row_id LIMIT 4
"""
_ENDED = "SELECT 1 FROM records WHERE call_id = ? AND principal = ? AND event IN ('call_ended', 'call_log') LIMIT 1"
_OLD = "SELECT trace_id, principal, token_id FROM traces WHERE spans = 0 AND last_at < ? LIMIT ?"
_DELETE = "DELETE FROM traces WHERE trace_id = ? AND principal = ?"
_FORGET = f"{_DELETE} AND spans = 0"
_EVERY_ROW = 1 << 62


def add_spans(
    transaction: Transaction, posted: Iterable[tuple[NewSpans, Frame]], token: str | None, principal: str, now: int
) -> None:
    """Write the spans of one post, each group with its frame."""
    for new, frame in posted:
        token_id = None
        if token is not None:
            row = transaction.execute(_TOKEN_OF, (new.trace_id, principal)).fetchone()
            if row is None or row[0] is None:
                token_id = transaction.tokens.use(transaction.connection, token)
        key: tuple[int, bytes] | tuple[None, None] = (None, None)
        if transaction.keys.enabled:
            seal = Seal.new()
            frame = seal.seal(frame, SPANS_PLACE)  # noqa: PLW2901  # what is stored of it from here on
            wrapped = transaction.keys.wrap(seal.key, spans_context(new.trace_id))
            key = wrapped.epoch, wrapped.value
        stored = (new.trace_id, principal, new.spans, frame.raw_bytes, frame.crc32, frame.data, *key)
        transaction.execute(_ADD_ROW, stored)
        transaction.execute(
            _ADD_TRACE,
            {
                "trace_id": new.trace_id,
                "principal": principal,
                "call_id": new.call_id,
                "agent_id": new.agent_id,
                "token_id": token_id,
                "now": now,
                "root_at": now if new.ended else None,
                "spans": new.spans,
                "raw_bytes": frame.raw_bytes,
            },
        )


def purge_traces(transaction: Transaction, before: int, limit: int) -> int:
    """Forget traces that are closed and had no span since `before`, at most `limit`; returns how many."""
    rows = transaction.execute(_OLD, (before, limit)).fetchall()
    for trace_id, principal, token_id in rows:
        if token_id is not None:
            transaction.tokens.release(token_id)
        transaction.execute(_FORGET, (trace_id, principal))
    return len(rows)


def delete_trace(transaction: Transaction, trace_id: bytes, principal: str) -> None:
    """Delete a trace with its spans, and release its sender's key."""
    key = trace_id, principal
    for (token_id,) in transaction.execute(_TOKEN_OF, key).fetchall():
        if token_id is not None:
            transaction.tokens.release(token_id)
    rows = (*key, _EVERY_ROW)
    if transaction.keys.enabled:
        transaction.keys.ended([epoch for (epoch,) in transaction.execute(sql.EPOCHS_OF_SPANS, rows)])
    transaction.execute(sql.DELETE_TRACE_ROWS, rows)
    transaction.execute(_DELETE, key)


class Traces:
    """The spans of calls that are still going on. For the event loop."""

    def __init__(
        self, writer: Writer, reader: Reader, quota: Quota, shares: TenantShares, clock: Clock,
        in_flight: WritesInFlight,
    ) -> None:  # fmt: skip
        self._writer = writer
        self._reader = reader
        self._quota = quota
        self._shares = shares
        self._clock = clock
        self._in_flight = in_flight
        self.imported: Callable[[NewSpans, str, int], None] = lambda _new, _principal, _closed: None
        """Called with spans that a salvage brought, who posted them, and how many call logs their trace has."""

    async def add(self, posted: Sequence[NewSpans], token: str | None, principal: str) -> None:
        """Make the spans of one post durable. Raises `SpoolFull` or `SpoolUnavailable`; then none of them is kept."""
        with self._in_flight.write(None):  # whose call a trace is of may stand in an earlier post
            await self._add(posted, token, principal)

    async def _add(self, posted: Sequence[NewSpans], token: str | None, principal: str) -> None:
        frames = await asyncio.to_thread(_frames_of, posted)
        byte_count = sum(len(frame.data) + OVERHEAD_BYTES for frame in frames)
        self._shares.check(tenant_of(principal), byte_count)
        operation = partial(
            add_spans,
            posted=tuple(zip(posted, frames, strict=True)),
            token=token,
            principal=principal,
            now=self._clock(),
        )
        with self._quota.reserve(2 * byte_count, self._writer.total_bytes):
            await uninterrupted(self._writer.submit(operation, byte_count))

    async def open(self) -> list[OpenTrace]:
        """Every trace that has spans here, or had some within the last hour; those first that were quiet longest."""
        return [OpenTrace(*row) for row in await self._reader.ask(_OPEN)]

    async def token_id(self, trace_id: bytes, principal: str) -> int | None:
        """Where the sender's key is kept, if a post of this trace brought one."""
        rows = await self._reader.ask(_TOKEN_OF, (trace_id, principal))
        return rows[0][0] if rows else None

    async def has_ended(self, call_id: str, principal: str) -> bool:
        """Whether this principal posted an end of this call, or all of it at once, as far as receipts go back."""
        return bool(await self._reader.ask(_ENDED, (call_id, principal)))

    async def erase(self, trace_id: bytes, principal: str) -> None:
        """Delete a trace with its spans."""
        await self._writer.submit(partial(delete_trace, trace_id=trace_id, principal=principal))

    async def rows(self, trace_id: bytes, principal: str) -> AsyncIterator[TraceRow]:
        """The spans of a trace, post by post. Raises `SpoolError`."""
        after = 0
        while rows := await self._reader.ask(_ROWS, (trace_id, principal, after)):
            for row_id, spans, raw_bytes, checksum, frame in rows:
                after = row_id
                data = await self._decoded(row_id, trace_id, frame) if is_whole(frame, checksum) else None
                yield TraceRow(row_id, spans, raw_bytes, data)

    async def _decoded(self, row_id: int, trace_id: bytes, frame: bytes) -> bytes:
        if not is_sealed(frame):
            return decode(frame)
        seal = await self._reader.seal(_KEY_OF_ROW, row_id, spans_context(trace_id), f"row {row_id} of a trace")
        return decode(seal.open(frame, SPANS_PLACE))


def _frames_of(posted: Sequence[NewSpans]) -> list[Frame]:
    encoder = FrameEncoder()
    return [encoder.frame(new.data) for new in posted]
