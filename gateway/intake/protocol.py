"""The server side of one connection, as aiohttp has it, with what this intake wants otherwise."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import StreamReader, web
from aiohttp.http import HttpRequestParser
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE, RequestPayloadError

from gateway.intake.admission import Crowd
from gateway.intake.memory import SMALL_POST_BYTES
from gateway.intake.ports import IntakeObserver
from gateway.intake.responses import Refusal, internal, refusal_answer, stalled
from gateway.intake.routes import Route

# Between a socket and the HTTP parser: reads no more at once than the connection may hold.
#
# Event loops read up to 256 KB from a socket at once, before anybody has looked whether there is memory for it. A
# `BufferedProtocol` is asked for a buffer first, so here the connection's own state decides: a client that nothing is
# reserved for is read in small steps, and waits in TCP.


class Room(Protocol):
    """Memory that what comes is read into, past the protocol."""

    @property
    def room(self) -> memoryview:
        """Where to read to next; not empty."""
        ...

    def add(self, byte_count: int) -> None:
        """So much was read."""
        ...


class Reading(Protocol):
    """The protocol behind the doorway."""

    @property
    def filling(self) -> Room | None:
        """What the next bytes belong into, if not to the protocol."""
        ...

    @property
    def read_bytes(self) -> int:
        """How much may be read at once now; at most `READ_MOST`."""
        ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        ...

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection ended."""
        ...

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        ...

    def eof_received(self) -> None:
        """The client will send no more."""
        ...

    def pause_writing(self) -> None:
        """The client takes in less than is written."""
        ...

    def resume_writing(self) -> None:
        """It takes more again."""
        ...


READ_MOST = 256 * 1024
_room = memoryview(bytearray(READ_MOST))
"""What sockets are read into: an event loop reads one at a time, and what came is copied out at once."""


class Doorway(asyncio.BufferedProtocol):
    """Passes everything on to the protocol behind it."""

    __slots__ = ("_behind",)

    def __init__(self, behind: Reading) -> None:
        self._behind = behind

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where to read to, and thereby how much."""
        filling = self._behind.filling
        return _room[: self._behind.read_bytes] if filling is None else filling.room

    def buffer_updated(self, nbytes: int) -> None:
        """So much came."""
        filling = self._behind.filling
        if filling is None:
            self._behind.data_received(bytes(_room[:nbytes]))
        else:
            filling.add(nbytes)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._behind.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._behind.connection_lost(exc)

    def eof_received(self) -> None:
        """The client sends nothing more."""
        self._behind.eof_received()

    def pause_writing(self) -> None:
        """The client takes nothing more for now."""
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._behind.resume_writing()


UNREAD_BYTES = 8 * 1024
"""Above twice this much of a body that no memory is reserved for yet, the sender must wait."""
_READ_STEPS = (16 * 1024, 64 * 1024, READ_MOST)
"""What is read from a socket at once: the largest step that is reserved; the smallest where nothing is."""
_HEAD_BYTES = 32 * 1024
"""Headers that are still not complete are too long; Node and nginx take 16 to 32 KB."""
_HELD_BYTES = 16 << 20
"""What all connections may hold outside of the memory budget before those that wait are told to come back."""
_LEAST_SERVER_ERROR = 500


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many clients may be connected, and how long they may be silent. Times in seconds."""

    header_timeout: float = 10.0
    """For the headers of a connection's first request to arrive in full."""
    keepalive_timeout: float = 75.0
    """For those of each later one."""
    connections_max: int = 4096
    """For one above it the longest idle one is closed; where none is idle, the new client is answered 503."""


