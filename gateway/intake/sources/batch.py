"""NDJSON batches: one call log a line, one answer a line, in order.

Many lines are on their way into the spool at once, so that they share commits; lines of the same call go one
after the other, because their order is their meaning. Answers are written as soon as they are known, but
reading never waits for the client to read them: a client may send everything before it reads anything. Unread answers
are kept, some 400 bytes a line, for at most twice as many lines as a batch may have.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.intake import responses
from gateway.intake.accept import PostService, Sender
from gateway.intake.admission import AdmissionGate
from gateway.intake.body_reader import BodyReader, Incoming, invite, is_encoded, protocol_of
from gateway.intake.memory import SMALL_POST_BYTES, Body, MemoryBudget, Reservation
from gateway.intake.parse import Parsed
from gateway.intake.ports import IntakeObserver
from gateway.intake.responses import Rejection, final_rejection, stopping, too_large
from gateway.intake.routes import Match, Route
from gateway.intake.staging import Staged, StagedFile, StagingArea, Workers
from gateway.intake.turns import Slices, sender_of
from spool.errors import SpoolError, SpoolFull

# The lines of an NDJSON body, each as a body of its own, whatever its length.

NAME = "batch"
"""Labels metrics."""
LINE_BYTES = 1 << 20
"""A longer line is staged."""
IDLE_SECONDS = 0.25
"""A batch of which nothing comes for so long gives its memory back."""
PARKED_BYTES = 4 << 10
"""What such a batch may hold all the same."""
_BLANK = b" \t\r"

Line = Body | Exception | int
"""A line's body; or why this line cannot be accepted, while the others can; or a number of blank ones."""
_blank_lines = re.compile(rb"(?:[ \t\r]*\n)+").match


class Pieces(Protocol):
    """The source of the bytes: the connection, or a complete body."""

    @property
    def line_bytes(self) -> int:
        """What of a line may be kept in memory; a longer one is staged."""

    async def next(self) -> bytes | memoryview | None:
        """The next piece; empty at the end; None when nothing came for a while."""


