"""A tiny forward proxy for tests: CONNECT for https, absolute addresses for http; notes what it was asked."""

import asyncio
import re
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Listens on loopback while entered. With `refuse`, it answers that status instead of connecting."""

    def __init__(self, refuse: int | None = None) -> None:
        self.requests: list[str] = []
        self.credentials: list[bytes] = []
        """What was sent as Proxy-Authorization, still in base64."""
        self._refuse = refuse
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://user:pr0xy-password@localhost:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "localhost", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            self.requests.append(f"{method} {target}")
            self.credentials += re.findall(rb"(?i)proxy-authorization: basic (\S+)", head)
            if self._refuse is not None:
                writer.write(f"HTTP/1.1 {self._refuse} No\r\nContent-Length: 0\r\n\r\n".encode())
            else:
                await self._forward(method, target, head, reader, writer)
        writer.close()

    async def _forward(
        self, method: str, target: str, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        upstream_reader, upstream = await asyncio.open_connection(parts.hostname, parts.port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            upstream.write(head.replace(target.encode(), parts.path.encode(), 1))
        await asyncio.gather(_pump(reader, upstream), _pump(upstream_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
