"""The bytes of a request as they come in from the client, who may stop sending, go away, or send very slowly."""

import asyncio

from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestPayloadError

from gateway.intake.filling import PROGRESS_BYTES
from gateway.intake.protocol import IntakeProtocol
from gateway.intake.refusals import ClientGone, Refusal, stalled

_GONE = (ConnectionError, RequestPayloadError, RuntimeError)
"""RuntimeError is what a stream says whose connection went before anybody read from it."""


def arrived(request: web.BaseRequest) -> bytes | None:
    """The whole body where it has come already, as a small one does with its headers; None otherwise.

    Memory for it is reserved. Raises `ClientGone`.
    """
    content = request.content
    if not content.is_eof():
        return None
    _protocol_of(request).arrived()
    try:
        return content.read_nowait()
    except _GONE as error:
        raise ClientGone(str(error)) from None


class Incoming:
    """The pieces of one request's body. For one reader."""

    __slots__ = ("_content", "_mark", "_protocol", "_received", "_timeout", "_waited")

    def __init__(self, request: web.BaseRequest, progress_timeout: float, reserved: int) -> None:
        """`reserved` bytes of memory are there for it: what may be on its way to the reader."""
        self._content = request.content
        self._protocol = _protocol_of(request)
        self._protocol.reserved(request.content, reserved)
        self._timeout = progress_timeout
        self._waited = 0.0
        self._received = 0
        self._mark = 0

    async def rest(self, buffer: memoryview) -> None:
        """All that is still to come, into `buffer`, which is as long as that. Raises as `next` does."""
        filled = 0
        try:
            while piece := self._content.read_nowait():
                buffer[filled : filled + len(piece)] = piece
                filled += len(piece)
            if filled < len(buffer):
                await self._protocol.fill(self._content, buffer[filled:], self._timeout)
        except _GONE as error:
            raise ClientGone(str(error)) from None

    async def next(self) -> bytes:
        """The next piece, of at most some 100 KiB; empty at the end.

        Raises `Refusal` (408) when the body does not advance by `PROGRESS_BYTES` within the progress timeout,
        time that the reader itself takes not counted; `ClientGone` when the connection is.
        """
        try:
            piece = self._content.read_nowait() if self._content.is_eof() else await self._wait()
        except _GONE as error:
            raise ClientGone(str(error)) from None
        self._received += len(piece)
        if self._received - self._mark >= PROGRESS_BYTES:
            self._mark, self._waited = self._received, 0.0
        return piece

    async def _wait(self) -> bytes:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._timeout - self._waited):
                piece = await self._content.readany()
        except TimeoutError:
            raise stalled(self._timeout) from None
        self._waited += loop.time() - started
        return piece


def _protocol_of(request: web.BaseRequest) -> IntakeProtocol:
    protocol = request.protocol
    assert isinstance(protocol, IntakeProtocol), "made by the intake's server"
    return protocol


async def invite(request: web.BaseRequest) -> None:
    """Tell a client that waits for it to send its body. Everything that may refuse the request comes before this.

    Raises `Refusal` (417) when it expects anything else, `ClientGone` when it is.
    """
    expected = request.headers.get("Expect")
    if expected is None or request.version < HttpVersion11:
        return
    if expected.lower() != "100-continue":
        raise Refusal(417, "unknown_expectation", "The Expect header is not known here.", "Leave it out.")
    try:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    except ConnectionError as error:
        raise ClientGone(str(error)) from None