class Complete:
    """The pieces of a body that is there in full."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)
        self.line_bytes = LINE_BYTES

    async def next(self) -> memoryview:
        """The next 64 KiB."""
        piece, self._data = self._data[:SMALL_POST_BYTES], self._data[SMALL_POST_BYTES:]
        return piece


class Received:
    """The pieces of a request, with memory for lines while they come, and none while nothing comes."""

    def __init__(self, incoming: Incoming, reservation: Reservation, budget: MemoryBudget, sender: str) -> None:
        self._incoming = incoming
        self._reservation = reservation
        self._budget = budget
        self._sender = sender

    @property
    def line_bytes(self) -> int:
        """See `Pieces`."""
        return LINE_BYTES if self._reservation.size > SMALL_POST_BYTES else SMALL_POST_BYTES // 2

    async def next(self) -> bytes | None:
        """See `Pieces`. Raises `BudgetExhausted` as well as what `Incoming.next` raises."""
        piece = await self._incoming.next(IDLE_SECONDS)
        if piece is None:
            self._reservation.shrink(0)
            self._incoming.cover(0)
        elif piece and not self._reservation.size:
            if not self._reservation.try_grow(min(BATCH_BYTES, self._budget.largest)):
                with await self._budget.reserve(min(SMALL_POST_BYTES, self._budget.largest), self._sender) as reserved:
                    self._reservation = reserved.handed_over()
            self._incoming.cover(self._reservation.size)
        return piece

    def release(self) -> None:
        """Give the memory back."""
        self._reservation.release()


class LineReader:
    """Cuts pieces into lines. For the event loop."""

    def __init__(self, line_max: int | None, staging: StagingArea, workers: Workers) -> None:
        self._line_max = line_max
        self._staging = staging
        self._workers = workers

    async def lines(self, pieces: Pieces) -> AsyncIterator[Line]:
        """Every line without its end; the caller releases the bodies. Raises what `pieces` raises."""
        line = _GrowingLine(self._line_max, self._staging, self._workers)
        try:
            while (received := await pieces.next()) != b"":
                if received is None:
                    await line.park()
                    continue
                piece, line.bytes_max, start = bytes(received), pieces.line_bytes, 0
                while (end := piece.find(b"\n", start)) >= 0:
                    if line.empty and (blank := _blank_lines(piece, start)):
                        yield piece.count(b"\n", start, blank.end())
                        start = blank.end()
                        continue
                    await line.add(piece[start:end])
                    yield await line.finish()
                    start = end + 1
                await line.add(piece[start:])
            if not line.empty:
                yield await line.finish()
        finally:
            line.drop()


class _GrowingLine:
    """The line that is being read."""

    def __init__(self, line_max: int | None, staging: StagingArea, workers: Workers) -> None:
        self._line_max = line_max
        self._staging = staging
        self._workers = workers
        self.bytes_max = LINE_BYTES
        """What of it may be kept in memory."""
        self._size = 0
        self._data = bytearray()
        self._staged: Staged | None = None
        self._file: StagedFile | None = None
        self._failure: Exception | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing of it came yet."""
        return not self._size

    async def add(self, data: bytes) -> None:
        """Append a part of the line. A rejected line is not kept, only read to its end."""
        self._size += len(data)
        if self._failure is not None:
            return
        self._data += data
        try:
            if self._line_max is not None and self._size > self._line_max:
                raise too_large(self._line_max)
            if len(self._data) > self.bytes_max:
                await self._write()
        except (Rejection, SpoolError, OSError) as error:
            self.drop()
            self._failure = error

    async def park(self) -> None:
        """Keep hardly anything of it in memory, for nobody knows when it goes on."""
        try:
            if len(self._data) > PARKED_BYTES:
                await self._write()
        except (SpoolError, OSError) as error:
            self.drop()
            self._failure = error

    async def finish(self) -> Line:
        """The line; the next one begins. Where this is cancelled, the line is there still, to be dropped."""
        try:
            line: Line = self._failure or await self._body()
        except (SpoolError, OSError) as error:
            self.drop()
            line = error
        self._begin()
        return line

    def drop(self) -> None:
        """Discard the line that is being read."""
        self._data = bytearray()
        if self._staged is not None:
            self._staged.discard()
            self._staged = None

    def _begin(self) -> None:
        self._size = 0
        self._data = bytearray()
        self._staged = self._file = self._failure = None

    async def _body(self) -> Body | int:
        if self._file is not None:
            await self._write()
            return Body(await self._workers.run(self._file.map), None, self._staged, self._file)
        if not self._data.strip(_BLANK):
            return 1
        return Body(bytes(self._data), None, self._staging.begin() if self._size > SMALL_POST_BYTES else None)

    async def _write(self) -> None:
        if self._staged is None or self._file is None:
            self._staged = self._staging.begin()
            self._file = await self._workers.run(self._staged.file)
        await self._workers.run(self._file.write, self._data)
        self._data = bytearray()


# The replies to the lines of one batch, each a line of JSON that is known at once or later.

_LINES_IN_FLIGHT = 64
"""Enough to fill commits: the spool takes about 16 small records at a time from connections."""


