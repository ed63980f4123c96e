"""A proxy of one's own before an S3 server: it writes down every request, and does to some what networks do.

It passes bytes on as they are, so that signatures hold.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import parse_qs, urlsplit

HEAD_LIMIT = 1 << 20
BLOCK = 1 << 16


class Fate(Enum):
    """What becomes of a request."""

    PASS = auto()
    """It goes to the server, and the answer comes back."""
    HOLD_BODY = auto()
    """Half of its body goes to the server, and then nothing more happens."""
    HOLD_ANSWER = auto()
    """The server has all of it, and the answer never comes back."""
    LOSE_ANSWER = auto()
    """The server has all of it, answers, and the connection breaks before the answer comes back."""


@dataclass(frozen=True)
class Answer:
    """An answer of the proxy's own, in the server's stead."""

    status: int
    code: str
    message: str = "made up"

    def encoded(self) -> bytes:
        body = f"<Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>" if self.code else ""
        head = f"HTTP/1.1 {self.status} Made\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Connection: close\r\n\r\n{body}".encode()


@dataclass(frozen=True)
class Request:
    """One request line and its headers."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def part(self) -> int | None:
        """The number of the part that it carries."""
        numbers = parse_qs(urlsplit(self.target).query).get("partNumber")
        return int(numbers[0]) if numbers and self.method == "PUT" else None

    @property
    def completes(self) -> bool:
        """Whether it makes an object of parts."""
        return self.method == "POST" and "uploadId=" in self.target


Decide = Callable[[Request], Fate | Answer]


@dataclass
class Proxy:
    """A running proxy. `decide` may be replaced at any time."""

    port: int = 0
    decide: Decide = lambda _: Fate.PASS
    requests: list[Request] = field(default_factory=list)
    held: asyncio.Queue[Request] = field(default_factory=asyncio.Queue)
    """The requests that are held, as they come."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def parts(self) -> list[int]:
        """The numbers of the parts that were sent, in order."""
        return [request.part for request in self.requests if request.part is not None]


@asynccontextmanager
async def proxy_before(port: int) -> AsyncIterator[Proxy]:
    """A proxy before the server on this port."""
    proxy = Proxy()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        connections.add(connection)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await _connection(proxy, port, reader, writer)
        finally:
            connections.discard(connection)
            writer.close()

    connections: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=HEAD_LIMIT)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _connection(proxy: Proxy, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        request = _parsed(head)
        proxy.requests.append(request)
        fate = proxy.decide(request)
        length = int(request.headers.get("content-length", 0))
        if isinstance(fate, Answer):
            if "expect" not in request.headers:
                await _skip(reader, length)
            writer.write(fate.encoded())
            await writer.drain()
            return
        # A connection of its own for each request: what one of them suffers, no other does.
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port, limit=HEAD_LIMIT)
        try:
            up_writer.write(re.sub(rb"(?i)\r\nexpect: 100-continue", b"", head))
            if "expect" in request.headers:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await _pump(reader, up_writer, length // 2 if fate is Fate.HOLD_BODY else length)
            if fate is Fate.HOLD_BODY:
                await _hold(proxy, request)
            answer = await _answer(up_reader, request.method)
            if fate is Fate.HOLD_ANSWER:
                await _hold(proxy, request)
            if fate is Fate.LOSE_ANSWER:
                return
            writer.write(answer)
            await writer.drain()
        finally:
            up_writer.close()


async def _hold(proxy: Proxy, request: Request) -> None:
    proxy.held.put_nowait(request)
    await asyncio.Event().wait()


async def _answer(reader: asyncio.StreamReader, method: str) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if method == "HEAD" or b" 204 " in head.split(b"\r\n")[0] or b" 304 " in head.split(b"\r\n")[0]:
        return head
    headers = _headers(head)
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            line = await reader.readuntil(b"\r\n")
            data = await reader.readexactly(int(line, 16) + 2)
            body += line + data
            if int(line, 16) == 0:
                return head + body
    return head + await reader.readexactly(int(headers.get("content-length", 0)))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
    while length:
        block = await reader.readexactly(min(length, BLOCK))
        writer.write(block)
        await writer.drain()
        length -= len(block)


async def _skip(reader: asyncio.StreamReader, length: int) -> None:
    while length:
        length -= len(await reader.readexactly(min(length, BLOCK)))


def _parsed(head: bytes) -> Request:
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
    return Request(method, target, _headers(head))


def _headers(head: bytes) -> dict[str, str]:
    lines = (line.decode("latin-1").partition(":") for line in head.split(b"\r\n")[1:] if line)
    return {name.lower(): value.strip() for name, _, value in lines}
