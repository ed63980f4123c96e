"""Sends a request: its body in slices, each no sooner than a bandwidth limit allows, each watched.

The peer's slowness and our own waiting are told apart here: only the former counts for the time-outs.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from uploaders.deadlines import Deadlines, Phase

SLICE_BYTES = 64 * 1024
"""The socket is waited for when it has been given so much, so each slice shows that the peer reads."""

TURN_BYTES = 1 << 20
"""So much may be written before others have a turn: to a peer that reads fast 184 MB went out in 118 ms without one."""

Pace = Callable[[int], Awaitable[int]]
"""Waits until some of so many bytes may be sent, and says how many: at least one."""

Data = bytes | memoryview | AsyncIterator[bytes]


class Sink(Protocol):
    """What a request is written to."""

    def write(self, data: bytes | memoryview) -> None:
        """Send this, or keep it until the peer takes it."""
        ...

    async def drained(self) -> bool:
        """Wait until little is left unsent. False: the answer ended or the connection did, so nothing is to be sent."""
        ...


async def send(sink: Sink, head: bytes, data: Data, deadlines: Deadlines, pace: Pace | None) -> bool:
    """Send all of a request. False: no more of it was wanted, for its answer has ended. `pace` None: at once."""
    deadlines.begin(Phase.SEND)
    if pace is None and isinstance(data, (bytes, memoryview)) and len(data) <= SLICE_BYTES:
        sink.write(b"".join((head, data)))
        wanted = True
    else:
        sink.write(head)
        wanted = await _Sending(sink, deadlines, pace).send(data)
    deadlines.begin(Phase.FIRST_BYTE)
    return wanted


class _Sending:
    """One body on its way out."""

    def __init__(self, sink: Sink, deadlines: Deadlines, pace: Pace | None) -> None:
        self._sink = sink
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
            self._sink.write(rest[:allowed])
            if not await self._sink.drained():
                return False
            self._deadlines.begin(Phase.SEND)
            rest = rest[allowed:]
            self._since_turn += allowed
            if self._since_turn >= TURN_BYTES:
                self._since_turn = 0
                await asyncio.sleep(0)
        return True