class LineAcceptor:
    """Accepts the lines of one batch, many at once, those of the same call in their order. For the event loop."""

    def __init__(self, posts: PostService, observer: IntakeObserver, sender: Sender, bytes_in_flight: int) -> None:
        self._posts = posts
        self._observer = observer
        self._sender = sender
        self._bytes_max = bytes_in_flight
        self._bytes = 0
        self._lines = 0
        self._room = asyncio.Event()
        self._last_of_call: dict[str, asyncio.Task[bytes]] = {}

    def reject(self, number: int, line: Line, error: Exception) -> "asyncio.Future[bytes]":
        """The answer to a line that is not parsed."""
        if isinstance(line, Body):
            line.release()
        known: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        known.set_result(self._rejected(number, error))
        return known

    async def accept(self, number: int, line: Body | Exception) -> "asyncio.Future[bytes]":
        """The answer to a line, known once it is durable. Waits first while too many lines are in flight."""
        if isinstance(line, Exception):
            return self.reject(number, line, line)
        started = time.perf_counter()
        line.request = self._sender.request
        size = 0 if line.staged else len(line.data)
        try:
            await self._wait_for_room(size)
            parsed = await self._posts.parse(line, self._sender)
        except Exception as error:  # noqa: BLE001  # answered to the sender, and logged if unexpected
            return self.reject(number, line, error)
        except BaseException:
            line.release()
            raise
        self._lines += 1
        self._bytes += size
        call_id = parsed.call_id
        task = asyncio.create_task(self._finish(number, line, parsed, started, self._last_of_call.get(call_id)))
        self._last_of_call[call_id] = task
        task.add_done_callback(lambda done: self._done(done, call_id, line, size))
        return task

    def _sender_of(self, number: int) -> Sender:
        """The sender of a line, whose idempotency key is that of the batch and the line's number."""
        sender, key = self._sender, self._sender.arrival.idempotency_key
        if key is None:
            return sender
        replace = msgspec.structs.replace
        return replace(sender, arrival=replace(sender.arrival, idempotency_key=f"{number} {key}"))

    async def _finish(
        self, number: int, line: Body, parsed: Parsed, started: float, earlier: "asyncio.Task[bytes] | None"
    ) -> bytes:
        if earlier is not None:
            await asyncio.wait([earlier])
        try:
            result = await self._posts.reply(parsed, self._sender_of(number))
        except Exception as error:  # noqa: BLE001  # answered to the sender, and logged if unexpected
            if isinstance(error, SpoolFull):
                line.count_staged(error)
            return self._rejected(number, error)
        self._observer.posted(NAME, result.outcome)
        if result.acknowledges:
            self._observer.acknowledged(time.perf_counter() - started)
        return _numbered(number, result.status, result.body)

    def _rejected(self, number: int, error: Exception) -> bytes:
        rejection = final_rejection(error, "unexpected error in a batch")
        self._observer.posted(NAME, rejection.code)
        return _numbered(number, rejection.status, responses.rejected(rejection))

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


IN_FLIGHT_BYTES = 1 << 20
BATCH_BYTES = LINE_BYTES + IN_FLIGHT_BYTES
"""What a batch reserves, whatever its length: the line being read, and the lines in flight."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How batches are read."""

    max_lines: int = 10_000
    """Call logs in one batch; those above it are answered with an error."""
    progress_timeout: float = 10.0
    """Seconds in which the client must send something and, once it has sent all, take some of its answers."""


