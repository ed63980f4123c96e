"""One connection of the intake: aiohttp's protocol with admission control, a connection limit and back-pressure.

- Admission control: `AdmissionGate` says whether posts are let in, and how many requests are in flight.
- Connection limit and load shedding: `ConnectionLimiter` counts clients and the bytes that they sent and no memory
  reservation covers; above its limits idle clients are closed, then large posts are turned away, then all.
- Back-pressure: a connection reads from its socket no more than is reserved for it, so that its sender waits in TCP.
- `DirectRead`: a body goes from the socket into its memory, past the HTTP parser.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import StreamReader, web
from aiohttp.http import HttpRequestParser
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE, RequestPayloadError

from gateway.intake.memory import SMALL_POST_BYTES
from gateway.intake.ports import NO_ROUTE, IntakeObserver
from gateway.intake.responses import Rejection, internal, rejection_response, stalled, stopping

READ_MAX_BYTES = 256 * 1024
"""What event loops read from a socket at once."""
UNREAD_BYTES = 8 * 1024
"""Above twice this much of a body that no memory is reserved for yet, the sender must wait."""
_READ_STEPS = (16 * 1024, 64 * 1024, READ_MAX_BYTES)
"""What is read from a socket at once: the largest step that is reserved; the smallest where nothing is."""
_HEAD_BYTES = 32 * 1024
"""Headers that are still not complete are too long; Node and nginx take 16 to 32 KB."""
_HELD_BYTES = 16 << 20
"""The soft limit of what all connections hold outside of the memory budget."""
_LEAST_SERVER_ERROR = 500
_TICK_SECONDS = 0.25
PROGRESS_BYTES = 64 * 1024
"""What a body must advance by within each progress timeout; a client below 6.5 KB/s would hold memory for hours."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class LoopClock:
    """Seconds during which the event loop ran, for time-outs of clients.

    While the process is stopped or its machine is paused the clock stands still: what clients sent meanwhile waits in
    their sockets, and is read before a time-out is judged.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._seconds = 0.0
        self._ticked_at = loop.time()
        self._next_tick = loop.call_later(_TICK_SECONDS, self._tick)

    def time(self) -> float:
        """The seconds until now."""
        return self._seconds + min(self._loop.time() - self._ticked_at, 2 * _TICK_SECONDS)

    def stop(self) -> None:
        """Tick no more."""
        self._next_tick.cancel()

    def _tick(self) -> None:
        self._seconds, self._ticked_at = self.time(), self._loop.time()
        self._next_tick = self._loop.call_later(_TICK_SECONDS, self._tick)


class AdmissionGate:
    """Admission control: closed until `open`, closed again by `close`. Counts requests. For the event loop."""

    def __init__(self) -> None:
        self._open = False
        self._in_flight = 0
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def is_open(self) -> bool:
        """Whether posts are let in."""
        return self._open

    @property
    def in_flight(self) -> int:
        """Requests that are being worked on."""
        return self._in_flight

    def open(self) -> None:
        """Let posts in."""
        self._open = True

    def close(self) -> None:
        """Let nobody in any more; requests in flight go on."""
        self._open = False

    async def drained(self) -> None:
        """Wait until no request is in flight."""
        await self._drained.wait()

    def check(self) -> None:
        """Return if posts are let in; raises `Rejection` (503) otherwise."""
        if not self._open:
            raise stopping()

    def begin(self) -> None:
        """A request begins, whether it will be let in or not."""
        self._in_flight += 1
        self._drained.clear()

    def end(self) -> None:
        """That request has its response."""
        self._in_flight -= 1
        if not self._in_flight:
            self._drained.set()


class ConnectionLimiter:
    """Counts connections and the bytes that they hold, and closes idle ones to make room. For the event loop.

    A connection that waits for its client's next request costs some 10 KB and may be closed at any time: so a new
    client always finds room, at the cost of the one that was idle for the longest. What counts against memory are bytes
    that came and that no reservation covers: of headers, and of bodies whose posts still wait for memory.
    """

    def __init__(self, connections_max: int, held_max: int) -> None:
        self._connections_max = connections_max
        self._held_max = held_max
        self._connected = 0
        self._held = 0
        # In the order in which they became idle.
        self._idle: dict[IntakeProtocol, None] = {}

    @property
    def connected(self) -> int:
        """How many clients are connected."""
        return self._connected

    @property
    def held(self) -> int:
        """Bytes that all of them hold."""
        return self._held

    @property
    def over_soft_limit(self) -> bool:
        """Whether so much is held that posts which would hold more are better sent again later."""
        return self._held > self._held_max

    @property
    def over_hard_limit(self) -> bool:
        """Whether so much is held that no post at all can be accepted."""
        return self._held > 2 * self._held_max

    def opened(self, connection: "IntakeProtocol") -> bool:
        """A client connected. Returns whether there is room for it, which there is while another one is idle."""
        self._connected += 1
        room = self._connected <= self._connections_max or self._close_idle(holding=False)
        self._idle[connection] = None
        return room

    def closed(self, connection: "IntakeProtocol") -> None:
        """A connection ended."""
        self._connected -= 1
        self._idle.pop(connection, None)

    def busy(self, connection: "IntakeProtocol") -> None:
        """A request of this connection begins."""
        self._idle.pop(connection, None)

    def idle(self, connection: "IntakeProtocol") -> None:
        """Its request has its response."""
        self._idle[connection] = None

    def buffered(self, byte_count: int) -> None:
        """`byte_count` more bytes are held, or fewer. Above the soft limit, unfinished headers are the first to go."""
        self._held += byte_count
        if byte_count > 0 and self.over_soft_limit:
            self._close_idle(holding=True)

    def _close_idle(self, *, holding: bool) -> bool:
        """Close the one that was idle for the longest (of those that hold something); whether there is one."""
        for connection in self._idle:
            if connection.idle and (connection.held or not holding):
                del self._idle[connection]
                connection.force_close()
                return True
        return False


class DirectRead:
    """A body that is read from the socket into its reserved memory, past the HTTP parser. For one reader."""

    __slots__ = ("_clock", "_left", "_on_full", "_read")

    def __init__(self, buffer: memoryview, on_full: Callable[[], None], clock: LoopClock) -> None:
        """`buffer` is not empty. `on_full` is called before anything else is read."""
        self._left = buffer
        self._on_full = on_full
        self._clock = clock
        self._read = asyncio.get_running_loop().create_future()

    @property
    def buffer(self) -> memoryview:
        """Where to read to next; not empty."""
        return self._left[:READ_MAX_BYTES]

    def advance(self, byte_count: int) -> None:
        """So many bytes were read into `buffer`."""
        self._left = self._left[byte_count:]
        if not self._left:
            self._on_full()
            self._read.set_result(None)

    def fail(self, error: Exception) -> None:
        """Nothing more will come."""
        if not self._read.done():
            self._read.set_exception(error)

    async def wait(self, progress_timeout: float) -> None:
        """Wait until all is read. Raises `Rejection` (408) when it does not advance, and the error of `fail`."""
        while not self._read.done():
            left, deadline = len(self._left), self._clock.time() + progress_timeout
            while not self._read.done() and (remaining := deadline - self._clock.time()) > 0:
                await asyncio.wait((self._read,), timeout=remaining)
            if not self._read.done() and left - len(self._left) < PROGRESS_BYTES:
                raise stalled(progress_timeout)
        self._read.result()


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

    __slots__ = (
        "_answered",
        "_half_closed",
        "_headers_due",
        "_last_body",
        "_reserved",
        "_server",
        "_waits_since",
        "clock",
        "direct_read",
        "held",
        "read_through_parser",
        "turned_away",
    )

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
        self.clock = server.clock
        self._headers_due: asyncio.TimerHandle | None = None
        self._waits_since = 0.0
        self._half_closed = False
        self._answered = 0
        self._last_body: StreamReader | None = None
        self._reserved: int | None = None
        self.direct_read: DirectRead | None = None
        """What the next bytes from the client go into, past the parser."""
        self.held = 0
        self.read_through_parser = 0
        """Bytes that came and were not read past the parser."""
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
        self.turned_away = not self._server.limiter.opened(self)
        self._waits_since = self.clock.time()
        self._headers_due = self._loop.call_later(self._server.limits.header_timeout, self._on_header_timeout)

    def _on_header_timeout(self) -> None:
        remaining = self._server.limits.header_timeout - (self.clock.time() - self._waits_since)
        if remaining > 0:
            self._headers_due = self._loop.call_later(remaining, self._on_header_timeout)
        else:
            self.force_close()

    def _process_keepalive(self) -> None:
        """aiohttp closes idle connections here, by the time of the event loop."""
        remaining = self._server.limits.keepalive_timeout - (self.clock.time() - self._waits_since)
        if remaining > 0:
            self._next_keepalive_close_time = self._loop.time() + remaining
        super()._process_keepalive()

    def half_closed(self) -> bool:
        """The client sends nothing more, and may still read. Returns whether the connection stays open for answers.

        The last of them then ends it. A body that is not complete is answered as that of a client that is gone.
        """
        self._half_closed = True
        if self._answered == self._request_count:
            if self.idle or not self._answered:
                return False
            self.close()  # once the last answer is written
            return True
        body = self._last_body
        if self.direct_read is not None:
            self.direct_read.fail(ConnectionResetError("the client sends no more"))
        elif body is not None and not body.is_eof():
            body.set_exception(RequestPayloadError("the client sends no more"))
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection ended."""
        self._headers_complete()
        self._uncount()
        if self.direct_read is not None:
            self.direct_read.fail(ConnectionResetError("the client went away"))
        self._server.limiter.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came. What is left of a body that was refused is thrown away, and not held."""
        # The first bytes of a connection may come before aiohttp waits for any.
        expected = self.idle or self._current_request is not None or not self._request_count
        counts = data and self._reserved is None and expected
        self.read_through_parser += len(data)
        super().data_received(data)
        if self._messages:
            self._last_body = self._messages[-1][1]
        if counts and self.transport is not None:
            self.held += len(data)
            self._server.limiter.buffered(len(data))
        if self.held > _HEAD_BYTES and self.idle:
            self._server.observer.posted(NO_ROUTE, "headers_too_long")
            self.force_close()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, if that was stopped. aiohttp asks for it whenever a body is read, and would parse nothing again."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def begin_request(self) -> None:
        """A request is in hand: its headers are complete."""
        self._headers_complete()
        self._server.limiter.busy(self)

    def reserved(self, content: StreamReader, byte_count: int) -> None:
        """So much memory is reserved for the body of the request in hand, which is read from now on."""
        self._reserved = byte_count
        self._uncount()
        content.set_read_chunk_size(_READ_STEPS[1])

    async def read_into(self, content: StreamReader, buffer: memoryview, progress_timeout: float) -> None:
        """Read the rest of the body of the request in hand into `buffer`, which is as long as that.

        The parser, which has nothing of it left, does not see it: a new one begins with what comes after it. Raises
        `Rejection` (408) and `ConnectionError`; the connection is of no use then.
        """

        def end_body() -> None:
            """All of it is here: what comes next is another request."""
            self.direct_read = None
            self._parser = _new_parser(self, self._loop)
            content.feed_eof()

        self.direct_read = DirectRead(buffer, end_body, self.clock)
        try:
            await self.direct_read.wait(progress_timeout)
        except BaseException:
            self.direct_read = None
            self.close()
            raise

    def arrived(self) -> None:
        """Memory is reserved for the body of the request in hand, and all of it is here."""
        self._uncount()

    def end_request(self) -> None:
        """The answer to the request in hand is known."""
        self._reserved = None
        self._uncount()
        self._waits_since = self.clock.time()
        self._answered += 1
        if not self._messages:
            self._last_body = None
        if self.transport is not None:
            self._server.limiter.idle(self)
        if self._half_closed and not self._messages:
            self.close()

    def _uncount(self) -> None:
        """What was held is covered by a reservation now, or gone."""
        if self.held:
            self._server.limiter.buffered(-self.held)
            self.held = 0

    def _headers_complete(self) -> None:
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
            rejection = internal()
        else:
            what = (message or "malformed request").strip().split("\n", 1)[0]
            rejection = Rejection(status, "bad_request", f"This is no valid HTTP request: {what}", "See RFC 9112.")
        rejection.closes = True
        self._server.observer.posted(NO_ROUTE, rejection.code)
        return rejection_response(rejection)


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

    def __init__(
        self, handler: Handler, gate: AdmissionGate, observer: IntakeObserver, limits: ConnectionLimits
    ) -> None:
        super().__init__(self._handle)
        self._gate = gate
        self.clock = LoopClock(asyncio.get_running_loop())
        self.observer = observer
        self.limits = limits
        self.limiter = ConnectionLimiter(limits.connections_max, _HELD_BYTES)
        self._handler = handler

    def __call__(self) -> IntakeProtocol:
        """The protocol of a new connection."""
        return IntakeProtocol(self, self._loop)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close all connections."""
        await super().shutdown(timeout)
        self.clock.stop()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        assert isinstance(protocol, IntakeProtocol), "made by __call__"
        protocol.begin_request()
        self._gate.begin()
        try:
            if protocol.turned_away or self._no_room_for(request):
                self.observer.posted(NO_ROUTE, "crowded")
                return rejection_response(_crowded())
            return await self._handler(request)
        finally:
            self._gate.end()
            protocol.end_request()

    def _no_room_for(self, request: web.BaseRequest) -> bool:
        """Load shedding: whether too much is held to accept it. Small posts are turned away last."""
        if not self.limiter.over_soft_limit:
            return False
        small = request.content_length is not None and request.content_length <= SMALL_POST_BYTES
        return self.limiter.over_hard_limit or not small


