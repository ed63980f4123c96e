"""The gateway's side of the parse worker, a process of its own that parses giant bodies (`parse_worker_main`).

There is one, started with the first giant and kept; senders take turns, and giants of an ordinary shape go before what
is costly. A post whose parsing does not end (the process crashed, was killed, ran into a limit of the machine) is tried
once more with a new process.
"""

import asyncio
import os
import signal
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from gateway.calllog.document import Envelope
from gateway.calllog.errors import CallLogError, Fault
from gateway.calllog.shape import is_dense
from gateway.intake.memory import Body
from gateway.intake.parse import Parsed, SizeRule, with_text
from gateway.intake.parse_worker_main import (
    LENGTH_BYTES,
    Failed,
    Faulty,
    Found,
    FromWorker,
    Job,
    ScratchGiven,
    ScratchWanted,
    TooComplex,
    ToWorker,
    decode_from_worker,
    framed,
)
from gateway.intake.responses import ClientGone, Rejection
from gateway.intake.staging import StagedFile, Workers
from gateway.intake.turns import Turns, is_gone, sender_of
from gateway.process import end_process
from spool.sandbox import environment, module_command
from uploaders.redaction.options import Redaction

_log = structlog.get_logger(__name__)
_COMMAND = module_command("gateway.intake.parse_worker_main")

_DYING_SECONDS = 1.0
CPU_SECONDS: Final = 2.5
"""For any body, an envelope and what it carries together; a giant gets a second more for each 32 MiB."""
WALL_SECONDS: Final = 15.0
"""The same for the time that passes: a machine that swaps, or a process that was stopped, holds up nobody for ever."""
_BYTES_PER_CPU_SECOND: Final = 32 << 20
_BYTES_PER_SECOND: Final = 8 << 20
_REDACTED_BYTES_PER_SECOND: Final = 2 << 20
"""Of both, where it is redacted as well: 10 to 35 MB a second of real call logs, less of hostile ones."""
_SCRATCH_FILES_MOST: Final = 2
"""One for the redacted copy of a body, and one for that without non-finite numbers."""


class _Ended(Exception):
    """The process ended in the middle of a job."""