class BatchSource:
    """Answers batches. For the event loop."""

    def __init__(
        self,
        limits: BatchLimits,
        budget: MemoryBudget,
        reader: BodyReader,
        lines: LineReader,
        posts: PostService,
        gate: AdmissionGate,
        observer: IntakeObserver,
    ) -> None:
        self._limits = limits
        self._budget = budget
        self._reader = reader
        self._lines = lines
        self._posts = posts
        self._gate = gate
        self._observer = observer
        self._slices = Slices()

    def routes(self) -> Sequence[Route]:
        """Its route."""
        return (Route(NAME, "POST", "/v1/calls/batch", self._respond, posts=True),)

    async def _respond(self, request: web.BaseRequest, match: Match) -> web.StreamResponse:
        """Accept a batch line by line and answer it. Raises what rules it out before its first byte is read."""
        sender = self._posts.sender(request, match)
        if is_encoded(request):
            # An encoded batch is decoded as a whole first.
            body = await self._reader.read(request)
            try:
                return await self._answer(request, Complete(body.data), sender)
            finally:
                body.release()
        await invite(request)
        incoming = Incoming(request, self._limits.progress_timeout)
        pieces = Received(incoming, self._budget.try_reserve_some(0), self._budget, sender_of(request))
        try:
            return await self._answer(request, pieces, sender)
        finally:
            pieces.release()

    async def _answer(self, request: web.BaseRequest, pieces: Pieces, sender: Sender) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        answers = _Answers(request, response, self._limits.progress_timeout)
        writing = asyncio.create_task(answers.write_all())
        try:
            await self._read(pieces, request, self._line_acceptor(sender), answers)
            answers.end()
            await writing
        except asyncio.CancelledError:
            answers.give_up()
            writing.cancel()
            raise
        return response

    def _line_acceptor(self, sender: Sender) -> LineAcceptor:
        return LineAcceptor(self._posts, self._observer, sender, IN_FLIGHT_BYTES)

    async def _read(self, pieces: Pieces, request: web.BaseRequest, lines: LineAcceptor, answers: "_Answers") -> None:
        number = seen = 0
        slices = self._slices.of(sender_of(request))
        try:
            async for line in self._lines.lines(pieces):
                if isinstance(line, int):
                    number += line
                    await slices.next()
                    continue
                number += 1
                seen += 1
                if seen > 2 * self._limits.max_lines:
                    last = _too_many(self._limits.max_lines, "; this line and the following ones were not read")
                    answers.add(lines.reject(number, line, last))
                    answers.closes = True
                    break
                if seen > self._limits.max_lines:
                    answers.add(lines.reject(number, line, _too_many(self._limits.max_lines)))
                elif not self._gate.is_open:
                    answers.add(lines.reject(number, line, stopping()))
                else:
                    answers.add(await lines.accept(number, line))
                await slices.next()  # not while a line is in hand: where this is cancelled, nobody would release it
        except Exception as error:  # noqa: BLE001  # answered to the sender, and logged if unexpected
            answers.add(lines.reject(number + 1, 0, error))
            answers.closes = True
            answers.abandons = isinstance(error, Rejection) and error.abandons


class _Answers:
    """Writes the answers of one batch to the client, in the order of its lines."""

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
        self._clock = protocol_of(request).clock
        self._limit: asyncio.Timeout | None = None
        self._limited_since = 0.0

    def add(self, answer: "asyncio.Future[bytes]") -> None:
        """The answer to the next line, known now or later."""
        self._pending.append(answer)
        self._added.set()

    def end(self) -> None:
        """The last line was read: from now on the progress timeout applies to the client's reading."""
        self._pending.append(None)
        self._added.set()
        self._ended = True
        self._limited_since = self._clock.time()
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._timeout)

    def give_up(self) -> None:
        """Abort the connection and drop what the client has not read."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def write_all(self) -> None:
        """Write until the end. If the client stops reading, the connection is aborted; every line is still awaited."""
        try:
            while data := await self._next():
                await self._write(data)
            if self.closes:
                self._response.force_close()
            await self._response.write_eof()
            if self.abandons:
                self._request.protocol.force_close()
        except (ConnectionError, TimeoutError):
            self.give_up()
            while await self._next():
                pass

    async def _write(self, data: bytes) -> None:
        """Write and wait until the client has read enough. Raises `TimeoutError`, once the client has sent all."""
        writing = self._response.write(data)
        self._limited_since = self._clock.time()
        while True:
            try:
                async with asyncio.timeout(self._timeout if self._ended else None) as self._limit:
                    return await writing
            except TimeoutError:
                if self._clock.time() - self._limited_since >= self._timeout:
                    raise
                writing = self._request.writer.drain()  # this process was stopped: the client has time left
            finally:
                self._limit = None

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


def _too_many(max_lines: int, more: str = "") -> Rejection:
    return Rejection(
        413,
        "batch_too_long",
        f"The batch has more than {max_lines} call logs, the limit of this gateway{more}.",
        "Send the rest in another batch.",
    )