def _crowded() -> Rejection:
    return Rejection(
        503,
        "crowded",
        "Too many clients are connected, or wait for memory.",
        "Send the call log again in a moment.",
        retry_after=1,
        closes=True,
    )


_socket_buffer = memoryview(bytearray(READ_MAX_BYTES))
"""What sockets are read into: an event loop reads one at a time, and what came is copied out at once."""


class BufferedProtocolAdapter(asyncio.BufferedProtocol):
    """Between a socket and its `IntakeProtocol`: reads no more at once than the connection may hold.

    Event loops read up to 256 KB from a socket at once, before anybody has looked whether there is memory for it. They
    ask a `BufferedProtocol` for a buffer first; aiohttp's handler is a plain `Protocol`, which they never ask.
    """

    __slots__ = ("_protocol",)

    def __init__(self, protocol: IntakeProtocol) -> None:
        self._protocol = protocol

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where to read to, and thereby how much."""
        direct = self._protocol.direct_read
        return _socket_buffer[: self._protocol.read_bytes] if direct is None else direct.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So much was read."""
        direct = self._protocol.direct_read
        if direct is None:
            self._protocol.data_received(bytes(_socket_buffer[:nbytes]))
        else:
            direct.advance(nbytes)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._protocol.connection_lost(exc)

    def eof_received(self) -> bool:
        """The client sends nothing more; whether the connection stays open for answers."""
        return self._protocol.half_closed()

    def pause_writing(self) -> None:
        """The client reads less than is written."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._protocol.resume_writing()
