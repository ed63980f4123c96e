"""Taking a row into the spool: the same examination and acceptance as a post, durable when it returns."""

import asyncio
import json
import mmap
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import aiohttp
import msgspec
import structlog

from gateway.calllog.document import credential, text_of
from gateway.calllog.errors import CallLogError
from gateway.calllog.toplevel import Member, Scratch, TopLevel, scan
from gateway.intake.accept import SUPERSEDED_BY, Acceptor
from gateway.intake.memory import Body, MemoryBudget
from gateway.intake.parse import CallLog
from gateway.intake.ports import IntakeObserver
from gateway.intake.responses import translate
from gateway.intake.routes import HEADER, IntakeToken
from gateway.intake.staging import Staged, StagedFile, StagingArea, Workers
from gateway.live_calls import ENDED, STARTED
from gateway.sdk_outbox.file import BATCH_BYTES
from gateway.sdk_outbox.rows import OutboxError, Outcome, Row, RowRefused, SinkUnavailable
from spool.records import Buffer

# From a row of the SDK's outbox to the call log as the SDK posts it, byte for byte. Pure.
#
# The SDK writes a row before it prepares the call log for its post. What it changes then (`send_log.py` of 4.2.11) is
# done here in the same way, because only equal bytes have an equal digest, by which a row whose post was accepted is
# recognised: a missing `call_ended_reason` is appended, and times that are numbers become naive local ISO texts.

_TIMES = frozenset({"call_started_at", "call_ended_at"})
_NUMBER = b"-0123456789"
_REASON = b'"call_ended_reason": "completed"'


@dataclass(frozen=True, slots=True)
class Restored:
    """A call log as the SDK would have posted it."""

    pieces: tuple[Buffer, ...] = field(repr=False)
    """Views into the row's payload and what was put between them; their concatenation is the call log."""
    key: str | None = field(repr=False)
    """The agent's key; None where the SDK would have taken it from its environment."""
    partial: bool
    """Whether it is an end without telemetry, as the SDK writes at the exit of its process."""
    nonfinite_numbers: int
    """How many NaN and Infinity of the row are null now."""


def restore(payload: Buffer, scratch: Scratch = bytearray) -> Restored:
    """The call log in the payload of a row: `{"whispey_data": {...}, "apikey": ..., "api_url": ...}`.

    `scratch` gives the buffer for the copy of a payload with non-finite numbers. Raises `RowRefused`.
    """
    try:
        row = scan(payload, scratch)
        if "whispey_data" not in row.values:
            raise RowRefused("its payload has no whispey_data")
        call_log = scan(memoryview(row.values["whispey_data"]))
    except CallLogError as error:
        raise RowRefused(f"its payload is not what the SDK writes: {error.message}") from error
    event = text_of(call_log.values.get("wcall_event"))
    return Restored(
        pieces=tuple(_as_posted(call_log, event)),
        key=text_of(row.values.get("apikey")) or None,
        partial=event == ENDED and "telemetry_data" not in call_log.values,
        nonfinite_numbers=row.nonfinite_numbers,
    )


def _as_posted(call_log: TopLevel, event: str | None) -> Iterator[Buffer]:
    """The pieces of the call log, with what the SDK changes before it posts."""
    text = memoryview(call_log.text)
    members = call_log.members()
    kept_until = 0
    for member in members:
        if member.name in _TIMES and (written := _iso(member)) is not None:
            yield text[kept_until : member.value_start]
            yield written
            kept_until = member.end
    if event == STARTED or "call_ended_reason" in call_log.values:
        yield text[kept_until:]
        return
    end = members[-1].end if members else len(text) - 1
    yield text[kept_until:end]
    yield b", " + _REASON if members else _REASON
    yield text[end:]


def _iso(member: Member) -> bytes | None:
    """The time as the SDK posts it; None for what it posts as it is, or fails on."""
    if member.value[0] not in _NUMBER:
        return None
    number: int | float = json.loads(bytes(member.value))
    try:
        return json.dumps(datetime.fromtimestamp(number).isoformat()).encode()  # noqa: DTZ006  # naive, as the SDK's
    except (ValueError, OSError):
        return json.dumps(str(number)).encode()
    except OverflowError:
        return None


MEMORY_BYTES = 3 * BATCH_BYTES
"""For a batch: its payloads, its call logs, and what examining them takes."""
_log = structlog.get_logger("callspool.outbox")
_WRITE_BYTES = 1 << 20

Copy = Callable[[Row], AsyncGenerator[bytes, None]]
"""Gives the payload of a row, piece by piece."""


