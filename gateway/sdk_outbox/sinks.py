"""Taking a row into the spool: the same examination and acceptance as a post, durable when it returns."""

import asyncio
import mmap
import os
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
import msgspec
import structlog

from gateway.calllog import document
from gateway.calllog.document import credential
from gateway.calllog.errors import CallLogError
from gateway.intake.accept import SUPERSEDED_BY, Acceptor, Arrival
from gateway.intake.memory import Body, MemoryBudget
from gateway.intake.parse import CallLog
from gateway.intake.ports import IntakeObserver
from gateway.intake.responses import translate
from gateway.intake.routes import HEADER, IntakeToken
from gateway.intake.staging import Staged, StagedFile, StagingArea, Workers
from gateway.live_calls import ENDED
from gateway.process import end_process
from gateway.sdk_outbox.file import BATCH_BYTES
from gateway.sdk_outbox.model import OutboxError, Outcome, Row, RowRefused, SinkUnavailable
from gateway.sdk_outbox.restore import Refused, Restored, ScratchWanted, decode_answer, restore
from spool import sandbox
from spool.records import Buffer

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
            raise _reason_for(error, row) from error

    async def _take(self, row: Row, copy: Copy) -> Outcome:
        """Examine and accept one row."""
        body, restored = await self._load(row, copy)
        try:
            arrival = Arrival(
                agents_key=self._key_for(restored),
                tenant=self.token.tenant_of_key(restored.key),
                superseded_by=ENDED if restored.partial else None,
            )
            parsed = await self.acceptor.parse(body, arrival)
            if not isinstance(parsed, CallLog):
                raise RowRefused("its whispey_data is not a call log")
            accepted = await self.acceptor.accept(parsed, arrival)
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
            restored, pieces = (
                _restored_here(row.payload) if row.size <= _WRITE_BYTES // 4 else await run(_restored_here, row.payload)
            )
            return Body(b"".join(pieces), None, None), restored
        staged = self.staging.begin()
        try:
            payload = await run(staged.file)
            async with aclosing(copy(row)) as blocks:
                async for block in blocks:
                    await run(payload.write, block)
            scratch: list[StagedFile] = []

            async def new_file(size: int) -> int:
                scratch.append(await run(staged.new_file, size))
                return scratch[-1].descriptor()

            restored = await restore_in_process(await run(payload.descriptor), new_file)
            source = await run((scratch[-1] if restored.copied else payload).map)
            file = await run(_written, staged, restored.views(source))
            data = await run(file.map)
        except BaseException:
            staged.discard()
            raise
        return Body(data, None, staged, file), restored


def _reason_for(error: Exception, row: Row) -> RowRefused | SinkUnavailable:
    """Why a row was not taken.

    Its frame is gone when the reason is raised: a local name for an exception there would keep its traceback, and with
    that the row, until the collector comes.
    """
    rejection = translate(error)
    if rejection is None:
        _log.error("unexpected error with a row", row=row.row_id, call_id=row.call_id, exc_info=error)
        return RowRefused("an unexpected error met it; the log has the details")
    return (RowRefused if rejection.retry_after is None else SinkUnavailable)(rejection.message)


def _restored_here(payload: bytes) -> tuple[Restored, list[Buffer]]:
    """A small row, and the pieces of its call log."""
    copies: list[bytearray] = []

    def scratch(size: int) -> bytearray:
        copies.append(bytearray(size))
        return copies[-1]

    restored = restore(payload, scratch)
    return restored, restored.views(copies[-1] if restored.copied else payload)


def _written(staged: Staged, pieces: Iterable[Buffer]) -> StagedFile:
    """The call log of a large row in a staging file of its own. For worker threads."""
    call_log = staged.file()
    for piece in _pieces_of(pieces):
        call_log.write(piece)
    return call_log


def _pieces_of(pieces: Iterable[Buffer]) -> Iterable[memoryview]:
    """So small that no more than one of them is copied at a time."""
    for piece in pieces:
        view = memoryview(piece)
        while view:
            yield view[:_WRITE_BYTES]
            view = view[_WRITE_BYTES:]


# The call log of a large row, restored in a process of its own: whoever wrote the row decides what that takes.

