"""Making room in a full spool, where its operator wants that: the oldest details go, and their space is free."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from spool.giving_up import GiveUpDetails
from spool.loose import DeleteLooseChunks
from spool.quota import Quota
from spool.records import Delivery
from spool.settling import Names
from spool.writer import Writer

MARGIN_SHARE = 64
"""So much of the quota is made free at once, so that not each post of a full spool has to make its own room."""


class IncomingRanges(Protocol):
    """Knows which loose chunks are still coming in, so that these are not deleted."""

    incoming: set[int]


class RoomMaker:
    """Gives details up until something fits. For the event loop.

    `announce` is told what may be sent now.
    """

    def __init__(
        self,
        writer: Writer,
        quota: Quota,
        names: Names,
        ranges: IncomingRanges,
        clock: Callable[[], int],
        announce: Callable[[tuple[Delivery, ...]], None],
    ) -> None:
        self.gave_up: Callable[[int, int], None] | None = None
        """Told how many details were given up, and their stored bytes."""
        self._writer = writer
        self._quota = quota
        self._names = names
        self._ranges = ranges
        self._clock = clock
        self._announce = announce
        self._one_at_a_time = asyncio.Lock()
        self._soon: asyncio.Task[None] | None = None

    async def make(self, byte_count: int, *, reserve: bool) -> None:
        """Return when so much fits, or nothing is left that could be given up. Raises `SpoolUnavailable`."""
        if self._fits(byte_count, reserve=reserve):
            return
        async with self._one_at_a_time:
            wanted = max(byte_count, self._quota.limit_bytes // MARGIN_SHARE)
            last: int | None = 0
            while last is not None and not self._fits(byte_count, reserve=reserve):
                last = await self._give_up(wanted, last)

    def make_soon(self, byte_count: int) -> None:
        """Begin with it, for what is refused now and will be sent again."""
        busy = self._soon is not None and not self._soon.done()
        if not busy and not self._fits(byte_count, reserve=False):
            self._soon = asyncio.create_task(self.make(byte_count, reserve=False), name="spool-making-room")
            self._soon.add_done_callback(_heard)

    async def close(self) -> None:
        """End what was begun."""
        if self._soon is not None:
            self._soon.cancel()
            await asyncio.gather(self._soon, return_exceptions=True)

    def _fits(self, byte_count: int, *, reserve: bool) -> bool:
        """Whether there is room already."""
        return self._quota.fits(byte_count, self._writer.total_bytes, reserve=reserve)

    async def _give_up(self, wanted: int, after: int) -> int | None:
        """One step; returns the record to go on behind, or None at the end."""
        given_up = await self._writer.submit(GiveUpDetails(wanted, after, self._names, self._clock()))
        if given_up.deliveries:
            self._announce(given_up.freed)
            if self.gave_up is not None:
                self.gave_up(given_up.deliveries, given_up.payload_bytes)
            while await self._writer.submit(DeleteLooseChunks(frozenset(self._ranges.incoming))):
                continue
        return given_up.last_record


def _heard(made: "asyncio.Task[None]") -> None:
    """A disk that fails is told by the post that meets it next."""
    if not made.cancelled():
        made.exception()
