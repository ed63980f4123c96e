"""The gateway's side of the reader, a process of its own that opens an outbox file (`reader_main`).

A process lives for one look at a file: it is started when the file changed, and ended when its rows were taken. When it
dies (a truncated `-shm` ends it with SIGBUS), takes too long or says nonsense, that is a fault of the file.
"""

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from gateway.process import end_process
from gateway.sdk_outbox.model import Batch, OutboxBusy, OutboxUnusable, Row, Stamp, Survey, stamp_of
from gateway.sdk_outbox.reader_main import (
    LARGEST_MESSAGE,
    Answer,
    Claim,
    Claimed,
    Copy,
    Failed,
    Look,
    Open,
    Opened,
    Piece,
    Remain,
    Remaining,
    Request,
    Settle,
    Settled,
    Surveyed,
    decode_answer,
    framed,
)
from spool import sandbox
from spool.sandbox import module_command

ANSWER_SECONDS = 30.0
"""For an answer, or a piece of one: with a lock that another process holds, and a disk that is slow."""
END_SECONDS = 5.0
"""To let go of the file in order, once there are no more requests."""
_CHECKED_BYTES_PER_SECOND = 20 << 20
"""More time for the check of a large file: a slow disk reads as much."""

_COMMAND = module_command("gateway.sdk_outbox.reader_main")
_log = structlog.get_logger("callspool.outbox")
_AnswerType = TypeVar("_AnswerType", bound=Answer)


class OutboxReader:
    """An outbox of the SDK. `open` before the first of the other calls, `close` after the last. For the event loop.

    `owners` are the user ids that the file may belong to; the gateway's own and root's are always among them.
    """

    def __init__(self, path: Path, owners: Collection[int] = ()) -> None:
        self.path = path
        self._owners = frozenset({*owners, os.geteuid(), 0})
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._proven: Stamp | None = None

    def stamp(self) -> Stamp | None:
        """See `stamp_of`: cheap enough to be asked every second, and it opens nothing."""
        return stamp_of(self.path)

    async def open(self, stamp: Stamp, *, to_change: bool = True) -> bool:
        """Start a process that makes sure that it is an outbox, and connects to it; False where it has no table yet.

        Its schema is looked at each time; all its pages are when it is small, new, replaced, or failed before. Raises
        `OutboxError`.
        """
        check = self._proven is None or stamp.replaces(self._proven)
        owners = ",".join(str(owner) for owner in sorted(self._owners))
        self._process = await asyncio.create_subprocess_exec(
            *_COMMAND,
            str(self.path),
            owners,
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,
            env=sandbox.environment(os.environ),
        )
        opened = await self._ask(Open(to_change, check), Opened, stamp.size / _CHECKED_BYTES_PER_SECOND)
        self._proven = stamp
        if not opened.confined:
            _log.debug("outbox_reader_without_landlock", outbox=str(self.path))
        return opened.found

    async def close(self) -> None:
        """End the process; harmless when repeated."""
        process, self._process = self._process, None
        if process is None:
            return
        # Without more requests it lets go of the file in order, which moves the log into it.
        await end_process(process, grace=END_SECONDS)

    async def claim(self, now: float, left_out: Collection[int]) -> Batch:
        """See `OutboxFile.claim`."""
        return (await self._ask(Claim(now, frozenset(left_out)), Claimed)).batch

    async def copy(self, row: Row) -> AsyncGenerator[bytes, None]:
        """The payload of a row, piece by piece; close it when it is left early. Raises `OutboxError`."""
        async with self._turn:
            answer = await self._answered(Copy(row.row_id), Piece)
            try:
                while answer.data:
                    yield answer.data
                    answer = await self._answered(None, Piece)
            finally:
                # Left early, for want of room, say: the row is to be given back, so the next answer must be another.
                if self._process is not None and answer.data:
                    await self._skip_pieces(self._process)

    async def settle(self, claimed_at: float, done: Sequence[Row], not_done: Sequence[Row]) -> None:
        """See `OutboxFile.settle`."""
        await self._ask(Settle(claimed_at, _without_payloads(done), _without_payloads(not_done)), Settled)

    async def remains(self, left_out: Collection[int]) -> tuple[int, float | None]:
        """See `OutboxFile.remains`."""
        answer = await self._ask(Remain(frozenset(left_out)), Remaining)
        return answer.rows, answer.free_from

    async def survey(self, now: float) -> Survey:
        """See `OutboxFile.survey`."""
        return (await self._ask(Look(now), Surveyed)).survey

    async def _ask(self, request: Request, expected: type[_AnswerType], more_seconds: float = 0.0) -> _AnswerType:
        async with self._turn:
            return await self._answered(request, expected, more_seconds)

    async def _answered(
        self, request: Request | None, expected: type[_AnswerType], more_seconds: float = 0.0
    ) -> _AnswerType:
        """The answer to a request, or the next one. A process that is left in the middle of one is ended."""
        process, seconds = self._process, ANSWER_SECONDS + more_seconds
        if process is None:
            raise OutboxBusy("the process that reads it has ended")
        try:
            async with asyncio.timeout(seconds):
                answer = await _exchange(process, request)
        except TimeoutError:
            await self._kill(process)
            raise self._faulty(f"the process that reads it did not answer within {seconds:.0f} s") from None
        except (ConnectionError, asyncio.IncompleteReadError):
            await self._kill(process, dying=True)
            raise self._faulty(_ended(process)) from None
        except msgspec.MsgspecError:
            await self._kill(process)
            raise self._faulty("the process that reads it answered nonsense") from None
        except BaseException:
            await self._kill(process)
            raise
        if isinstance(answer, Failed):
            if answer.traceback:
                _log.error("unexpected error in an outbox reader", outbox=str(self.path), traceback=answer.traceback)
            if answer.busy:
                raise OutboxBusy(answer.reason)
            raise self._faulty(answer.reason)
        if not isinstance(answer, expected):
            await self._kill(process)
            raise self._faulty("the process that reads it sent an invalid answer")
        return answer

    def _faulty(self, reason: str) -> OutboxUnusable:
        """A file that failed is checked in full before its next use."""
        self._proven = None
        return OutboxUnusable(reason)

    async def _skip_pieces(self, process: Process) -> None:
        try:
            async with asyncio.timeout(END_SECONDS):
                while (await self._answered(None, Piece)).data:
                    pass
        except TimeoutError:
            await self._kill(process)

    async def _kill(self, process: Process, *, dying: bool = False) -> None:
        """End it; one that is about to end by itself is let, for a kill would hide its status."""
        self._process = None
        await end_process(process, grace=END_SECONDS if dying else 0.0)


async def _exchange(process: Process, request: Request | None) -> Answer:
    assert process.stdin is not None, "started with pipes"
    assert process.stdout is not None, "started with pipes"
    if request is not None:
        process.stdin.write(framed(request))
        await process.stdin.drain()
    size = int.from_bytes(await process.stdout.readexactly(sandbox.LENGTH_BYTES), "little")
    if size > LARGEST_MESSAGE:
        raise msgspec.DecodeError(f"a message of {size} bytes")
    answer: Answer = decode_answer(await process.stdout.readexactly(size))
    return answer


def _ended(process: Process) -> str:
    """Why a process may have ended in the middle of its work."""
    status = process.returncode or 0
    if status == -signal.SIGBUS:
        return "a file beside it (-shm) was cut off while it was read: stop the agent, and remove that file"
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"the process that reads it ended with {name}: the file is damaged, or made to do harm"


def _without_payloads(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(msgspec.structs.replace(row, payload=None) for row in rows)
