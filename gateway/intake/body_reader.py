"""Reading the body of a request: within the memory budget, or into a staging file, and decoded at the end.

Memory is for bytes that came, not for bytes that were announced. A small body is complete before memory is reserved
for it. A large one that is announced has its memory at once if that is free, and gives it back when it turns out to be
slow: what came of it, and what follows, goes to a staging file, as does one that gets no memory soon.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestPayloadError

from gateway.intake.admission import SLOW_SECONDS
from gateway.intake.decoding import BodyDecoder, Decoder, decoders_by_magic, decoders_for
from gateway.intake.memory import SMALL_POST_BYTES, Body, BudgetExhausted, MemoryBudget, Reservation
from gateway.intake.protocol import PROGRESS_BYTES, IntakeProtocol
from gateway.intake.responses import ClientGone, Rejection, stalled, too_large
from gateway.intake.staging import Staged, StagedFile, StagingArea, Workers
from gateway.intake.turns import sender_of
from gateway.telemetry import current_post
from spool.records import Buffer

# The bytes of a request as they arrive from a client that may stop sending, disconnect, or send very slowly.

_GONE = (ConnectionError, RequestPayloadError, RuntimeError)
"""A stream whose connection was lost before it was read raises RuntimeError."""
_WRITE_BYTES = 1 << 20
"""The memory of a body that spills: what is collected before each write to its staging file."""
UNRESERVED_BYTES = 16 << 10
"""The same of one that no memory is reserved for, because it is slow, or none was free."""
_LOOK_SECONDS = 0.1
"""How often a body that is not complete is looked at: whether it is slow, and others wait for its memory."""
_PATIENCE_SECONDS = 0.25
"""How long a large body waits for memory before it goes to a staging file, and what was collected of it for more."""


def arrived(request: web.BaseRequest) -> bytes:
    """The whole body, which has arrived, as a small one does with its headers. Memory for it is reserved.

    Raises `ClientGone`.
    """
    protocol_of(request).arrived()
    try:
        return request.content.read_nowait()
    except _GONE as error:
        raise ClientGone(str(error)) from None


FRAMING_BYTES = 1 << 20
FRAMING_SHARE = 4
"""Of a chunked body the sizes of its chunks may take 1 MiB and a quarter of the body: a chunk costs the parser 2 us."""


def _too_finely_chunked() -> Rejection:
    return Rejection(
        413,
        "too_complex",
        "The body comes in chunks of a few bytes each.",
        "Send larger chunks, of 1 KB or more, or send a Content-Length.",
        abandons=True,
    )


class Incoming:
    """The pieces of one request's body. For one reader."""

    __slots__ = ("_content", "_mark", "_protocol", "_received", "_timeout", "_unframed", "_waited")

    def __init__(self, request: web.BaseRequest, progress_timeout: float, reserved: int = 0) -> None:
        """`reserved` bytes of memory are reserved for it: the limit of what may be in transit to the reader."""
        self._content = request.content
        self._protocol = protocol_of(request)
        self._timeout = progress_timeout
        self._waited = 0.0
        self._received = 0
        self._mark = 0
        self._unframed = self._protocol.read_through_parser - self._content.total_bytes
        self.cover(reserved)

    def cover(self, reserved: int) -> None:
        """From now on this much memory is reserved; with 0, what is read counts as held until it is `taken`."""
        if reserved:
            self._protocol.reserved(self._content, reserved)
        else:
            self._protocol.unreserved()

    def taken(self, byte_count: int) -> None:
        """This many of the bytes that `next` returned are in a file now, or were dropped."""
        self._protocol.taken(byte_count)

    async def complete(self) -> None:
        """Wait for the end of a small body, which then is all in `content`. Raises as `next` does."""
        self._protocol.await_body(self._content)
        clock = self._protocol.clock
        ends_at = clock.time() + self._timeout
        try:
            while not self._content.is_eof():
                if (error := self._content.exception()) is not None:
                    raise ClientGone(str(error))
                if (seconds := ends_at - clock.time()) <= 0:
                    raise stalled(self._timeout)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._content.wait_eof()
        except _GONE as error:
            raise ClientGone(str(error)) from None

    async def fill(self, buffer: memoryview, gives_up: Callable[[], bool]) -> int:
        """Read the rest of the body into `buffer`, which is exactly as long; returns how many bytes came.

        These are fewer when it is slow and `gives_up` says so; the rest then comes by `next`. Raises as that does.
        """
        filled = 0
        try:
            while piece := self._content.read_nowait():
                buffer[filled : filled + len(piece)] = piece
                filled += len(piece)
            if filled < len(buffer):
                self._protocol.begin_direct_read(self._content, len(buffer) - filled)
            while filled < len(buffer):
                filled += await self._protocol.read_directly(buffer[filled:], self._timeout, _LOOK_SECONDS)
                if filled < len(buffer) and gives_up():
                    break
        except _GONE as error:
            raise ClientGone(str(error)) from None
        return filled

    async def next(self, seconds: float | None = None) -> bytes | None:
        """The next piece, of at most some 100 KiB; empty at the end; None when nothing comes within `seconds`.

        Raises `Rejection` (408) when the body does not advance by `PROGRESS_BYTES` within the progress timeout,
        time that the reader itself takes not counted, and (413) when hardly anything but the sizes of chunks comes;
        `ClientGone` when the connection is.
        """
        try:
            if self._protocol.direct_read is not None:
                return await self._next_directly(seconds)
            piece = self._content.read_nowait() if self._content.is_eof() else await self._wait(seconds)
        except _GONE as error:
            raise ClientGone(str(error)) from None
        if piece is None:
            return None
        self._received += len(piece)
        if self._framing() > FRAMING_BYTES + self._received // FRAMING_SHARE:
            raise _too_finely_chunked()
        if self._received - self._mark >= PROGRESS_BYTES:
            self._mark, self._waited = self._received, 0.0
        return piece

    async def _next_directly(self, seconds: float | None) -> bytes | None:
        """A piece of a body that is read past the parser."""
        window = bytearray(UNRESERVED_BYTES)
        count = await self._protocol.read_directly(memoryview(window), self._timeout, seconds)
        return bytes(memoryview(window)[:count]) if count else None

    def _framing(self) -> int:
        """What came beside the body: sizes and extensions of chunks."""
        return self._protocol.read_through_parser - self._content.total_bytes - self._unframed

    async def _wait(self, seconds: float | None) -> bytes | None:
        clock = self._protocol.clock
        ends_at = None if seconds is None else clock.time() + seconds
        while True:
            started = clock.time()
            left = self._timeout - self._waited
            try:
                async with asyncio.timeout(left if ends_at is None else min(left, ends_at - started)):
                    return await self._content.readany()
            except TimeoutError:
                now = clock.time()
                if self._waited + now - started >= self._timeout:
                    raise stalled(self._timeout) from None
                if ends_at is not None and now >= ends_at:
                    return None
            finally:
                self._waited += clock.time() - started


