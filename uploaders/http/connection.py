"""One connection to an HTTP/1.1 server: writes requests and reads the beginnings of the responses, one after the other.

The HTTP client library opens it (names, addresses, TLS, proxies). Requests are written and parsed here: a request of
2 KB by the library's session takes three times the CPU.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import cast

import aiohttp
import httptools
from aiohttp.connector import Connection

from uploaders.http.confirmation import Answer
from uploaders.http.timeouts import Deadlines, Phase
from uploaders.rate_limit import SLICE_BYTES, Pace

RESPONSE_LIMIT_BYTES = 64 * 1024
"""No more of the beginning of a response's body is kept, and longer headers are rejected."""
TAIL_BYTES = 4096
"""Of a longer body so much of its end is kept: what follows an echo of the request says whether that succeeded."""
READ_LIMIT_BYTES = 8 << 20
"""A longer body than this is not read to its end."""

FRAMING_LIMIT_BYTES = 256 << 10
"""So much of a response may be anything but body: interim responses, headers, chunk sizes and their extensions. Parsing
an endless one took a core until the time-out."""
FRAMING_PER_BYTE = 8
"""For each byte of body so much more: a chunk of one byte has 5 bytes around it."""

_FIRST_FINAL_STATUS = 200
"""Responses below are interim ones; another one follows."""
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that say where a body ends; without them it ends with the connection."""
_LOOKED_AT = frozenset({b"retry-after", b"location", b"content-type", b"content-encoding"})
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([\w.:-]{1,40})", re.IGNORECASE)


class BadAnswer(aiohttp.ClientError):
    """The response is not HTTP, or its headers do not end."""


class HttpConnection(asyncio.Protocol):
    """One connection. From `begin` to the return of `answered` one request is under way."""

    def __init__(self, opened: Connection) -> None:
        """Takes over a connection that was just opened and not used yet."""
        self._transport = cast("asyncio.Transport", opened.transport)
        self.opened_at = time.monotonic()
        self._opened = opened
        self._opener = self._transport.get_protocol()
        self._transport.set_protocol(self)
        self._parser = httptools.HttpResponseParser(self)
        # What aiohttp's client accepts, and so the SDK: bare line feeds, folded headers, blanks after a chunk's size.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._ended.set_result(None)
        self._resumed: asyncio.Future[None] | None = None
        self._paused = False
        self._lost = False
        self._may_be_kept = False
        self._failure: Exception | None = None
        self._answer_begins: Callable[[], None] = lambda: None
        self._tail = b""
        self._beyond = 0
        self._framing_bytes = 0
        self._expect_headers()

    @property
    def is_free(self) -> bool:
        """Whether it can be reused: the last response ended, and the server keeps the connection open."""
        return self._may_be_kept and not self._lost and not self._transport.is_closing()

    def begin(self, answer_begins: Callable[[], None]) -> None:
        """Begin a request. `answer_begins` is called at the end of the response's headers."""
        self._answer_begins = answer_begins
        self._ended = self._loop.create_future()
        self._failure = None
        self._may_be_kept = False
        self._framing_bytes = 0
        self._expect_headers()
        if self._lost:
            self._fail(aiohttp.ServerDisconnectedError())

    def write(self, data: bytes | memoryview) -> None:
        """Send this, or buffer it until the server reads it. `drained` reports a connection that ended."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> bool:
        """Wait until little is buffered. False: the response or the connection ended, and no more is to be sent."""
        if self._transport.is_closing():
            await self._ended
        elif self._paused and not self._ended.done():
            self._resumed = self._loop.create_future()
            try:
                await self._resumed
            finally:
                self._resumed = None
        return not self._ended.done()

    async def answered(self) -> Answer:
        """The beginning of the response. Raises `aiohttp.ClientError` or `OSError` when it does not end."""
        await self._ended
        if self._failure is not None:
            raise self._failure
        content_type = self._headers.get(b"content-type", "")
        charset = _CHARSET.search(content_type)
        return Answer(
            self._status,
            bytes(self._body),
            self._headers.get(b"retry-after"),
            self._headers.get(b"location"),
            content_type.partition(";")[0].strip().lower() or None,
            whole=self._whole,
            charset=charset[1] if charset else None,
            content_encoding=self._headers.get(b"content-encoding", "").strip().lower() or None,
            tail=bytes(self._tail),
        )

    def abort(self) -> None:
        """Close the connection at once; what is buffered is dropped."""
        self._transport.abort()
        self._opened.close()

    # What the event loop calls ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """A part of the response arrived, or data without a request."""
        if self._ended.done():
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(BadAnswer(str(error)))
        self._framing_bytes += len(data)
        if self._framing_bytes > FRAMING_LIMIT_BYTES:
            self._fail(BadAnswer("the response has hardly any body between its headers and chunk extensions"))
            self.abort()
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > RESPONSE_LIMIT_BYTES:
                self._fail(BadAnswer("the headers do not end"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._lost = True
        if not self._ended.done():
            if exc is None and not self._in_headers and self._ends_with_connection:
                self._end()
            else:
                cut = aiohttp.ServerDisconnectedError() if self._in_headers else aiohttp.ClientPayloadError()
                self._fail(exc or cut)
        self._opener.connection_lost(exc)
        self._opened.close()

    def pause_writing(self) -> None:
        """The buffer is full: the server reads more slowly than we write."""
        self._paused = True

    def resume_writing(self) -> None:
        """The buffer is nearly empty."""
        self._paused = False
        self._wake_writer()

    # What the parser calls -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A response without a request: the connection is not reused."""
        if self._ended.done():
            self._may_be_kept = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of several with one name the first one counts."""
        name = name.strip().lower()
        if name in _LOOKED_AT:
            self._headers.setdefault(name, value.decode(errors="surrogateescape"))
        elif name in _FRAMING:
            self._ends_with_connection = False

    def on_headers_complete(self) -> None:
        """The body begins, unless this is an interim response."""
        self._status = self._parser.get_status_code()
        self._in_headers = self._status < _FIRST_FINAL_STATUS
        if not self._in_headers:
            self._answer_begins()

    def on_body(self, body: bytes) -> None:
        """Keep the beginning and the end of it."""
        self._framing_bytes -= FRAMING_PER_BYTE * len(body)
        room = RESPONSE_LIMIT_BYTES - len(self._body)
        self._body += body[:room]
        if len(body) > room:
            self._whole = False
            self._beyond += len(body) - room
            self._tail = (self._tail + body[room:])[-TAIL_BYTES:]
            if self._beyond > READ_LIMIT_BYTES:
                self._end()

    def on_message_complete(self) -> None:
        """The response ended, or an interim one did."""
        if self._in_headers:
            self._expect_headers()
        elif not self._ended.done():
            self._may_be_kept = self._parser.should_keep_alive()
            self._end()

    def _expect_headers(self) -> None:
        self._status = 0
        self._headers: dict[bytes, str] = {}
        self._body = bytearray()
        self._whole = True
        self._tail = b""
        self._beyond = 0
        self._in_headers = True
        self._header_bytes = 0
        self._ends_with_connection = True

    def _fail(self, failure: Exception) -> None:
        if not self._ended.done():
            self._failure = failure
            self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
            self._wake_writer()

    def _wake_writer(self) -> None:
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)


# Sends a request: its body in slices, each as soon as the rate limit allows, each with a time-out.
#
# Only the server's slowness counts for the time-outs, not the waiting for the rate limit.

TURN_BYTES = 1 << 20
"""After so many bytes other tasks get a turn: without one, 184 MB to a fast reader took the event loop for 118 ms."""

Data = bytes | memoryview | AsyncIterator[bytes]


async def send(connection: HttpConnection, head: bytes, data: Data, deadlines: Deadlines, pace: Pace | None) -> bool:
    """Send all of a request. False: the response ended first, and the rest was not sent. `pace` None: unlimited."""
    if pace is None and isinstance(data, (bytes, memoryview)) and len(data) <= SLICE_BYTES:
        connection.write(b"".join((head, data)))
        wanted = True
    else:
        deadlines.begin(Phase.SEND)
        connection.write(head)
        wanted = await _Sending(connection, deadlines, pace).send(data)
    deadlines.begin(Phase.FIRST_BYTE)
    return wanted


class _Sending:
    """One body on its way out."""

    def __init__(self, connection: HttpConnection, deadlines: Deadlines, pace: Pace | None) -> None:
        self._connection = connection
        self._deadlines = deadlines
        self._pace = pace
        self._since_turn = 0

    async def send(self, data: Data) -> bool:
        """Whether all of it was wanted."""
        if not isinstance(data, AsyncIterator):
            return await self._slices(memoryview(data))
        async for chunk in data:
            if not await self._slices(memoryview(chunk)):
                return False
        return True

    async def _slices(self, rest: memoryview) -> bool:
        while rest:
            allowed = SLICE_BYTES
            if self._pace is not None:
                with self._deadlines.suspended():
                    allowed = await self._pace(min(len(rest), SLICE_BYTES))
            self._connection.write(rest[:allowed])
            if not await self._connection.drained():
                return False
            self._deadlines.begin(Phase.SEND)
            rest = rest[allowed:]
            self._since_turn += allowed
            if self._since_turn >= TURN_BYTES:
                self._since_turn = 0
                await asyncio.sleep(0)
        return True
