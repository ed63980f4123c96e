"""The body of a request on its way out: in slices, each no sooner than a bandwidth limit allows, each watched.

The peer's slowness and our own waiting are told apart here: only the former counts for the time-outs.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from uploaders.deadlines import Deadlines, Phase

SLICE_BYTES = 64 * 1024
"""The client waits for the socket when it has taken so much, so each slice shows that the peer reads."""

TURN_BYTES = 1 << 20
"""So much may be written before others have a turn: to a peer that reads fast 184 MB went out in 118 ms without one."""

Pace = Callable[[int], Awaitable[int]]
"""Waits until some of so many bytes may be sent, and says how many: at least one."""


class RequestBody(Payload):
    """What the HTTP client sends. `pace` None: at once."""

    def __init__(
        self,
        data: bytes | memoryview | AsyncIterator[bytes],
        content_type: str,
        deadlines: Deadlines,
        pace: Pace | None,
    ) -> None:
        super().__init__(data, content_type=content_type)
        self._data = data
        self._deadlines = deadlines
        self._pace = pace
        self._since_turn = 0
        if isinstance(data, bytes | memoryview):
            self._size = len(data)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Not asked for: a request is sent once, and never shown."""
        raise NotImplementedError

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all of it, and begin to wait for the answer."""
        self._deadlines.begin(Phase.SEND)
        if isinstance(self._data, bytes | memoryview):
            await self._send(writer, memoryview(self._data))
        else:
            async for chunk in self._data:
                await self._send(writer, memoryview(chunk))
        self._deadlines.begin(Phase.FIRST_BYTE)

    async def _send(self, writer: AbstractStreamWriter, rest: memoryview) -> None:
        while rest:
            allowed = SLICE_BYTES
            if self._pace is not None:
                with self._deadlines.suspended():
                    allowed = await self._pace(min(len(rest), SLICE_BYTES))
            await writer.write(rest[:allowed])
            self._deadlines.begin(Phase.SEND)
            rest = rest[allowed:]
            self._since_turn += allowed
            if self._since_turn >= TURN_BYTES:
                self._since_turn = 0
                await asyncio.sleep(0)
