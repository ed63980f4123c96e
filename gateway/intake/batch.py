"""NDJSON batches: one call log a line, one answer a line, in order.

Many lines are on their way into the spool at once, so that they share commits; lines of the same call go one
after the other, because their order is their meaning. The answers are written as soon as they are known, but
reading never waits for the client to take them: a client may send everything before it reads anything. What it
has not taken is kept, some 400 bytes a line, for at most twice as many lines as a
batch may have.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from aiohttp import web

from gateway.intake.accepting import Acceptor
from gateway.intake.budget import MemoryBudget
from gateway.intake.gate import Gate
from gateway.intake.incoming import Incoming, invite
from gateway.intake.line_replies import LineReplier
from gateway.intake.lines import LINE_BYTES, Complete, LineReader, Pieces
from gateway.intake.ports import IntakeObserver
from gateway.intake.reading import BodyReader
from gateway.intake.refusals import Refusal, stopping
from gateway.intake.replies import Replier, Sender

IN_FLIGHT_BYTES = 1 << 20
BATCH_BYTES = LINE_BYTES + IN_FLIGHT_BYTES
"""What a batch reserves, however long it is: the line being read, and those on their way into the spool."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How batches are read."""

    max_lines: int = 10_000
    """Call logs in one batch; those above it are answered with an error."""
    progress_timeout: float = 10.0
    """Seconds in which the client must send something and, once it has sent all, take some of its answers."""


class BatchRunner:
    """Reads batches. For the event loop."""

    def __init__(
        self,
        limits: BatchLimits,
        budget: MemoryBudget,
        reader: BodyReader,
        lines: LineReader,
        acceptor: Acceptor,
        replier: Replier,
        gate: Gate,
        observer: IntakeObserver,
    ) -> None:
        self._limits = limits
        self._budget = budget
        self._reader = reader
        self._lines = lines
        self._acceptor = acceptor
        self._replier = replier
        self._gate = gate
        self._observer = observer

    async def run(self, request: web.BaseRequest, sender: Sender) -> web.StreamResponse:
        """Take a batch and answer it. Raises what speaks against it before its first byte was read."""
        if request.headers.get("Content-Encoding"):
            # An encoded batch is decoded as a whole first; it is lines that make a batch, not its bytes.
            body = await self._reader.read(request)
            try:
                return await self._answer(request, Complete(body.data), sender)
            finally:
                body.release()
        size = min(request.content_length or BATCH_BYTES, BATCH_BYTES, self._budget.largest)
        with await self._budget.reserve(size):
            await invite(request)
            return await self._answer(request, Incoming(request, self._limits.progress_timeout, size), sender)

    async def _answer(self, request: web.BaseRequest, pieces: Pieces, sender: Sender) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        answers = _Answers(request, response, self._limits.progress_timeout)
        writing = asyncio.create_task(answers.write_all())
        try:
            await self._read(pieces, self._replier_for(sender), answers)
            answers.end()
            await writing
        except asyncio.CancelledError:
            answers.give_up()
            writing.cancel()
            raise
        return response

    def _replier_for(self, sender: Sender) -> LineReplier:
        return LineReplier(self._acceptor, self._replier, self._observer, sender, IN_FLIGHT_BYTES)

    async def _read(self, pieces: Pieces, replier: LineReplier, answers: "_Answers") -> None:
        number = taken = 0
        try:
            async for line in self._lines.lines(pieces):
                number += 1
                if line is None:
                    continue
                taken += 1
                if taken > 2 * self._limits.max_lines:
                    last = _too_many(self._limits.max_lines, "; this line and those behind it were not read")
                    answers.add(replier.refuse(number, line, last))
                    answers.closes = True
                    break
                if taken > self._limits.max_lines:
                    answers.add(replier.refuse(number, line, _too_many(self._limits.max_lines)))
                elif not self._gate.is_open:
                    answers.add(replier.refuse(number, line, stopping()))
                else:
                    answers.add(await replier.reply(number, line))
        except Exception as error:  # noqa: BLE001  # told to the sender, and to the log if nobody foresaw it
            answers.add(replier.refuse(number + 1, None, error))
            answers.closes = True
            answers.abandons = isinstance(error, Refusal) and error.abandons


class _Answers:
    """The answers of one batch, on their way to the client in the order of its lines."""

    def __init__(self, request: web.BaseRequest, response: web.StreamResponse, timeout: float) -> None:
        self.closes = False
        """Whether the connection ends with the batch, because the rest of it is not read."""
        self.abandons = False
        """Whether it ends at once, because nobody is there to send the rest."""
        self._request = request
        self._response = response
        self._timeout = timeout
        self._pending: deque[asyncio.Future[bytes] | None] = deque()
        self._added = asyncio.Event()
        self._ended = False
        self._limit: asyncio.Timeout | None = None

    def add(self, answer: "asyncio.Future[bytes]") -> None:
        """The answer to the next line, known now or later."""
        self._pending.append(answer)
        self._added.set()

    def end(self) -> None:
        """No line comes any more: from now on the client has only so much time for each step."""
        self._pending.append(None)
        self._added.set()
        self._ended = True
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._timeout)

    def give_up(self) -> None:
        """End the connection, with what the client has not taken yet."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def write_all(self) -> None:
        """Write until the end. When the client takes nothing, the connection ends, and every line is still awaited."""
        try:
            while data := await self._next():
                async with asyncio.timeout(self._timeout if self._ended else None) as self._limit:
                    await self._response.write(data)
                self._limit = None
            if self.closes:
                self._response.force_close()
            await self._response.write_eof()
            if self.abandons:
                self._request.protocol.force_close()
        except (ConnectionError, TimeoutError):
            self._limit = None
            self.give_up()
            while await self._next():
                pass

    async def _next(self) -> bytes:
        """The next answers, those that are known together; empty at the end."""
        known: list[bytes] = []
        while not known:
            while not self._pending:
                self._added.clear()
                await self._added.wait()
            first = self._pending[0]
            if first is None:
                break
            await asyncio.wait([first])
            while self._pending and (answer := self._pending[0]) is not None and answer.done():
                known.append(answer.result())
                self._pending.popleft()
        return b"".join(known)


def _too_many(max_lines: int, more: str = "") -> Refusal:
    return Refusal(
        413,
        "batch_too_long",
        f"The batch has more than the {max_lines} call logs that this gateway takes in one{more}.",
        "Send the rest in another batch.",
    )
