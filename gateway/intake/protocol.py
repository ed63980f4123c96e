"""One connection of the intake: aiohttp's protocol with admission control, a connection limit and back-pressure.

- Back-pressure: a connection reads from its socket no more than is reserved for it, so that its sender waits in TCP.
- `DirectRead`: a body goes from the socket into its memory, past the HTTP parser.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import StreamReader, web
from aiohttp.http import HttpRequestParser
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE, RequestPayloadError

from gateway.intake.admission import AdmissionGate, ConnectionLimiter
from gateway.intake.memory import SMALL_POST_BYTES
from gateway.intake.ports import NO_ROUTE, IntakeObserver
from gateway.intake.responses import Rejection, internal, rejection_response, stalled

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


class DirectRead:
    """The rest of a body, read from the socket into its reader's memory, past the HTTP parser. For one reader.

    Between two reads the connection is paused.
    """

    __slots__ = ("_buffer", "_clock", "_due", "_error", "_mark", "_on_end", "_paused_at", "_read", "_transport", "left")

    def __init__(self, left: int, transport: asyncio.Transport, on_end: Callable[[], None], clock: LoopClock) -> None:
        """`left` is above 0. `on_end` is called before anything behind the body is read."""
        self.left = left
        """Bytes that are still to come."""
        self._transport = transport
        self._on_end = on_end
        self._clock = clock
        self._buffer = memoryview(b"")
        self._read: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._mark = left
        self._due: float | None = None
        self._paused_at: float | None = None

    @property
    def buffer(self) -> memoryview:
        """Where to read to next; not empty while the connection is read from."""
        return self._buffer[:READ_MAX_BYTES]

    def advance(self, byte_count: int) -> None:
        """So many bytes were read into `buffer`."""
        self._buffer = self._buffer[byte_count:]
        self.left -= byte_count
        if self._buffer:
            return
        if self.left:
            self._pause()
        else:
            self._on_end()
        if self._read is not None and not self._read.done():
            self._read.set_result(None)

    def fail(self, error: Exception) -> None:
        """Nothing more will come."""
        self._error = error
        if self._read is not None and not self._read.done():
            self._read.set_exception(error)

    async def read(self, buffer: memoryview, progress_timeout: float, patience: float | None = None) -> int:
        """Fill the buffer, or read what comes within `patience` seconds; returns how many bytes that are.

        Raises `Rejection` (408) when the body does not advance enough, and the error of `fail`.
        """
        if self._error is not None:
            raise self._error
        wanted = min(len(buffer), self.left)
        self._buffer = buffer[:wanted]
        self._read = asyncio.get_running_loop().create_future()
        now = self._clock.time()
        if self._due is None:
            self._due = now + progress_timeout
        if self._paused_at is not None:
            self._due += now - self._paused_at
            self._paused_at = None
            self._transport.resume_reading()
        ends_at = None if patience is None else now + patience
        while not self._read.done():
            now = self._clock.time()
            if now >= self._due:
                if self._mark - self.left < PROGRESS_BYTES:
                    raise stalled(progress_timeout)
                self._mark, self._due = self.left, now + progress_timeout
            elif ends_at is not None and now >= ends_at:
                self._pause()
                break
            await asyncio.wait((self._read,), timeout=(self._due if ends_at is None else min(self._due, ends_at)) - now)
        else:
            self._read.result()
        count = wanted - len(self._buffer)
        self._buffer = memoryview(b"")
        return count

    def _pause(self) -> None:
        self._paused_at = self._clock.time()
        self._transport.pause_reading()


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
    def waited(self) -> float:
        """Seconds since it was opened, or since its last answer."""
        return self.clock.time() - self._waits_since

    @property
    def read_bytes(self) -> int:
        """How much may be read from the client at once."""
        if self._reserved is None:
            return _READ_STEPS[0]
        return max((step for step in _READ_STEPS if step <= self._reserved), default=_READ_STEPS[0])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        super().connection_made(transport)
        self._waits_since = self.clock.time()
        self.turned_away = not self._server.limiter.opened(self)
        self._headers_due = self._loop.call_later(self._server.limits.header_timeout, self._on_header_timeout)

    def _on_header_timeout(self) -> None:
        remaining = self._server.limits.header_timeout - self.waited
        if remaining > 0:
            self._headers_due = self._loop.call_later(remaining, self._on_header_timeout)
        else:
            self.force_close()

    def _process_keepalive(self) -> None:
        """aiohttp closes idle connections here, by the time of the event loop."""
        remaining = self._server.limits.keepalive_timeout - self.waited
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
        # The first bytes of a connection may come before aiohttp waits for any, more of a body before it is in hand.
        expected = self.idle or self._answered < self._request_count or not self._request_count
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

    def unreserved(self) -> None:
        """No memory is reserved any more for the body of the request in hand: what comes of it counts as held."""
        self._reserved = None

    def taken(self, byte_count: int) -> None:
        """So many bytes that were held are held by nobody any more."""
        taken = min(self.held, byte_count)
        if taken:
            self._server.limiter.buffered(-taken)
            self.held -= taken

    def await_body(self, content: StreamReader) -> None:
        """All of the body of the request in hand, which is small, is to come before any is read.

        It counts as held, and is the first to go when too much is.
        """
        content.set_read_chunk_size(SMALL_POST_BYTES)
        self.resume_reading()
        self._server.limiter.incomplete(self)

    def begin_direct_read(self, content: StreamReader, left: int) -> None:
        """Read the rest of the body of the request in hand, which is as long, by `read_directly`.

        The parser, which has nothing of it left, does not see it: a new one begins with what comes after it.
        """

        def end_body() -> None:
            """All of it is here: what comes next is another request."""
            self.direct_read = None
            self._parser = _new_parser(self, self._loop)
            content.feed_eof()

        assert self.transport is not None, "the connection of a request"
        self.direct_read = DirectRead(left, self.transport, end_body, self.clock)

    async def read_directly(self, buffer: memoryview, progress_timeout: float, patience: float | None = None) -> int:
        """See `DirectRead.read`. When it raises, the connection is of no use."""
        assert self.direct_read is not None, "there is more to come"
        try:
            return await self.direct_read.read(buffer, progress_timeout, patience)
        except BaseException:
            self.direct_read = None
            self.close()
            raise

    def arrived(self) -> None:
        """Memory is reserved for the body of the request in hand, and all of it is here."""
        self._server.limiter.complete(self)
        self._uncount()

    def end_request(self) -> None:
        """The answer to the request in hand is known."""
        self._reserved = None
        self._server.limiter.complete(self)
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

    async def linger(self, seconds: float) -> None:
        """Answer those who are connected until they are gone, or for so long.

        While it shuts down, aiohttp reads nothing that comes: who had just connected would be cut off. Of who was
        accepted in this very turn the loop tells in the next.
        """
        until = self._loop.time() + seconds
        await asyncio.sleep(0)
        while waiting := [task for each in self._connections if (task := each._task_handler) and not task.done()]:
            gone, _ = await asyncio.wait(waiting, timeout=max(0.0, until - self._loop.time()))
            if not gone:
                return

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

    __slots__ = ("_protocol", "_secure")

    def __init__(self, protocol: IntakeProtocol, *, secure: bool = False) -> None:
        self._protocol = protocol
        self._secure = secure

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
        # With TLS there is no half of a connection: who sends no more reads no more.
        return self._protocol.half_closed() and not self._secure

    def pause_writing(self) -> None:
        """The client reads less than is written."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._protocol.resume_writing()
