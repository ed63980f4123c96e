"""Rekeying: everything is brought under the current main key; what lies plain in the spool is encrypted.

It may be killed at any time, and goes on where it was. Each step is a bounded transaction, between which posts are
committed. Another main key concerns the keys of epochs alone, a file of some kilobytes. Payloads are encrypted where
they lie, frame by frame: each says for itself whether it is sealed, and a reader that meets one asks for the key then.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from spool.db import sql
from spool.db.sql import decode_fragments, uid_of
from spool.db.tokens import freed_pages_cleared, token_context
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.errors import KeyUnavailable
from spool.keys import WrappedKey
from spool.payload.frames import (
    SPANS_PLACE,
    TURN_PLACE,
    Frame,
    Place,
    Seal,
    is_sealed,
    is_whole,
    places_of,
    record_context,
    spans_context,
    turn_context,
)
from spool.queue.maintenance import vacuum
from spool.queue.reader import Reader, Value

CHUNKS_PER_STEP = 4
ROWS_PER_STEP = 50
EMPTY_SECONDS = 10.0
"""How long readers may keep the log from being emptied; then it is when nobody posts for some seconds."""
_PLACE = "rekeying"
"""The name of the fact that says which record of several steps is under way."""


@dataclass(frozen=True, slots=True)
class RekeyStep:
    """How far it is."""

    what: str
    done: int
    total: int


@dataclass(slots=True)
class Rekeyed:
    """What was done."""

    key_id: str
    """The name of the main key that everything is under now."""
    epochs: int = 0
    """Keys of epochs that were wrapped by an older main key."""
    records: int = 0
    tokens: int = 0
    spans: int = 0


class Rekeying:
    """For the event loop; one at a time."""

    def __init__(self, writer: Writer, reader: Reader, spool_id: str) -> None:
        self._writer = writer
        self._reader = reader
        self._spool_id = spool_id

    async def steps(self) -> AsyncGenerator[RekeyStep | Rekeyed, None]:
        """Do it, and report how far it is; what was done comes last.

        Raises `KeyUnavailable` where no key is configured, and the errors of the spool.
        """
        if not self._writer.keys.enabled:
            raise KeyUnavailable(
                "no key is configured: set CALLSPOOL_SPOOL_KEY_FILE to a file with one (docs/encryption.md)"
            )
        done = Rekeyed(self._writer.keys.ring.keys[0].key_id.hex())
        done.epochs = await self._writer.submit(lambda transaction: transaction.keys.rewrap())
        yield RekeyStep("keys", 1, 1)
        while count := await self._writer.submit(_encrypt_tokens):
            done.tokens += count
            yield RekeyStep("tokens", done.tokens, 0)
        while count := await self._writer.submit(_encrypt_spans):
            done.spans += count
            yield RekeyStep("spans", done.spans, 0)
        while await self._writer.submit(_encrypt_turns):
            yield RekeyStep("turns", 0, 0)
        async for step in self._records(done):
            yield step
        while await self._writer.submit(partial(vacuum, keep_bytes=0)):
            yield RekeyStep("free pages", 0, 0)
        await asyncio.to_thread(self._writer.empty_log, EMPTY_SECONDS)
        yield done

    async def _records(self, done: Rekeyed) -> AsyncIterator[RekeyStep]:
        ((last,),) = await self._reader.ask(sql.LAST_OPEN_RECORD)
        under_way = await self._reader.ask(sql.READ_META, (_PLACE,))
        after = int(under_way[0][0]) - 1 if under_way else 0
        first = bool(under_way)
        while True:
            statement = sql.NEXT_OPEN_RECORDS if first else sql.PLAIN_RECORDS
            rows = await self._reader.ask(statement, (after, 1 if first else ROWS_PER_STEP))
            if not rows and not first:
                return
            first = False
            for record_id, origin, first_chunk, fragments in rows:
                placed = list(enumerate(places_of(decode_fragments(fragments)), first_chunk))
                uid = origin or uid_of(self._spool_id, record_id)
                for start in range(0, len(placed), CHUNKS_PER_STEP):
                    part = placed[start : start + CHUNKS_PER_STEP]
                    is_last = start + CHUNKS_PER_STEP >= len(placed)
                    seal = partial(_seal_chunks, record_id=record_id, uid=uid, chunks=part, is_last=is_last)
                    await self._writer.submit(seal)
                after = record_id
                done.records += 1
                yield RekeyStep("call logs", record_id, last or record_id)


def _seal_chunks(
    transaction: Transaction, record_id: int, uid: str, chunks: Sequence[tuple[int, Place]], *, is_last: bool
) -> None:
    """Seal some frames of a record that are plain; the first time it is given a key. What ended meanwhile is left."""
    row = transaction.execute(sql.OPEN_RECORD_KEY, (record_id,)).fetchone()
    if row is None:
        return
    if row[0] is None:
        seal = Seal.new()
        wrapped = transaction.keys.wrap(seal.key, record_context(uid))
        transaction.execute(sql.SET_RECORD_KEY, (wrapped.epoch, wrapped.value, record_id))
    else:
        seal = Seal(transaction.keys.unwrap(WrappedKey(*row), record_context(uid)))
    with freed_pages_cleared(transaction.connection):
        for chunk_id, place in chunks:
            found = transaction.execute(sql.READ_CHUNKS, (chunk_id, chunk_id)).fetchone()
            if found is None or is_sealed(found[2]) or not is_whole(found[2], found[1]):
                continue
            frame = seal.seal(Frame(found[2], 0, found[1]), place)
            transaction.execute(sql.REPLACE_CHUNK, (frame.crc32, frame.data, chunk_id))
    if is_last:
        transaction.execute(sql.DELETE_META, (_PLACE,))
    else:
        transaction.execute(sql.REPLACE_META, (_PLACE, record_id))


def _encrypt_tokens(transaction: Transaction) -> int:
    rows = transaction.execute(sql.PLAIN_TOKENS, (ROWS_PER_STEP,)).fetchall()
    with freed_pages_cleared(transaction.connection):
        for token_id, token_hash, value in rows:
            # One that is damaged is encrypted as it is, and stays damaged.
            wrapped = transaction.keys.wrap(str(value).encode(), token_context(token_hash))
            values: tuple[Value, ...] = (base64.b64encode(wrapped.value).decode(), wrapped.epoch, token_id)
            transaction.execute(sql.SET_TOKEN, values)
    transaction.tokens.must_scrub()
    return len(rows)


def _encrypt_spans(transaction: Transaction) -> int:
    rows = transaction.execute(sql.PLAIN_SPANS, (ROWS_PER_STEP,)).fetchall()
    return _seal_rows(transaction, sql.SEAL_SPANS, [(spans_context(row[0]), *row[1:]) for row in rows], SPANS_PLACE)


def _encrypt_turns(transaction: Transaction) -> int:
    """What was said so far in calls that are going on."""
    rows = transaction.execute(sql.PLAIN_TURNS, (ROWS_PER_STEP,)).fetchall()
    return _seal_rows(transaction, sql.SEAL_TURN, [(turn_context(row[0]), *row[1:]) for row in rows], TURN_PLACE)


def _seal_rows(
    transaction: Transaction, statement: str, rows: Sequence[tuple[bytes, int, int, bytes]], place: Place
) -> int:
    """Rows of one frame each, with what their key is for, their number and their checksum; returns how many."""
    with freed_pages_cleared(transaction.connection):
        for context, row_id, checksum, frame in rows:
            seal = Seal.new()
            wrapped = transaction.keys.wrap(seal.key, context)
            sealed = seal.seal(Frame(frame, 0, checksum), place)
            # What does not match its checksum goes on not to match it.
            checksum = sealed.crc32 if is_whole(frame, checksum) else sealed.crc32 ^ 1  # noqa: PLW2901
            transaction.execute(statement, (checksum, sealed.data, wrapped.epoch, wrapped.value, row_id))
    return len(rows)
