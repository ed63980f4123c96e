"""A server that misbehaves on the wire: each test writes down, in bytes, what it does with a connection."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Rogue:
    """Listens on loopback while entered; every connection is handed to `behaviour`, and cut at the end."""

    def __init__(self, behaviour: Behaviour, *, tls: ssl.SSLContext | None = None, scheme: str | None = None) -> None:
        self.connections = 0
        self.sent_bytes = 0
        """What was written to connections, as far as they took it."""
        self._behaviour = behaviour
        self._tls = tls
        self._scheme = scheme or ("https" if tls else "http")
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"{self._scheme}://localhost:{self._server.sockets[0].getsockname()[1]}/dev/send-call-log"

    async def __aenter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", 0))
        # Little room, so that a sender soon notices that nobody reads.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._server = await asyncio.start_server(self._serve, sock=listening, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Write it, counted once the peer's socket has room for it."""
        writer.write(data)
        await writer.drain()
        self.sent_bytes += len(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._behaviour(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """All of one request with its length; returns its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.split(b":")[1]))


async def for_ever() -> None:
    """Wait until the connection is cut from the outside."""
    await asyncio.get_running_loop().create_future()


async def never_answers(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Takes the request, and says nothing."""
    await read_request(reader)
    await for_ever()