class IntakeProtocol(web.RequestHandler):
    """Cuts off a client that sends no complete headers, and answers broken requests in JSON."""

    __slots__ = ("_headers_due", "_reserved", "_server", "filling", "held", "turned_away")

    def __init__(self, server: "IntakeWebServer", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # None turns it off; the annotation leaves that out
            auto_decompress=False,
            keepalive_timeout=server.limits.keepalive_timeout,
            read_bufsize=UNREAD_BYTES,
        )
        self._server = server
        self._headers_due: asyncio.TimerHandle | None = None
        self._reserved: int | None = None
        self.filling: Filling | None = None
        """What the next bytes from the client go into, past the parser."""
        self.held = 0
        self.turned_away = False
        """Whether there was no room for this client."""

    @property
    def idle(self) -> bool:
        """Whether it waits for its client's next request."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def read_bytes(self) -> int:
        """How much may be read from the client at once."""
        if self._reserved is None:
            return _READ_STEPS[0]
        return max((step for step in _READ_STEPS if step <= self._reserved), default=_READ_STEPS[0])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        super().connection_made(transport)
        self.turned_away = not self._server.crowd.came(self)
        self._headers_due = self._loop.call_later(self._server.limits.header_timeout, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection ended."""
        self.headers_came()
        self._let_go()
        if self.filling is not None:
            self.filling.end(ConnectionResetError("the client went away"))
        self._server.crowd.went(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came. What is left of a body that was refused is thrown away, and not held."""
        # The first bytes of a connection may come before aiohttp waits for any.
        expected = self.idle or self._current_request is not None or not self._request_count
        counts = data and self._reserved is None and expected
        super().data_received(data)
        if counts and self.transport is not None:
            self.held += len(data)
            self._server.crowd.holds(len(data))
        if self.held > _HEAD_BYTES and self.idle:
            self._server.observer.posted(Route.NONE.value, "headers_too_long")
            self.force_close()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, if that was stopped. aiohttp asks for it whenever a body is read, and would parse nothing again."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def begin_request(self) -> None:
        """A request is in hand: its headers are complete."""
        self.headers_came()
        self._server.crowd.works(self)

    def reserved(self, content: StreamReader, byte_count: int) -> None:
        """So much memory is reserved for the body of the request in hand, which is read from now on."""
        self._reserved = byte_count
        self._let_go()
        content.set_read_chunk_size(_READ_STEPS[1])

    async def fill(self, content: StreamReader, buffer: memoryview, progress_timeout: float) -> None:
        """Read the rest of the body of the request in hand into `buffer`, which is as long as that.

        The parser, which has nothing of it left, does not see it: a new one begins with what comes after it. Raises
        `Refusal` (408) and `ConnectionError`; the connection is of no use then.
        """

        def end_body() -> None:
            """All of it is here: what comes next is another request."""
            self.filling = None
            self._parser = _new_parser(self, self._loop)
            content.feed_eof()

        self.filling = Filling(buffer, end_body)
        try:
            await self.filling.filled(progress_timeout)
        except BaseException:
            self.filling = None
            self.close()
            raise

    def arrived(self) -> None:
        """Memory is reserved for the body of the request in hand, and all of it is here."""
        self._let_go()

    def end_request(self) -> None:
        """The answer to the request in hand is known."""
        self._reserved = None
        self._let_go()
        if self.transport is not None:
            self._server.crowd.waits(self)

    def _let_go(self) -> None:
        """What was held is covered by a reservation now, or gone."""
        if self.held:
            self._server.crowd.holds(-self.held)
            self.held = 0

    def headers_came(self) -> None:
        """The headers of a request are complete; those of later ones have as long as an idle connection."""
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  # aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that is no proper HTTP, or that the handler let an error out of."""
        if status >= _LEAST_SERVER_ERROR:
            self.log_exception("unexpected error in the intake's server", exc_info=exc)
            refusal = internal()
        else:
            what = (message or "malformed request").strip().split("\n", 1)[0]
            refusal = Refusal(status, "bad_request", f"This is no valid HTTP request: {what}", "See RFC 9112.")
        refusal.closes = True
        self._server.observer.posted(Route.NONE.value, refusal.code)
        return refusal_answer(refusal)


def _new_parser(protocol: IntakeProtocol, loop: asyncio.AbstractEventLoop) -> HttpRequestParser:
    """One like that which aiohttp made for the connection."""
    return HttpRequestParser(
        protocol,
        loop,
        UNREAD_BYTES,
        max_line_size=protocol.max_line_size,
        max_field_size=protocol.max_field_size,
        max_headers=protocol.max_headers,
        payload_exception=RequestPayloadError,
        auto_decompress=False,
        max_msg_queue_size=MAX_MSG_QUEUE_SIZE,
    )


class IntakeWebServer(web.Server):
    """Makes an `IntakeProtocol` for each connection, and counts them."""

    def __init__(self, handler: Handler, observer: IntakeObserver, limits: ConnectionLimits) -> None:
        super().__init__(self._handle)
        self.observer = observer
        self.limits = limits
        self.crowd = Crowd(limits.connections_max, _HELD_BYTES)
        self._handler = handler

    def __call__(self) -> IntakeProtocol:
        """The protocol of a new connection."""
        return IntakeProtocol(self, self._loop)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        assert isinstance(protocol, IntakeProtocol), "made by __call__"
        protocol.begin_request()
        try:
            if protocol.turned_away or self._no_room_for(request):
                self.observer.posted(Route.NONE.value, "crowded")
                return refusal_answer(_crowded())
            return await self._handler(request)
        finally:
            protocol.end_request()

    def _no_room_for(self, request: web.BaseRequest) -> bool:
        """Whether too much is held to take it: small posts are turned away last."""
        if not self.crowd.presses:
            return False
        small = request.content_length is not None and request.content_length <= SMALL_POST_BYTES
        return self.crowd.chokes or not small


def _crowded() -> Refusal:
    return Refusal(
        503,
        "crowded",
        "Too many clients are connected, or wait for memory.",
        "Send the call log again in a moment.",
        retry_after=1,
        closes=True,
    )


# A body on its way from the socket into the memory that is reserved for it, past the HTTP parser: copied by nobody.

PROGRESS_BYTES = 64 * 1024
"""What a body must advance by within each progress timeout; a client below 6.5 KB/s would hold memory for hours."""


class Filling:
    """A buffer that is filled. For one reader."""

    __slots__ = ("_full", "_left", "_on_full")

    def __init__(self, buffer: memoryview, on_full: Callable[[], None]) -> None:
        """`buffer` is not empty. `on_full` is called before anything else is read."""
        self._left = buffer
        self._on_full = on_full
        self._full = asyncio.get_running_loop().create_future()

    @property
    def room(self) -> memoryview:
        """Where to read to next."""
        return self._left[:READ_MOST]

    def add(self, byte_count: int) -> None:
        """So much was read into its room."""
        self._left = self._left[byte_count:]
        if not self._left:
            self._on_full()
            self._full.set_result(None)

    def end(self, error: Exception) -> None:
        """Nothing more will come."""
        if not self._full.done():
            self._full.set_exception(error)

    async def filled(self, progress_timeout: float) -> None:
        """Wait until it is full. Raises `Refusal` (408) when it does not advance, and what it was ended with."""
        while not self._full.done():
            left = len(self._left)
            await asyncio.wait((self._full,), timeout=progress_timeout)
            if not self._full.done() and left - len(self._left) < PROGRESS_BYTES:
                raise stalled(progress_timeout)
        self._full.result()
