"""The gate of the intake: whether posts are let in at the moment, and how many are being worked on."""

import asyncio
from typing import Protocol

from gateway.intake.responses import stopping


class Gate:
    """Shut until `open`, shut again by `close`. For the event loop."""

    def __init__(self) -> None:
        self._open = False
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def is_open(self) -> bool:
        """Whether posts are let in."""
        return self._open

    @property
    def inside(self) -> int:
        """Requests that are being worked on."""
        return self._inside

    def open(self) -> None:
        """Let posts in."""
        self._open = True

    def close(self) -> None:
        """Let nobody in any more; those inside go on."""
        self._open = False

    async def emptied(self) -> None:
        """Wait until nobody is inside."""
        await self._empty.wait()

    def check(self) -> None:
        """Return if posts are let in; raises `Refusal` (503) otherwise."""
        if not self._open:
            raise stopping()

    def enter(self) -> None:
        """A request begins, whether it will be let in or not."""
        self._inside += 1
        self._empty.clear()

    def leave(self) -> None:
        """That request has its answer."""
        self._inside -= 1
        if not self._inside:
            self._empty.set()


# Who is connected, what they hold outside of the memory budget, and who must go when that becomes too much.
#
# A connection that waits for its client's next request costs some 10 KB and may be closed at any time: so a new client
# always finds room, at the cost of whoever was idle for the longest. What counts against memory are bytes that came and
# that no reservation covers: of headers, and of bodies whose posts still wait for memory.


class Member(Protocol):
    """A connection, as the crowd sees it."""

    @property
    def idle(self) -> bool:
        """Whether no request is in hand and no answer under way."""
        ...

    @property
    def held(self) -> int:
        """Bytes that came and that no reservation covers."""
        ...

    def force_close(self) -> None:
        """Close the connection now."""
        ...


class Crowd:
    """Keeps count of connections. For the event loop."""

    def __init__(self, connections_max: int, held_max: int) -> None:
        self._connections_max = connections_max
        self._held_max = held_max
        self._connected = 0
        self._held = 0
        # In the order in which they began to wait for their client.
        self._waiting: dict[Member, None] = {}

    @property
    def connected(self) -> int:
        """How many clients are connected."""
        return self._connected

    @property
    def held(self) -> int:
        """Bytes that all of them hold."""
        return self._held

    @property
    def presses(self) -> bool:
        """Whether so much is held that posts which would hold more are better sent again later."""
        return self._held > self._held_max

    @property
    def chokes(self) -> bool:
        """Whether so much is held that no post at all can be taken."""
        return self._held > 2 * self._held_max

    def came(self, member: Member) -> bool:
        """A client connected. Returns whether there is room for it, which there is while anybody is idle."""
        self._connected += 1
        room = self._connected <= self._connections_max or self._close_idle(holding=False)
        self._waiting[member] = None
        return room

    def went(self, member: Member) -> None:
        """A connection ended."""
        self._connected -= 1
        self._waiting.pop(member, None)

    def works(self, member: Member) -> None:
        """A request of this connection begins."""
        self._waiting.pop(member, None)

    def waits(self, member: Member) -> None:
        """Its request has its answer."""
        self._waiting[member] = None

    def holds(self, byte_count: int) -> None:
        """So many bytes more are held, or fewer; when too many are, those of unfinished headers go first."""
        self._held += byte_count
        if byte_count > 0 and self.presses:
            self._close_idle(holding=True)

    def _close_idle(self, *, holding: bool) -> bool:
        """Close the one that was idle for the longest (of those that hold something); whether there is one."""
        for member in self._waiting:
            if member.idle and (member.held or not holding):
                del self._waiting[member]
                member.force_close()
                return True
        return False
