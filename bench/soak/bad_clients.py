"""Clients that are slow, that stop in the middle, and that go away: none of them may cost anything for long."""

import asyncio
import contextlib
from collections import Counter

_BODY_BYTES = 500_000
_PIECES = 10
_PIECE_SECONDS = 0.15
_STALL_SECONDS = 10.0
"""Longer than the gateway gives a client that sends nothing."""
_PAUSE_SECONDS = 0.5


class BadClients:
    """They announce a body of 500 KB and send less; `ended` counts how each kind of them ended."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.ended: Counter[str] = Counter()

    async def keep_coming(self, over: asyncio.Event) -> None:
        """One kind after the other, until it is over."""
        while not over.is_set():
            for visit in (self._goes_away, self._stalls, self._dribbles):
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                    await visit()
                    self.ended[visit.__name__.strip("_")] += 1
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _goes_away(self) -> None:
        _, writer = await self._begun()
        writer.write(b" " * (_BODY_BYTES // 2))
        await writer.drain()
        writer.transport.abort()

    async def _stalls(self) -> None:
        """Waits for its 408, or for the end of the connection."""
        reader, writer = await self._begun()
        writer.write(b" " * 1_000)
        async with asyncio.timeout(_STALL_SECONDS):
            await reader.read(1)
        writer.transport.abort()

    async def _dribbles(self) -> None:
        _, writer = await self._begun()
        for _ in range(_PIECES):
            writer.write(b" " * 20_000)
            await writer.drain()
            await asyncio.sleep(_PIECE_SECONDS)
        writer.transport.abort()

    async def _begun(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"POST /v1/calls HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % _BODY_BYTES)
        return reader, writer
