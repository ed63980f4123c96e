"""The replies to the lines of one batch, each a line of JSON that is known at once or later."""

import asyncio
import time

import structlog

from gateway.intake import answers
from gateway.intake.accepting import Acceptor
from gateway.intake.body import Body
from gateway.intake.lines import Line
from gateway.intake.ports import IntakeObserver
from gateway.intake.prepared import Opened, call_id_of
from gateway.intake.refusals import internal, translate
from gateway.intake.replies import Replier, Sender
from gateway.intake.routes import Route

_log = structlog.get_logger(__name__)
_LINES_IN_FLIGHT = 64
"""Enough to fill commits: the spool takes about 16 small records at a time from connections."""


class LineReplier:
    """Accepts the lines of one batch, many at once, those of the same call in their order. For the event loop."""

    def __init__(
        self, acceptor: Acceptor, replier: Replier, observer: IntakeObserver, sender: Sender, bytes_in_flight: int
    ) -> None:
        self._acceptor = acceptor
        self._replier = replier
        self._observer = observer
        self._sender = sender
        self._bytes_max = bytes_in_flight
        self._bytes = 0
        self._lines = 0
        self._room = asyncio.Event()
        self._last_of_call: dict[str, asyncio.Task[bytes]] = {}

    def refuse(self, number: int, line: Line, error: Exception) -> "asyncio.Future[bytes]":
        """The answer to a line that is not looked at."""
        if isinstance(line, Body):
            line.release()
        known: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        known.set_result(self._refused(number, error))
        return known

    async def reply(self, number: int, line: Body | Exception) -> "asyncio.Future[bytes]":
        """The answer to a line, known once it is durable; waits first until enough of the others are."""
        if isinstance(line, Exception):
            return self.refuse(number, line, line)
        started = time.perf_counter()
        size = 0 if line.staged else len(line.data)
        await self._wait_for_room(size)
        try:
            opened = await self._acceptor.examine(line)
        except Exception as error:  # noqa: BLE001  # told to the sender, and to the log if nobody foresaw it
            return self.refuse(number, line, error)
        self._lines += 1
        self._bytes += size
        call_id = call_id_of(opened)
        task = asyncio.create_task(self._finish(number, opened, started, self._last_of_call.get(call_id)))
        self._last_of_call[call_id] = task
        task.add_done_callback(lambda done: self._done(done, call_id, line, size))
        return task

    async def _finish(
        self, number: int, opened: Opened, started: float, earlier: "asyncio.Task[bytes] | None"
    ) -> bytes:
        if earlier is not None:
            await asyncio.wait([earlier])
        try:
            reply = await self._replier.reply(opened, self._sender)
        except Exception as error:  # noqa: BLE001  # told to the sender, and to the log if nobody foresaw it
            return self._refused(number, error)
        self._observer.posted(Route.BATCH.value, reply.result)
        if reply.acknowledges:
            self._observer.acknowledged(time.perf_counter() - started)
        return _numbered(number, reply.status, reply.body)

    def _refused(self, number: int, error: Exception) -> bytes:
        refusal = translate(error)
        if refusal is None:
            _log.error("unexpected error in a batch", exc_info=error)
            refusal = internal()
        self._observer.posted(Route.BATCH.value, refusal.code)
        return _numbered(number, refusal.status, answers.refused(refusal))

    async def _wait_for_room(self, size: int) -> None:
        while self._lines >= _LINES_IN_FLIGHT or (self._bytes and self._bytes + size > self._bytes_max):
            self._room.clear()
            await self._room.wait()

    def _done(self, task: "asyncio.Task[bytes]", call_id: str, body: Body, size: int) -> None:
        body.release()
        self._lines -= 1
        self._bytes -= size
        self._room.set()
        if self._last_of_call.get(call_id) is task:
            del self._last_of_call[call_id]


def _numbered(number: int, status: int, body: bytes) -> bytes:
    """The body of an answer with the number of its line and its status before the other members."""
    return b'{"line":%d,"status":%d,%b\n' % (number, status, body[1:])