class Source(Protocol):
    """Where the pieces of a body come from; `Incoming` says what they are."""

    async def next(self, seconds: float | None = None) -> bytes | None:
        """The next piece; empty at the end; None when nothing comes within `seconds`."""

    def cover(self, reserved: int) -> None:
        """From now on this much memory is reserved."""

    def taken(self, byte_count: int) -> None:
        """This many of the bytes that were read are held no longer."""


class _Streamed:
    """The pieces of an iterator, which holds what is in transit itself."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    async def next(self, seconds: float | None = None) -> bytes:  # noqa: ARG002  # it has a time-out of its own
        """See `Source`."""
        return await anext(self._pieces, b"")

    def cover(self, reserved: int) -> None:
        """See `Source`."""

    def taken(self, byte_count: int) -> None:
        """See `Source`."""


def protocol_of(request: web.BaseRequest) -> IntakeProtocol:
    """The connection of a request."""
    protocol = request.protocol
    assert isinstance(protocol, IntakeProtocol), "made by the intake's server"
    return protocol


async def invite(request: web.BaseRequest) -> None:
    """Send `100 Continue` to a client that waits for it. Every check that may reject the request comes before this.

    Raises `Rejection` (417) when it expects anything else, `ClientGone` when it is.
    """
    expected = request.headers.get("Expect")
    if expected is None or request.version < HttpVersion11:
        return
    if expected.lower() != "100-continue":
        raise Rejection(417, "unknown_expectation", "The Expect header has an unknown value.", "Leave it out.")
    try:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    except ConnectionError as error:
        raise ClientGone(str(error)) from None


def _decoders_of(request: web.BaseRequest) -> tuple[Decoder, ...]:
    """What undoes all codings of the body; a header may come in several lines. Raises `Rejection` (415, 501)."""
    headers = request.headers
    return decoders_for(
        ",".join(headers.getall("Content-Encoding", ())), ",".join(headers.getall("Transfer-Encoding", ()))
    )


def is_encoded(request: web.BaseRequest) -> bool:
    """Whether the body must be decoded. Raises `Rejection` (415, 501)."""
    return bool(_decoders_of(request))


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How bodies are read. Sizes are those on the wire, before decoding, where nothing else is said."""

    inline_max: int = 16 << 20
    """A larger body is staged, whatever memory is free."""
    body_max: int | None = None
    """A larger body is refused; by default none is."""
    progress_timeout: float = 10.0
    """Seconds in which a body must advance, see `gateway.intake.body_reader`."""