class RowSink(Protocol):
    """Where rescued rows go."""

    async def store(self, row: Row, copy: Copy) -> Outcome:
        """Make a row's call log durable there; the outcome is one that allows the row to be deleted.

        Raises `RowRefused` for a row that is no call log, `SinkUnavailable` while nothing can be accepted, and
        `OutboxError` where the row cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSink:
    """Takes rows into the spool of this process, through the parts of its intake. For the event loop."""

    acceptor: Acceptor
    budget: MemoryBudget
    staging: StagingArea
    workers: Workers
    token: IntakeToken
    observer: IntakeObserver
    key: str | None = field(repr=False)
    """The agent's key for rows that hold none."""

    async def store(self, row: Row, copy: Copy) -> Outcome:
        """See `RowSink`."""
        try:
            # A small row waits for memory like a post, so that posts are not the ones that wait.
            with await self.budget.reserve(min(3 * row.size, MEMORY_BYTES, self.budget.largest)):
                return await self._take(row, copy)
        except (OutboxError, RowRefused):
            raise
        except Exception as error:  # whatever it is, the row stays in the outbox, and the others go on
            rejection = translate(error)
            if rejection is None:
                _log.error("unexpected error with a row", row=row.row_id, call_id=row.call_id, exc_info=error)
                raise RowRefused("an unexpected error met it; the log has the details") from error
            if rejection.retry_after is not None:
                raise SinkUnavailable(rejection.message) from error
            raise RowRefused(rejection.message) from error

    async def _take(self, row: Row, copy: Copy) -> Outcome:
        """Examine and accept one row."""
        body, restored = await self._load(row, copy)
        try:
            parsed = await self.acceptor.parse(body)
            if not isinstance(parsed, CallLog):
                raise RowRefused("its whispey_data is not a call log")
            accepted = await self.acceptor.accept(
                parsed, self._key_for(restored), superseded_by=ENDED if restored.partial else None
            )
        finally:
            body.release()
        if accepted.duplicate:
            return Outcome.DUPLICATE
        if restored.nonfinite_numbers:
            self.observer.nonfinite_numbers(restored.nonfinite_numbers)
        return Outcome.SUPERSEDED if accepted.superseded else Outcome.RESCUED

    def _key_for(self, restored: Restored) -> str | None:
        """The agent's key of the row; else the one that the operator gave for rows without, as the SDK has it set."""
        return self.token.foreign(restored.key) or self.key

    async def _load(self, row: Row, copy: Copy) -> tuple[Body, Restored]:
        """The call log as a body: in memory, or in staging files where the row is large."""
        run = self.workers.run
        if row.payload is not None:
            restored = restore(row.payload) if row.size <= _WRITE_BYTES // 4 else await run(restore, row.payload)
            return Body(b"".join(restored.pieces), None, None), restored
        staged = self.staging.begin()
        try:
            payload = await run(staged.file)
            async with aclosing(copy(row)) as pieces:
                async for piece in pieces:
                    await run(payload.write, piece)
            file, restored = await run(_restored_in, staged, payload)
            data = await run(file.map)
        except BaseException:
            staged.discard()
            raise
        return Body(data, None, staged, file), restored


def _restored_in(staged: Staged, payload: StagedFile) -> tuple[StagedFile, Restored]:
    """The call log of a large row in a staging file of its own, as the SDK posts it. For worker threads."""
    scratch: Scratch = staged.scratch
    restored = restore(payload.map(), scratch)
    call_log = staged.file()
    for piece in _pieces_of(restored.pieces):
        call_log.write(piece)
    return call_log, restored


def _pieces_of(pieces: Iterable[Buffer]) -> Iterable[memoryview]:
    """So small that no more than one of them is copied at a time."""
    for piece in pieces:
        view = memoryview(piece)
        while view:
            yield view[:_WRITE_BYTES]
            view = view[_WRITE_BYTES:]


# Taking a row by posting it to the intake of a running gateway, whose answer says that it is durable.

_POST_PIECE_BYTES = 256 << 10
_ACCEPTED = 202
_REFUSED = {400, 413, 422}
"""What is wrong with this call log alone; any other answer speaks of the gateway."""


class _Error(msgspec.Struct):
    """Why a call log was refused."""

    message: str = ""
    hint: str = ""


class _Answer(msgspec.Struct):
    """What the intake answers, as far as it matters here."""

    duplicate: bool = False
    superseded: bool = False
    error: _Error = msgspec.field(default_factory=_Error)


class PostSink:
    """Takes rows through the intake at `url`. `token` is the intake's own, `key` the agent's for rows without one."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, token: str | None, key: str | None) -> None:
        self._session = session
        self._url = url
        self._token = token
        self._key = key

    async def store(self, row: Row, copy: Copy) -> Outcome:
        """See `gateway.sdk_outbox.sinks.RowSink`."""
        restored = await _restored(row, copy)
        try:
            async with self._session.post(
                self._url, data=_sent(restored.pieces), headers=self._headers(restored)
            ) as response:
                return _outcome(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise SinkUnavailable(f"the gateway did not answer: {error or type(error).__name__}") from error

    def _headers(self, restored: Restored) -> dict[str, str]:
        """Credentials, length, and whether it yields to a full end."""
        size = sum(len(memoryview(piece)) for piece in restored.pieces)
        headers = {"Content-Type": "application/json", "Content-Length": str(size)}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if key := credential(restored.key) or self._key:
            headers[HEADER] = key
        if restored.partial:
            headers[SUPERSEDED_BY] = ENDED
        return headers


async def _restored(row: Row, copy: Copy) -> Restored:
    """The call log of a row; a large payload is mapped from a file that is gone when nobody looks at it any more."""
    if row.payload is not None:
        return restore(row.payload)
    with tempfile.TemporaryFile() as file:
        async with aclosing(copy(row)) as pieces:
            async for piece in pieces:
                file.write(piece)
        file.flush()
        return await asyncio.to_thread(restore, memoryview(mmap.mmap(file.fileno(), row.size, access=mmap.ACCESS_READ)))


async def _sent(pieces: Sequence[Buffer]) -> AsyncIterator[bytes]:
    """The pieces, cut so small that few bytes of a large row are copied at a time."""
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _POST_PIECE_BYTES):
            yield bytes(view[start : start + _POST_PIECE_BYTES])


def _outcome(status: int, body: bytes) -> Outcome:
    """What an answer means for its row; raises what `store` raises."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise SinkUnavailable(f"what answers there is no callspool (HTTP {status})") from None
    if status == _ACCEPTED:
        if answer.duplicate:
            return Outcome.DUPLICATE
        return Outcome.SUPERSEDED if answer.superseded else Outcome.RESCUED
    if status in _REFUSED:
        raise RowRefused(answer.error.message)
    raise SinkUnavailable(f"{answer.error.message} {answer.error.hint}")