RESTORE_SECONDS = 60.0
_COMMAND = sandbox.module_command("gateway.sdk_outbox.restore")


async def restore_in_process(payload: int, new_file: Callable[[int], Awaitable[int]]) -> Restored:
    """The call log of the payload in an open file; `new_file` opens one of a size for a changed copy.

    Raises `RowRefused`, also where the process ends or takes too long: then it is the row that is odd.
    """
    answer = await _answer(payload)
    if isinstance(answer, ScratchWanted):
        answer = await _answer(payload, await new_file(answer.size))
    if isinstance(answer, Refused):
        raise RowRefused(answer.reason)
    if isinstance(answer, ScratchWanted):
        raise RowRefused("its call log could not be examined: it changed meanwhile")
    return answer


async def _answer(*files: int) -> Restored | ScratchWanted | Refused:
    process = await asyncio.create_subprocess_exec(
        *_COMMAND, *map(str, files), stdin=DEVNULL, stdout=PIPE, pass_fds=files, start_new_session=True,
        env=sandbox.environment(os.environ),
    )  # fmt: skip
    try:
        async with asyncio.timeout(RESTORE_SECONDS):
            output, _ = await process.communicate()
        answer: Restored | ScratchWanted | Refused = decode_answer(output)
    except TimeoutError:
        raise RowRefused(f"its call log could not be examined within {RESTORE_SECONDS:.0f} s") from None
    except msgspec.MsgspecError:
        raise RowRefused(f"its call log could not be examined: the process ended with {process.returncode}") from None
    else:
        return answer
    finally:
        await end_process(process)


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
        restored, pieces = await _restored(row, copy)
        try:
            async with self._session.post(
                self._url, data=_sent(pieces), headers=self._headers(restored, pieces)
            ) as response:
                return _outcome(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise SinkUnavailable(f"the gateway did not answer: {error or type(error).__name__}") from error

    def _headers(self, restored: Restored, pieces: Sequence[Buffer]) -> dict[str, str]:
        """Credentials, length, and whether it yields to a full end."""
        size = sum(len(memoryview(piece)) for piece in pieces)
        headers = {"Content-Type": "application/json", "Content-Length": str(size)}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if key := credential(restored.key) or self._key:
            headers[HEADER] = key
        if restored.partial:
            headers[SUPERSEDED_BY] = ENDED
        return headers


async def examine(row: Row, copy: Copy) -> None:
    """Raise `RowRefused` for a row that the intake would refuse, without storing anything."""
    if row.payload is None and row.size <= BATCH_BYTES:
        async with aclosing(copy(row)) as blocks:
            row = msgspec.structs.replace(row, payload=b"".join([block async for block in blocks]))
    _, pieces = await _restored(row, copy)
    try:
        await asyncio.to_thread(lambda: document.parse(b"".join(pieces)))
    except CallLogError as error:
        raise RowRefused(str(error)) from error


async def _restored(row: Row, copy: Copy) -> tuple[Restored, list[Buffer]]:
    """The call log of a row; a large payload is mapped from a file without a name."""
    if row.payload is not None:
        return _restored_here(row.payload)
    with tempfile.TemporaryFile() as payload, tempfile.TemporaryFile() as scratch:
        async with aclosing(copy(row)) as blocks:
            async for block in blocks:
                payload.write(block)
        payload.flush()

        async def new_file(size: int) -> int:
            scratch.truncate(size)
            return scratch.fileno()

        restored = await restore_in_process(payload.fileno(), new_file)
        text = scratch if restored.copied else payload
        mapped = mmap.mmap(text.fileno(), 0, access=mmap.ACCESS_READ)
    return restored, restored.views(memoryview(mapped))


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
        raise SinkUnavailable(f"another program answers there, not callspool (HTTP {status})") from None
    if status == _ACCEPTED:
        if answer.duplicate:
            return Outcome.DUPLICATE
        return Outcome.SUPERSEDED if answer.superseded else Outcome.RESCUED
    if status in _REFUSED:
        raise RowRefused(answer.error.message)
    raise SinkUnavailable(f"{answer.error.message} {answer.error.hint}")