class BodyReader:
    """Reads and decodes request bodies. For the event loop."""

    def __init__(
        self, limits: BodyLimits, budget: MemoryBudget, staging: StagingArea, workers: Workers, decoder: BodyDecoder
    ) -> None:
        self._limits = limits
        self._budget = budget
        self._staging = staging
        self._workers = workers
        self._decoder = decoder

    def without_most(self) -> "BodyReader":
        """For what the gateway makes, or has accepted: what one post may have is no limit for it."""
        limits = replace(self._limits, body_max=None)
        return BodyReader(limits, self._budget, self._staging, self._workers, self._decoder)

    async def read(self, request: web.BaseRequest) -> Body:
        """The decoded body, which the caller must release.

        What the headers or the state of the gateway rule out is rejected before the client is invited to send.
        Raises `Rejection`, `ClientGone`, `BudgetExhausted`, `SpoolFull`, `OSError`.
        """
        started = time.time_ns()
        headers = request.headers
        encoded = "Content-Encoding" in headers or "Transfer-Encoding" in headers
        decoders = _decoders_of(request) if encoded else ()
        body = await self._receive(request)
        body.request = request
        if decoders:
            try:
                body.become(await self._decoder.decode(body.data, decoders, request))
            except BaseException:
                body.release()
                raise
        post = current_post.get()
        if post is not None:
            post.stage("receive", started, bytes=len(body.data))
        return body

    async def read_stream(self, pieces: AsyncIterator[bytes]) -> Body:
        """The decoded body that comes from elsewhere than a request, within the same limits; the caller releases it.

        What it is compressed with is seen from its first bytes: objects say so rarely and not always truly.
        Raises as `read` does, and what `pieces` raises.
        """

        with self._budget.try_reserve_some(SMALL_POST_BYTES) as reservation:
            body = await self._collect(_Streamed(pieces), reservation)
        try:
            if decoders := decoders_by_magic(bytes(body.data[:4])):
                body.become(await self._decoder.decode(body.data, decoders, None))
        except BaseException:
            body.release()
            raise
        return body

    async def _receive(self, request: web.BaseRequest) -> Body:
        length = request.content_length
        limits = self._limits
        if length is None:
            return await self._receive_unknown(request)
        if limits.body_max is not None and length > limits.body_max:
            raise too_large(limits.body_max)
        if length <= limits.inline_max and length <= self._budget.largest:
            return await self._receive_known(request, length)
        return await self._receive_giant(request, length)

    async def _receive_known(self, request: web.BaseRequest, length: int) -> Body:
        if length > SMALL_POST_BYTES:
            return await self._receive_large(request, length)
        await invite(request)
        if not request.content.is_eof():
            await Incoming(request, self._limits.progress_timeout).complete()
        reservation = self._budget.try_reserve(length) or await self._budget.reserve(length, sender_of(request))
        try:
            return Body(arrived(request), reservation, None)
        except BaseException:
            reservation.release()
            raise

    async def _receive_large(self, request: web.BaseRequest, length: int) -> Body:
        """A body that has its memory at once, unless there is none soon, or it is slow."""
        reservation = self._budget.try_reserve(length)
        if reservation is None:
            try:
                reservation = await self._budget.reserve(length, sender_of(request), _PATIENCE_SECONDS)
            except BudgetExhausted:
                return await self._receive_giant(request, length)
        clock = protocol_of(request).clock
        began = clock.time()

        def is_slow() -> bool:
            """Whether it gives its memory back: at once to those that wait for it."""
            return self._budget.waiting > 0 or clock.time() - began >= SLOW_SECONDS

        with reservation:
            await invite(request)
            buffer = memoryview(bytearray(length))
            incoming = self._incoming(request, reservation)
            filled = await incoming.fill(buffer, is_slow)
            if filled == length:
                return Body(buffer, reservation.handed_over(), self._staging.begin())
            staged = self._staging.begin()
            await self._expect(staged, length)
            file = await self._spill(incoming, buffer[:filled], staged)
            del buffer  # others have its memory from here on
            return await self._stage(incoming, staged, file, reservation, sender_of(request))

    async def _receive_giant(self, request: web.BaseRequest, length: int) -> Body:
        """A body that spills to a staging file from its first byte."""
        staged = self._staging.begin()
        await self._expect(staged, length)
        with self._budget.try_reserve_some(min(_WRITE_BYTES, self._budget.largest)) as reservation:
            try:
                await invite(request)
                incoming = self._incoming(request, reservation)
            except BaseException:
                staged.discard()
                raise
            file = await self._spill(incoming, b"", staged)
            return await self._stage(incoming, staged, file, reservation, sender_of(request))

    async def _receive_unknown(self, request: web.BaseRequest) -> Body:
        """A body without a length reserves memory as it grows, and spills to a file when there is none for more."""
        with self._budget.try_reserve_some(0) as reservation:
            await invite(request)
            return await self._collect(self._incoming(request, reservation), reservation, sender_of(request))

    async def _collect(self, incoming: Source, reservation: Reservation, sender: str = "") -> Body:
        """The body of unknown length; `reservation` is handed over to it, unless it spills."""
        data = bytearray()
        clock = asyncio.get_running_loop().time
        began = clock()
        while (piece := await incoming.next(_PATIENCE_SECONDS)) != b"":
            data += piece or b""
            self._check_total(len(data))
            if len(data) <= UNRESERVED_BYTES:
                continue
            slow = clock() - began >= SLOW_SECONDS
            if slow or not self._have_room(reservation, len(data)):
                reservation.try_grow(min(_WRITE_BYTES, self._budget.largest))
                staged = self._staging.begin()
                file = await self._spill(incoming, data, staged)
                del data  # others have its memory from here on
                return await self._stage(incoming, staged, file, reservation, sender)
            incoming.cover(reservation.size)
        if not reservation.size:
            size = max(len(data), 1)
            reservation = self._budget.try_reserve(size) or await self._budget.reserve(size, sender)
            incoming.cover(size)
        return Body(data, reservation.handed_over(), self._staging.begin())

    def _have_room(self, reservation: Reservation, size: int) -> bool:
        """Whether so much is reserved, or can be at once: twice as much each time, as the buffer grows."""
        if size <= reservation.size:
            return True
        return size <= self._limits.inline_max and reservation.try_grow(max(size, 2 * reservation.size))

    async def _expect(self, staged: Staged, length: int) -> None:
        try:
            await staged.expect(length)
        except BaseException:
            staged.discard()
            raise

    async def _spill(self, incoming: Source, first: Buffer, staged: Staged) -> StagedFile:
        """A staging file that begins with what came already."""
        try:
            file = await self._workers.run(staged.file)
            await self._workers.run(file.write, first)
        except BaseException:
            staged.discard()
            raise
        incoming.taken(len(first))
        return file

    async def _stage(
        self, incoming: Source, staged: Staged, file: StagedFile, reservation: Reservation, sender: str
    ) -> Body:
        """The rest of a body, behind its beginning in a staging file, to its end.

        It is collected in what is reserved, as long as that fills quickly, and else in very little.
        """
        clock = asyncio.get_running_loop().time
        try:
            reservation.shrink(min(reservation.size, _WRITE_BYTES, self._budget.largest))
            data = bytearray()
            began = clock()
            while (piece := await incoming.next(_PATIENCE_SECONDS)) != b"":
                data += piece or b""
                slow = piece is None or clock() - began > _PATIENCE_SECONDS
                if len(data) < max(reservation.size, UNRESERVED_BYTES) and not slow:
                    continue
                self._check_total(file.size + len(data))
                await self._workers.run(file.write, data)
                incoming.taken(len(data))
                if slow:
                    reservation.shrink(0)
                    incoming.cover(0)
                elif not reservation.size and reservation.try_grow(min(_WRITE_BYTES, self._budget.largest)):
                    incoming.cover(reservation.size)
                data, began = bytearray(), clock()
            self._check_total(file.size + len(data))
            await self._workers.run(file.write, data)
            if staged.encrypts:
                del data
                reservation.release()
                await self._hold_memory(file, sender)
            return Body(await self._workers.run(file.map), None, staged, file)
        except BaseException:
            staged.discard()
            raise

    async def _hold_memory(self, file: StagedFile, sender: str) -> None:
        """Wait for memory for the file to be decrypted into; one for which there is none is decrypted on the disk."""
        if 0 < file.size <= self._budget.largest:
            with contextlib.suppress(BudgetExhausted):
                file.hold(await self._budget.reserve(file.size, sender))

    def _check_total(self, size: int) -> None:
        if self._limits.body_max is not None and size > self._limits.body_max:
            raise too_large(self._limits.body_max)

    def _incoming(self, request: web.BaseRequest, reservation: Reservation) -> Incoming:
        """The bytes of a body that memory is reserved for."""
        return Incoming(request, self._limits.progress_timeout, reservation.size)


async def body_of(pieces: Sequence[Buffer], staging: StagingArea) -> Body:
    """A document that the gateway made itself: in memory if it is small, in a staging file otherwise.

    The caller must release it. Raises as `BodyReader.read` does.
    """
    if sum(map(len, pieces)) <= SMALL_POST_BYTES:
        return Body(b"".join(pieces), None, None)
    staged = staging.begin()
    try:
        file = await staging.workers.run(staged.file)
        for piece in pieces:
            await staging.workers.run(file.write, piece)
        return Body(await staging.workers.run(file.map), None, staged, file)
    except BaseException:
        staged.discard()
        raise
