"""Live calls: which calls are going on, by their agents' heartbeats, and what was said in them so far.

The end of a call deletes what is kept of it, in the transaction that accepts it. What no end came of is made a call log
that says that the agent is lost (`NewRecord.loses`); the call is kept for a while after that, because an agent that was
only silent may go on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256

from spool.db.sql import Row
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.errors import CallHasEnded, CorruptPayload, TooMuchLive
from spool.live_calls import HeardCall, LiveCall, LostCall
from spool.payload.frames import (
    TURN_PLACE,
    Frame,
    FrameEncoder,
    Seal,
    decode,
    is_sealed,
    is_whole,
    turn_context,
)
from spool.queue.accept import Earlier, delete_live, earlier_posts, is_superseded
from spool.queue.ingest import WritesInFlight
from spool.queue.reader import Reader
from spool.records import Clock, tenant_of
from spool.space import Quota, TenantShares

MOST = 10_000
"""Calls that are kept at a time, some 500 bytes of memory each."""
MOST_OF_SENDER = MOST // 2
QUOTA_SHARE = 16
"""The part of the quota that their turns take at most; those of one sender take half of that."""
MOST_TURNS = 10_000
"""Of one call."""
CALL_BYTES = 4 << 20
"""Of the turns of one call, and of what its agent says of it."""
LOST_KEEP = 3600 * 1000
"""Milliseconds for which a call is kept whose agent is lost."""
ROWS_PER_STEP = 500
_INLINE_BYTES = 16 << 10
"""More is compressed in a thread."""
_ROW_BYTES = 256
"""What a row takes besides its data, about, in the table, its index, and the log."""

_STARTED, _ENDS = "call_started", frozenset({"call_ended", "call_log"})
"""Events, as `spool.db.sql.LIVE_CALLS` has them; a call log without an event is all of its call."""

_COLUMNS = "call_id, principal, agent_id, started_at, first_at, last_at, turns, raw_bytes, version, open"
_ALL = f"SELECT {_COLUMNS} FROM live_calls ORDER BY last_at"
_ONE = f"SELECT {_COLUMNS} FROM live_calls WHERE call_id = ? AND principal = ?"
_TOKEN_OF = "SELECT token_id FROM live_calls WHERE call_id = ? AND principal = ?"
_WRITE = f"""
    INSERT INTO live_calls ({_COLUMNS}, token_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?)
    ON CONFLICT (call_id, principal) DO UPDATE SET
        agent_id = excluded.agent_id, started_at = excluded.started_at,
        last_at = excluded.last_at, turns = excluded.turns, raw_bytes = excluded.raw_bytes,
        version = excluded.version, open = 1, token_id = coalesce(token_id, excluded.token_id)
"""
_TURN = "SELECT raw_bytes, key_epoch FROM live_turns WHERE call_id = ? AND principal = ? AND turn = ?"
_WRITE_TURN = """
    INSERT INTO live_turns (call_id, principal, turn, place, raw_bytes, crc32, frame, key_epoch, payload_key)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (call_id, principal, turn) DO UPDATE SET
        place = excluded.place, raw_bytes = excluded.raw_bytes, crc32 = excluded.crc32, frame = excluded.frame,
        key_epoch = excluded.key_epoch, payload_key = excluded.payload_key
"""
_ABOUT = "about"
"""The row of what an agent says of its call; turns have other names."""
_ORDER = f"""
    SELECT row_id FROM live_turns WHERE call_id = ? AND principal = ? AND turn != '{_ABOUT}'
    ORDER BY place IS NULL, place, row_id
