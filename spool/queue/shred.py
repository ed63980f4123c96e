"""Shredding: the keys of what ended are destroyed, and with them whatever is left of it in files (`spool.keys`).

What lives on of an epoch is wrapped by another one's key, in bounded steps; when that is durable, the epoch's key is
overwritten. That is done every `SHRED_SECONDS`, and at once by `Shredder.shred`.
"""

import base64
from collections.abc import Callable, Sequence
from functools import partial

from spool.db import sql
from spool.db.sql import uid_of
from spool.db.tokens import token_context
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.errors import CorruptPayload
from spool.keys import WrappedKey
from spool.payload.frames import record_context, spans_context, turn_context

SHRED_SECONDS = 30
"""Most records end within it: the shorter it is, the more keys have to be wrapped anew."""
KEYS_PER_STEP = 500
"""Some 10 ms, between which posts are committed."""
LOST = 0
"""The epoch of a key that cannot be unwrapped any more: it was damaged."""


class Shredder:
    """Destroys the keys of what ended. For the event loop."""

    def __init__(self, writer: Writer, spool_id: str, clock: Callable[[], float]) -> None:
        self._writer = writer
        self._spool_id = spool_id
        self._clock = clock
        self._next = 0.0

    async def shred_in_time(self) -> None:
        """Shred, if `SHRED_SECONDS` have passed since the last time."""
        if self._writer.keys.enabled and self._clock() >= self._next:
            self._next = self._clock() + SHRED_SECONDS
            await self.shred()

    async def shred(self, *, unused: bool = False) -> None:
        """Destroy the keys of all that has ended; with `unused` those of epochs that protect nothing yet, too."""
        if not self._writer.keys.enabled:
            return
        epochs = await self._writer.submit(partial(_retire, unused=unused))
        for epoch in epochs:
            while await self._writer.submit(partial(_move_keys, epoch=epoch, spool_id=self._spool_id)):
                continue
        if epochs:
            await self._writer.submit(partial(_destroy, epochs=epochs))


def _retire(transaction: Transaction, *, unused: bool) -> list[int]:
    retired = transaction.keys.retire()
    if unused:
        others = set(transaction.keys.numbers) - set(retired)
        retired += [epoch for epoch in others if not _is_used(transaction, epoch)]
    return retired


def _is_used(transaction: Transaction, epoch: int) -> bool:
    return any(transaction.execute(statement, (epoch,)).fetchone() is not None for statement in sql.EPOCH_USED)


def _destroy(transaction: Transaction, epochs: Sequence[int]) -> None:
    """What was wrapped anew is durable already: it was committed before."""
    transaction.keys.destroy([epoch for epoch in epochs if not _is_used(transaction, epoch)])


def _move_keys(transaction: Transaction, epoch: int, spool_id: str) -> int:
    """Wrap some of what the key of this epoch wraps by that of another one; returns how many were."""
    moved = 0
    for record_id, origin, key in transaction.execute(sql.RECORD_KEYS, (epoch, KEYS_PER_STEP)).fetchall():
        context = record_context(origin or uid_of(spool_id, record_id))
        wrapped = _wrapped_anew(transaction, WrappedKey(epoch, key), context)
        transaction.execute(sql.SET_RECORD_KEY, (wrapped.epoch, wrapped.value, record_id))
        moved += 1
    for token_id, token_hash, value in transaction.execute(sql.TOKENS_OF_EPOCH, (epoch, KEYS_PER_STEP)).fetchall():
        old = WrappedKey(epoch, base64.b64decode(value))
        wrapped = _wrapped_anew(transaction, old, token_context(token_hash))
        transaction.execute(sql.SET_TOKEN, (base64.b64encode(wrapped.value).decode(), wrapped.epoch, token_id))
        moved += 1
    for row_id, trace_id, key in transaction.execute(sql.SPAN_KEYS, (epoch, KEYS_PER_STEP)).fetchall():
        wrapped = _wrapped_anew(transaction, WrappedKey(epoch, key), spans_context(trace_id))
        transaction.execute(sql.SET_SPANS_KEY, (wrapped.epoch, wrapped.value, row_id))
        moved += 1
    for row_id, call_id, key in transaction.execute(sql.TURN_KEYS, (epoch, KEYS_PER_STEP)).fetchall():
        wrapped = _wrapped_anew(transaction, WrappedKey(epoch, key), turn_context(call_id))
        transaction.execute(sql.SET_TURN_KEY, (wrapped.epoch, wrapped.value, row_id))
        moved += 1
    return moved


def _wrapped_anew(transaction: Transaction, old: WrappedKey, context: bytes) -> WrappedKey:
    try:
        secret = transaction.keys.unwrap(old, context)
    except CorruptPayload:
        return WrappedKey(LOST, old.value)
    return transaction.keys.wrap(secret, context, lived_on=True)