class ParseWorker:
    """Parses staged bodies one after the other. For the event loop; `close` when no post is under way."""

    def __init__(self, workers: Workers, modules: Sequence[str] = ()) -> None:
        """`modules` are what the process loads before it confines itself."""
        self._workers = workers
        self._modules = modules
        self._turns = Turns(1)
        self._process: Process | None = None
        self._files: socket.socket | None = None
        """Over which the process is given files."""

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    async def parse(self, body: Body, rule: SizeRule, redaction: Redaction | None = None) -> Parsed | Envelope:
        """What the body is, or what a redaction leaves of it: views of its file, or of a changed copy.

        It is spilled to that file if need be.
        Raises `CallLogError` when it is invalid, `Rejection` when it cannot be parsed (413, 503) or, costly, has nobody
        waiting for it, and what staging raises. When this is cancelled, the process is ended in the middle of its work.
        """
        costly = await self._workers.run(is_dense, body.data)
        file = await self._workers.run(body.spill)
        body.hold_file(await self._workers.run(file.map))
        await self._turns.begin(sender_of(body.request), costly=costly)
        try:
            if costly and is_gone(body.request):
                raise ClientGone("nobody waits for the answer")
            left = CPU_SECONDS + len(body.data) / _BYTES_PER_CPU_SECOND - body.parse_seconds
            more = 0.0 if redaction is None else len(body.data) / _REDACTED_BYTES_PER_SECOND
            job = Job(rule, max(left, 0.01) + more, redaction)
            seconds = WALL_SECONDS + len(body.data) / _BYTES_PER_SECOND + more
            try:
                found, scratch = await self._answered_in(seconds, job, file, body.new_file)
            except _Ended:
                try:
                    found, scratch = await self._answered_in(seconds, job, file, body.new_file)
                except _Ended as error:
                    raise _given_up(str(error)) from None
            body.parse_seconds += found.cpu_seconds
        finally:
            self._turns.end()
        if found.text is None:
            assert scratch is not None, "a changed copy needs a file"
            return with_text(found.parsed, await self._workers.run(scratch.map))
        return with_text(found.parsed, memoryview(body.data)[found.text.start : found.text.end])

    async def close(self) -> None:
        """End the process."""
        if self._process is not None:
            await self._end(self._process)

    async def _answered_in(
        self, seconds: float, job: Job, file: StagedFile, new_file: Callable[[int], StagedFile]
    ) -> tuple[Found, StagedFile | None]:
        """As `_answered`, with a process that is killed when the time is over, which would take as long again."""
        try:
            async with asyncio.timeout(seconds):
                return await self._answered(job, file, new_file)
        except TimeoutError:
            raise _given_up(f"it took more than {seconds:.0f} s") from None

    async def _answered(
        self, job: Job, file: StagedFile, new_file: Callable[[int], StagedFile]
    ) -> tuple[Found, StagedFile | None]:
        """The answer of a process about the body, and the last file that it asked for. Raises `_Ended`.

        A process that is interrupted here is ended: its next message would be taken for the answer to another job.
        """
        process = self._process or await self._start()
        scratch: StagedFile | None = None
        try:
            answer = await self._asked(process, job, file)
            for _ in range(_SCRATCH_FILES_MOST):
                if not isinstance(answer, ScratchWanted):
                    break
                scratch = await self._workers.run(new_file, answer.size)
                answer = await self._asked(process, ScratchGiven(), scratch)
        except BaseException as error:
            await self._end(process, dying=isinstance(error, _Ended))
            if isinstance(error, _Ended):
                _log.warning("parse_worker_ended", status=process.returncode, body_bytes=file.size)
                if process.returncode == -signal.SIGPROF:
                    raise _too_complex("time") from None
                raise _Ended(f"it ended with status {process.returncode}") from None
            raise
        return _found(answer), scratch

    async def _start(self) -> Process:
        """A new process: spawned, because a fork would keep the spool's lock. Raises `OSError`."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *_COMMAND,
                    str(theirs.fileno()),
                    *self._modules,
                    stdin=PIPE,
                    stdout=PIPE,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env=environment(os.environ),
                )
        except BaseException:
            ours.close()
            raise
        self._files = ours
        return self._process

    async def _end(self, process: Process, *, dying: bool = False) -> None:
        """Kill the process and wait for it; a dying one may end by itself, so that its status is known."""
        self._process = None
        if self._files is not None:
            self._files.close()
            self._files = None
        await end_process(process, grace=_DYING_SECONDS if dying else 0.0)

    async def _asked(self, process: Process, message: ToWorker, file: StagedFile) -> FromWorker:
        """The answer to a message, with which a file goes. Raises `_Ended` when none comes."""
        assert process.stdin is not None, "started with pipes"
        assert process.stdout is not None, "started with pipes"
        assert self._files is not None, "started with a socket"
        try:
            socket.send_fds(self._files, [b"f"], [file.descriptor()])
            process.stdin.write(framed(message))
            await process.stdin.drain()
            head = await process.stdout.readexactly(LENGTH_BYTES)
            return decode_from_worker(await process.stdout.readexactly(int.from_bytes(head, "little")))
        except (ConnectionError, asyncio.IncompleteReadError):
            raise _Ended from None


def _found(answer: FromWorker) -> Found:
    """What the body is; raises the error that the worker found instead."""
    match answer:
        case Found():
            return answer
        case Faulty():
            raise CallLogError(Fault(answer.code), answer.message, answer.hint, answer.position)
        case TooComplex():
            raise _too_complex("memory")
        case Failed():
            _log.error("unexpected error in the parse worker", traceback=answer.traceback)
            raise _given_up("it met an unexpected error; the gateway's log has the details")
        case ScratchWanted():
            raise _given_up("it exceeded its memory limit")


def _too_complex(what: str) -> Rejection:
    return Rejection(
        413,
        "too_complex",
        f"The call log has too many members or elements to be parsed in the {what} that is set aside for that.",
        "Send it with fewer top-level members, and without NaN and lone surrogates.",
    )


def _given_up(why: str) -> Rejection:
    """The body may be valid, but could not be parsed."""
    return Rejection(
        503,
        "parse_worker_failed",
        f"The process that parses large call logs failed with this one: {why}.",
        "Keep the call log and send it again later; the machine may be out of memory.",
        retry_after=10,
    )