"""
_ABOUT_ROW = f"SELECT row_id FROM live_turns WHERE call_id = ? AND principal = ? AND turn = '{_ABOUT}'"
_FRAMES = "SELECT row_id, crc32, frame FROM live_turns WHERE row_id IN (SELECT value FROM json_each(?))"
_FRAMES_AT_ONCE = 32
_KEY_OF_ROW = "SELECT key_epoch, payload_key FROM live_turns WHERE row_id = ?"
_TOUCH = "UPDATE live_calls SET last_at = ? WHERE call_id = ? AND principal = ?"
_OLD = "SELECT call_id, principal FROM live_calls WHERE open = 0 AND last_at < ? LIMIT ?"
_FORGET = "DELETE FROM live_calls WHERE call_id = ? AND principal = ? RETURNING token_id"

CallKey = tuple[str, str]
"""A call id, and whose call it is."""


def has_ended(earlier: Sequence[Earlier], started_at: int | None) -> bool:
    """Whether a call ended, by the records of its id, the newest first.

    An end is of an earlier call of this id where a start came after it, or it happened before this call began, by the
    sender's own times.
    """
    for place, (_, event, _, _, _, happened_at, *_) in enumerate(earlier):
        if event == _STARTED and not is_superseded("call_ended", happened_at, earlier[place + 1 :]):
            return False
        if event in _ENDS:
            return started_at is None or happened_at is None or started_at <= happened_at
    return False


def hear(
    transaction: Transaction, heard: HeardCall, frames: Mapping[str, Frame], token: str | None, now: int
) -> LiveCall:
    """Write what a post says of a call, with a frame for each of its turns; returns the call as it is then.

    Raises `CallHasEnded`, and `TooMuchLive` where the call has too much: then nothing is changed.
    """
    key = heard.call_id, heard.principal
    row = transaction.execute(_ONE, key).fetchone()
    if row is None:
        if has_ended(earlier_posts(transaction, *key), heard.started_at):
            raise CallHasEnded(f"the call {heard.call_id} has ended: its call log was accepted")
        call = LiveCall(*key, None, None, now, now, 0, 0, 0, True)
    else:
        call = _call_of(row)
    replaced = {name: transaction.execute(_TURN, (*key, name)).fetchone() for name in frames}
    call.turns += sum(1 for name, before in replaced.items() if before is None and name != _ABOUT)
    call.raw_bytes += sum(frames[name].raw_bytes - (before[0] if before else 0) for name, before in replaced.items())
    if call.turns > MOST_TURNS or call.raw_bytes > CALL_BYTES:
        raise TooMuchLive(
            f"the call would have {call.turns} turns of {call.raw_bytes} bytes; "
            f"{MOST_TURNS} of {CALL_BYTES} bytes are kept",
            of_call=True,
        )
    call.agent_id = heard.agent_id or call.agent_id
    call.started_at = call.started_at if heard.started_at is None else heard.started_at
    call.last_at = max(call.first_at, now)
    call.version += 1
    call.open = True
    token_id = None
    if token is not None:
        known = transaction.execute(_TOKEN_OF, key).fetchone()
        if known is None or known[0] is None:
            token_id = transaction.tokens.use(transaction.connection, token)
    transaction.execute(
        _WRITE,
        (
            *key, call.agent_id, call.started_at, call.first_at, call.last_at, call.turns, call.raw_bytes,
            call.version, token_id,
        ),
    )  # fmt: skip
    if transaction.keys.enabled:
        transaction.keys.ended([before[1] for before in replaced.values() if before and before[1] is not None])
    places = {turn.turn: turn.place for turn in heard.turns}
    for name, frame in frames.items():
        transaction.execute(_WRITE_TURN, (*key, name, places.get(name), *_stored(transaction, heard.call_id, frame)))
    transaction.known.note_live(heard.call_id)
    return call


def _stored(transaction: Transaction, call_id: str, frame: Frame) -> tuple[int, int, bytes, int | None, bytes | None]:
    """A turn as its row holds it: size, checksum, frame, and its key where it is encrypted."""
    if not transaction.keys.enabled:
        return frame.raw_bytes, frame.crc32, frame.data, None, None
    seal = Seal.new()
    sealed = seal.seal(frame, TURN_PLACE)
    wrapped = transaction.keys.wrap(seal.key, turn_context(call_id))
    return sealed.raw_bytes, sealed.crc32, sealed.data, wrapped.epoch, wrapped.value


def _call_of(row: Row) -> LiveCall:
    call = LiveCall(*row)
    call.open = bool(call.open)
    return call


def frames_of(heard: HeardCall) -> dict[str, Frame]:
    """The frames of what a post says, by turn; of a turn that is in it twice, of the last."""
    encoder = FrameEncoder()
    texts = {turn.turn: turn.data for turn in heard.turns}
    if heard.about is not None:
        texts[_ABOUT] = heard.about
    return {name: encoder.frame(text) for name, text in texts.items()}


def digest_of(about: bytes) -> bytes:
    """What tells whether something else is said of a call."""
    return sha256(about).digest()[:16]


def touch(transaction: Transaction, heard: Sequence[tuple[int, str, str]]) -> None:
    """Note when calls were heard of last: the time, the id, and whose it is."""
    for one in heard:
        transaction.execute(_TOUCH, one)


def purge_live(transaction: Transaction, before: int, limit: int) -> int:
    """Forget lost calls that were not heard of since `before`, at most `limit`; returns how many."""
    rows = transaction.execute(_OLD, (before, limit)).fetchall()
    for call_id, principal in rows:
        forget_live(transaction, call_id, principal)
    return len(rows)


def forget_live(transaction: Transaction, call_id: str, principal: str) -> None:
    """Delete a call, and what was said in it."""
    for (token_id,) in transaction.execute(_FORGET, (call_id, principal)).fetchall():
        delete_live(transaction, call_id, principal, token_id)


class LiveCalls:
    """The live calls of this spool. For the event loop."""

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
        self.calls: dict[CallKey, LiveCall] = {}
        """All of them, as they are stored, but for `last_at`, which each sign of life moves."""
        self._said: dict[CallKey, bytes] = {}
        """The digest of what an agent said of its call last, as far as that was since the start."""
        self.imported: Callable[[LiveCall], None] = lambda _call: None
        """Called with each call that a salvage brought."""
        self._sizes: dict[str, tuple[int, int]] = {}
        """By sender: how many calls it has, and of how many bytes."""
        self._bytes = 0

    async def open(self) -> None:
        """Read which calls are live from before."""
        for row in await self._reader.ask(_ALL):
            self._note(_call_of(row))

    async def hear(self, heard: HeardCall, token: str | None) -> LiveCall:
        """Make what a post says of a call durable; returns the call as it is then.

        Raises `CallHasEnded`, `TooMuchLive`, `SpoolFull` or `SpoolUnavailable`: then nothing of it is kept.
        """
        with self._in_flight.write(heard.call_id):
            return await self._hear(heard, token)

    async def _hear(self, heard: HeardCall, token: str | None) -> LiveCall:
        size = len(heard.about or b"") + len(token or "") + _ROW_BYTES
        size += sum(len(turn.data) + len(turn.turn) + _ROW_BYTES for turn in heard.turns)
        self._check_room(heard, size)
        self._shares.check(tenant_of(heard.principal), size)
        large = size > _INLINE_BYTES
        frames = await asyncio.to_thread(frames_of, heard) if large else frames_of(heard)
        operation = partial(hear, heard=heard, frames=frames, token=token, now=self._clock())
        with self._quota.reserve(2 * size, self._writer.total_bytes):
            committing = self._writer.submit(operation, size)
            try:
                return await committing
            finally:
                # What was submitted is committed, whether the sender still waits for it or not.
                if committing.done() and committing.exception() is None:
                    self._note(committing.result())
                    if heard.about is not None:
                        self._said[heard.call_id, heard.principal] = digest_of(heard.about)

    def says_nothing_new(self, heard: HeardCall) -> bool:
        """Whether all that it says is durable, and was said last."""
        call = self.calls.get((heard.call_id, heard.principal))
        return (
            call is not None
            and not heard.turns
            and (heard.about is None or self._said.get((heard.call_id, heard.principal)) == digest_of(heard.about))
            and heard.agent_id in {None, call.agent_id}
            and heard.started_at in {None, call.started_at}
        )

    def bring(self, call: LiveCall) -> None:
        """A salvage has written this call."""
        before = self.calls.get((call.call_id, call.principal))
        if before is not None:
            call.last_at = max(call.last_at, before.last_at)
        self._note(call)
        if call.open:
            self.imported(self.calls[call.call_id, call.principal])

    def ended(self, call_id: str, principal: str, happened_at: int | None = None) -> None:
        """A record is durable that ended a call of this id, at that time by its sender."""
        call = self.calls.get((call_id, principal))
        if call is None or (happened_at is not None and call.started_at is not None and call.started_at > happened_at):
            return
        del self.calls[call_id, principal]
        self._said.pop((call_id, principal), None)
        self._resize(principal, -1, -call.raw_bytes)

    def lost(self, call: LostCall) -> None:
        """A record is durable that says that the agent of this call is lost."""
        known = self.calls.get((call.call_id, call.principal))
        if known is not None and known.version == call.version:
            known.open = False

    async def current(self, call_id: str, principal: str) -> LiveCall | None:
        """The call as the database has it; None where it has ended."""
        rows = await self._reader.ask(_ONE, (call_id, principal))
        return _call_of(rows[0]) if rows else None

    async def turns(self, call_id: str, principal: str) -> AsyncIterator[bytes | None]:
        """The turns of a call in their order; None for one that is damaged."""
        row_ids = [row_id for (row_id,) in await self._reader.ask(_ORDER, (call_id, principal))]
        for start in range(0, len(row_ids), _FRAMES_AT_ONCE):
            for text in await self._read(row_ids[start : start + _FRAMES_AT_ONCE], call_id):
                yield text

    async def about(self, call_id: str, principal: str) -> bytes | None:
        """What its agent says of a call; None for nothing, or where that is damaged."""
        rows = await self._reader.ask(_ABOUT_ROW, (call_id, principal))
        return (await self._read([rows[0][0]], call_id))[0] if rows else None

    async def _read(self, row_ids: Sequence[int], call_id: str) -> list[bytes | None]:
        """What is in these rows; None for one that is damaged or gone."""
        rows = await self._reader.ask(_FRAMES, (f"[{','.join(map(str, row_ids))}]",))
        frames = {row_id: frame for row_id, checksum, frame in rows if is_whole(frame, checksum)}
        return [await self._text(row_id, frames.get(row_id), call_id) for row_id in row_ids]

    async def _text(self, row_id: int, frame: bytes | None, call_id: str) -> bytes | None:
        if frame is None:
            return None
        try:
            if not is_sealed(frame):
                return decode(frame)
            seal = await self._reader.seal(_KEY_OF_ROW, row_id, turn_context(call_id), f"a turn of {call_id}")
            return decode(seal.open(frame, TURN_PLACE))
        except CorruptPayload:
            return None

    async def token_id(self, call_id: str, principal: str) -> int | None:
        """Where the sender's key is kept, if a post of this call brought one."""
        rows = await self._reader.ask(_TOKEN_OF, (call_id, principal))
        return rows[0][0] if rows else None

    async def erase(self, call_id: str, principal: str) -> None:
        """Delete a call, and what was said in it."""
        await self._writer.submit(partial(forget_live, call_id=call_id, principal=principal))
        self.ended(call_id, principal)

    async def touch(self, calls: Sequence[LiveCall]) -> None:
        """Make durable when these were heard of last."""
        rows = [(call.last_at, call.call_id, call.principal) for call in calls]
        for start in range(0, len(rows), ROWS_PER_STEP):
            await self._writer.submit(partial(touch, heard=rows[start : start + ROWS_PER_STEP]))

    def expire(self, before: int) -> None:
        """Forget lost calls that were not heard of since `before`; maintenance deletes their rows."""
        for call in [call for call in self.calls.values() if not call.open and call.last_at < before]:
            self.ended(call.call_id, call.principal)

    def _check_room(self, heard: HeardCall, size: int) -> None:
        """Raises `TooMuchLive` where this sender, or all together, have too much."""
        calls, byte_count = self._sizes.get(heard.principal, (0, 0))
        more = (heard.call_id, heard.principal) not in self.calls
        limit = self._quota.limit_bytes // QUOTA_SHARE
        if more and (len(self.calls) >= MOST or calls >= MOST_OF_SENDER):
            raise TooMuchLive(f"{calls} calls of this sender are live, and {len(self.calls)} in all")
        if self._bytes + size > limit or byte_count + size > limit // 2:
            raise TooMuchLive(
                f"the live calls of this sender take {byte_count} bytes, all of them {self._bytes}, and {limit} may be "
                "taken, by one sender half of that"
            )

    def _note(self, call: LiveCall) -> None:
        key = call.call_id, call.principal
        before = self.calls.get(key)
        if before is not None and before.version > call.version:
            return
        self.calls[key] = call
        self._resize(call.principal, before is None, call.raw_bytes - (before.raw_bytes if before else 0))

    def _resize(self, principal: str, calls: int, byte_count: int) -> None:
        self._bytes += byte_count
        before = self._sizes.get(principal, (0, 0))
        after = before[0] + calls, before[1] + byte_count
        if after[0]:
            self._sizes[principal] = after
        else:
            self._sizes.pop(principal, None)
