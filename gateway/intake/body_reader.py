"""Reading the body of a request: within the memory budget, or into a staging file, and decoded at the end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestPayloadError

from gateway.intake.decoding import BodyDecoder, Decoder, decoders_by_magic, decoders_for
from gateway.intake.memory import SMALL_POST_BYTES, Body, MemoryBudget, Reservation
from gateway.intake.protocol import PROGRESS_BYTES, IntakeProtocol
from gateway.intake.responses import ClientGone, Rejection, stalled, too_large
from gateway.intake.staging import Staged, StagingArea, Workers
from spool.records import Buffer

# The bytes of a request as they arrive from a client that may stop sending, disconnect, or send very slowly.

_GONE = (ConnectionError, RequestPayloadError, RuntimeError)
"""A stream whose connection was lost before it was read raises RuntimeError."""


def arrived(request: web.BaseRequest) -> bytes | None:
    """The whole body if it has arrived already, as a small one does with its headers; None otherwise.

    Memory for it is reserved. Raises `ClientGone`.
    """
    content = request.content
    if not content.is_eof():
        return None
    protocol_of(request).arrived()
    try:
        return content.read_nowait()
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

    def __init__(self, request: web.BaseRequest, progress_timeout: float, reserved: int) -> None:
        """`reserved` bytes of memory are reserved for it: the limit of what may be in transit to the reader."""
        self._content = request.content
        self._protocol = protocol_of(request)
        self._protocol.reserved(request.content, reserved)
        self._timeout = progress_timeout
        self._waited = 0.0
        self._received = 0
        self._mark = 0
        self._unframed = self._protocol.read_through_parser - self._content.total_bytes

    async def rest(self, buffer: memoryview) -> None:
        """Read the rest of the body into `buffer`, which is exactly as long. Raises as `next` does."""
        filled = 0
        try:
            while piece := self._content.read_nowait():
                buffer[filled : filled + len(piece)] = piece
                filled += len(piece)
            if filled < len(buffer):
                await self._protocol.read_into(self._content, buffer[filled:], self._timeout)
        except _GONE as error:
            raise ClientGone(str(error)) from None

    async def next(self) -> bytes:
        """The next piece, of at most some 100 KiB; empty at the end.

        Raises `Rejection` (408) when the body does not advance by `PROGRESS_BYTES` within the progress timeout,
        time that the reader itself takes not counted, and (413) when hardly anything but the sizes of chunks comes;
        `ClientGone` when the connection is.
        """
        try:
            piece = self._content.read_nowait() if self._content.is_eof() else await self._wait()
        except _GONE as error:
            raise ClientGone(str(error)) from None
        self._received += len(piece)
        if self._framing() > FRAMING_BYTES + self._received // FRAMING_SHARE:
            raise _too_finely_chunked()
        if self._received - self._mark >= PROGRESS_BYTES:
            self._mark, self._waited = self._received, 0.0
        return piece

    def _framing(self) -> int:
        """What came beside the body: sizes and extensions of chunks."""
        return self._protocol.read_through_parser - self._content.total_bytes - self._unframed

    async def _wait(self) -> bytes:
        clock = self._protocol.clock
        while True:
            started = clock.time()
            try:
                async with asyncio.timeout(self._timeout - self._waited):
                    return await self._content.readany()
            except TimeoutError:
                if self._waited + clock.time() - started >= self._timeout:
                    raise stalled(self._timeout) from None
            finally:
                self._waited += clock.time() - started


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


Following = Callable[[], Awaitable[bytes]]
"""Gives the next piece of a body; an empty one at its end."""

_WRITE_BYTES = 1 << 20
"""The memory of a body that spills: what is collected before each write to its staging file."""


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

    async def read(self, request: web.BaseRequest) -> Body:
        """The decoded body, which the caller must release.

        What the headers or the state of the gateway rule out is rejected before the client is invited to send.
        Raises `Rejection`, `ClientGone`, `BudgetExhausted`, `SpoolFull`, `OSError`.
        """
        headers = request.headers
        encoded = "Content-Encoding" in headers or "Transfer-Encoding" in headers
        decoders = _decoders_of(request) if encoded else ()
        body = await self._receive(request)
        body.request = request
        if not decoders:
            return body
        try:
            body.become(await self._decoder.decode(body.data, decoders, request))
        except BaseException:
            body.release()
            raise
        return body

    async def read_stream(self, pieces: AsyncIterator[bytes]) -> Body:
        """The decoded body that comes from elsewhere than a request, within the same limits; the caller releases it.

        What it is compressed with is seen from its first bytes: objects say so rarely and not always truly.
        Raises as `read` does, and what `pieces` raises.
        """

        async def following() -> bytes:
            """The next piece; empty at the end."""
            return await anext(pieces, b"")

        with await self._budget.reserve(SMALL_POST_BYTES) as reservation:
            body = await self._collect(following, reservation)
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
        reservation = self._budget.try_reserve(length) or await self._budget.reserve(length)
        try:
            await invite(request)
            data: bytes | memoryview | None = arrived(request)
            if data is None:
                data = memoryview(bytearray(length))
                await self._incoming(request, reservation).rest(data)
        except BaseException:
            reservation.release()
            raise
        return Body(data, reservation, None if length <= SMALL_POST_BYTES else self._staging.begin())

    async def _receive_giant(self, request: web.BaseRequest, length: int) -> Body:
        """A body that spills to a staging file from its first byte."""
        staged = self._staging.begin()
        await staged.expect(length)
        try:
            with await self._budget.reserve(min(_WRITE_BYTES, self._budget.largest)) as reservation:
                await invite(request)
                incoming = self._incoming(request, reservation)
                return await self._stage(incoming.next, bytearray(), staged, reservation)
        except BaseException:
            staged.discard()
            raise

    async def _receive_unknown(self, request: web.BaseRequest) -> Body:
        """A body without a length starts in the memory of a small post and moves on when it outgrows that."""
        with await self._budget.reserve(SMALL_POST_BYTES) as reservation:
            await invite(request)
            return await self._collect(self._incoming(request, reservation).next, reservation)

    async def _collect(self, following: Following, reservation: Reservation) -> Body:
        """The body of unknown length; `reservation` is handed over to it, unless it spills."""
        data = bytearray()
        while piece := await following():
            data += piece
            self._check_total(len(data))
            if not self._have_room(reservation, len(data)):
                reservation.try_grow(min(_WRITE_BYTES, self._budget.largest))
                return await self._stage(following, data, self._staging.begin(), reservation)
        return Body(data, reservation.handed_over(), self._staging.begin())

    def _have_room(self, reservation: Reservation, size: int) -> bool:
        """Whether so much is reserved, or can be at once: twice as much each time, as the buffer grows."""
        if size <= reservation.size:
            return True
        return size <= self._limits.inline_max and reservation.try_grow(max(size, 2 * reservation.size))

    async def _stage(self, following: Following, data: bytearray, staged: Staged, reservation: Reservation) -> Body:
        """The body from `data`, which came already, to its end, in a staging file, with what is reserved in memory."""
        try:
            file = await self._workers.run(staged.file)
            while piece := await following():
                data += piece
                if len(data) >= reservation.size:
                    self._check_total(file.size + len(data))
                    await self._workers.run(file.write, data)
                    data = bytearray()
            await self._workers.run(file.write, data)
            return Body(await self._workers.run(file.map), None, staged, file)
        except BaseException:
            staged.discard()
            raise

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
