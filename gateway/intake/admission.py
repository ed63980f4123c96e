"""Admission control: who is let in, how many clients there may be, and who goes when they hold too much.

- `AdmissionGate` says whether posts are let in, and how many requests are in flight.
- `ConnectionLimiter` counts clients and the bytes that they sent and no memory reservation covers. Above its limits
  idle clients are closed, then slow ones (load shedding), then large posts are turned away, then all.
"""

import asyncio
from typing import TYPE_CHECKING

from gateway.intake.responses import stopping

if TYPE_CHECKING:
    from gateway.intake.protocol import IntakeProtocol

SLOW_SECONDS = 1.0
"""A body that takes longer is slow: it must not hold memory that others wait for."""


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

    A connection that waits for its client's next request costs some 10 KB: a new client takes the place of the one that
    was idle for the longest, and for more than a second. Of many who connect at once, none would be answered if each
    took the place of one whose request is on its way. What counts against memory are bytes that came and that no
    reservation covers: of headers, and of bodies whose posts still wait for memory.
    """

    def __init__(self, connections_max: int, held_max: int) -> None:
        self._connections_max = connections_max
        self._held_max = held_max
        self._connected = 0
        self._held = 0
        # In the order in which they became idle, and in which their bodies began.
        self._idle: dict[IntakeProtocol, None] = {}
        self._incomplete: dict[IntakeProtocol, float] = {}

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
        """A client connected. Returns whether there is room for it, or was made by closing an idle one."""
        self._connected += 1
        room = self._connected <= self._connections_max or self._close_idle(holding=False)
        self._idle[connection] = None
        return room

    def closed(self, connection: "IntakeProtocol") -> None:
        """A connection ended."""
        self._connected -= 1
        self._idle.pop(connection, None)
        self._incomplete.pop(connection, None)

    def busy(self, connection: "IntakeProtocol") -> None:
        """A request of this connection begins."""
        self._idle.pop(connection, None)

    def idle(self, connection: "IntakeProtocol") -> None:
        """Its request has its response."""
        self._idle[connection] = None

    def incomplete(self, connection: "IntakeProtocol") -> None:
        """A body without a reservation is to come in."""
        self._incomplete[connection] = connection.clock.time()

    def complete(self, connection: "IntakeProtocol") -> None:
        """It is here, or will not come."""
        self._incomplete.pop(connection, None)

    def buffered(self, byte_count: int) -> None:
        """`byte_count` more bytes are held, or fewer. Above the soft limit unfinished headers are the first to go, and
        then the small body that has been incomplete for the longest, more than a second."""
        self._held += byte_count
        if byte_count > 0 and self.over_soft_limit and not self._close_idle(holding=True):
            self._close_slowest()

    def _close_slowest(self) -> None:
        for connection, since in self._incomplete.items():
            if connection.clock.time() - since > SLOW_SECONDS:
                del self._incomplete[connection]
                connection.force_close()
            return

    def _close_idle(self, *, holding: bool) -> bool:
        """Close the one that was idle for the longest (of those that hold something); whether there is one."""
        for connection in self._idle:
            if not holding and connection.waited < SLOW_SECONDS:
                return False
            if connection.idle and (connection.held or not holding):
                del self._idle[connection]
                connection.force_close()
                return True
        return False
