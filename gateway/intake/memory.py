"""One memory budget for all bodies in flight: a post reserves before it is read, and waits when there is no room.

The rule that keeps it free of deadlocks: a post waits for memory once, before it holds any, and never again.
What decoding needs beyond that is taken if it is free at that moment (`Reservation.try_grow`), and goes to a
staging file otherwise. So does a large body that gets no memory soon, or that comes in slowly (`body_reader`).

The rule that keeps it fair: an eighth of the budget is kept for small posts (at most `SMALL_POST_BYTES`). Small
posts use the common part too, as long as no large one waits for it; large ones use only the common part. Within
each of the two classes, memory is given to the senders in turn, and to one in the order in which it was asked for. So
a small post never waits behind a large one, a stream of small ones cannot keep a large one waiting for ever, and who
posts much waits for itself.
"""

import asyncio
import mmap
from types import TracebackType
from typing import TYPE_CHECKING

from gateway.intake.turns import FairQueue
from spool.errors import SpoolFull

if TYPE_CHECKING:  # a small body has nothing staged, and most are small
    from aiohttp import web

    from gateway.intake.staging import Staged, StagedFile

SMALL_POST_BYTES = 64 * 1024
_SMALL_SHARE = 8
"""An eighth of the budget is for small posts alone."""


class BudgetExhausted(Exception):
    """No memory became free within the time that a post may wait."""


class _Waiter:
    """A post in the queue; `granted` is resolved with its reservation."""

    __slots__ = ("granted", "size")

    def __init__(self, size: int, granted: "asyncio.Future[Reservation]") -> None:
        self.size = size
        self.granted = granted


class Reservation:
    """Bytes of the budget that one post holds until `release`. Only for the event loop's thread."""

    __slots__ = ("_budget", "_common", "_share")

    def __init__(self, budget: "MemoryBudget", *, share: int, common: int) -> None:
        self._budget = budget
        self._share = share
        self._common = common

    @property
    def size(self) -> int:
        """Bytes held now."""
        return self._share + self._common

    def try_grow(self, size: int) -> bool:
        """Hold `size` bytes instead of fewer, if the common part has them at once; never overtakes a waiter."""
        more = size - self.size
        if more > 0:
            if not self._budget._take_more(more):
                return False
            self._common += more
        return True

    def shrink(self, size: int) -> None:
        """Give back all above `size` bytes, those of the common part first."""
        common = min(self._common, max(0, self.size - size))
        share = max(0, self._share - max(size - self._common + common, 0))
        self._common -= common
        self._share -= share
        if common or share:
            self._budget._give_back(share=share, common=common)

    def handed_over(self) -> "Reservation":
        """The same bytes as a reservation of its own; this one then holds nothing."""
        successor = Reservation(self._budget, share=self._share, common=self._common)
        self._share = self._common = 0
        return successor

    def release(self) -> None:
        """Give everything back; harmless when repeated."""
        share, common, self._share, self._common = self._share, self._common, 0, 0
        self._budget._give_back(share=share, common=common)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class MemoryBudget:
    """`total` bytes for all bodies in flight. Only for the event loop's thread."""

    def __init__(self, total: int, *, wait_seconds: float = 3.0) -> None:
        self._wait_seconds = wait_seconds
        self._share_total = total // _SMALL_SHARE
        self._common_total = total - self._share_total
        self._share_used = 0
        self._common_used = 0
        self._small: FairQueue[_Waiter] = FairQueue()
        self._large: FairQueue[_Waiter] = FairQueue()

    @property
    def used_bytes(self) -> int:
        """Bytes that posts hold now."""
        return self._share_used + self._common_used

    @property
    def total_bytes(self) -> int:
        """The whole budget."""
        return self._share_total + self._common_total

    @property
    def waiting(self) -> int:
        """Posts that wait for memory now."""
        return self._small.size + self._large.size

    @property
    def largest(self) -> int:
        """The largest post that can be held in memory at all."""
        return self._common_total

    def try_reserve(self, size: int) -> Reservation | None:
        """`size` bytes, at most `largest`, if they are free now and nobody of the same class waits for them."""
        small = size <= SMALL_POST_BYTES
        return None if (self._small if small else self._large).size else self._grant(size)

    def try_reserve_some(self, size: int) -> Reservation:
        """`size` bytes, if they are free now, or none, as a reservation that may grow."""
        return self.try_reserve(size) or Reservation(self, share=0, common=0)

    async def reserve(self, size: int, sender: str = "", seconds: float | None = None) -> Reservation:
        """`size` bytes, after waiting for them if need be; `size` must be at most `largest`.

        Raises `BudgetExhausted` when they did not become free in `seconds`, at most those of the budget. Cancelling it
        reserves nothing.
        """
        seconds = self._wait_seconds if seconds is None else min(seconds, self._wait_seconds)
        reservation = self.try_reserve(size)
        if reservation is not None:
            return reservation
        queue = self._small if size <= SMALL_POST_BYTES else self._large
        waiter = _Waiter(size, asyncio.get_running_loop().create_future())
        queue.put(sender, waiter)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(waiter.granted)
        except TimeoutError:
            if waiter.granted.done():
                return waiter.granted.result()
            raise BudgetExhausted(f"no {size} bytes of memory became free in {seconds:g} s") from None
        except asyncio.CancelledError:
            if waiter.granted.done():
                waiter.granted.result().release()
            raise
        finally:
            if not waiter.granted.done():
                queue.remove(sender, waiter)
                waiter.granted.cancel()
                self._wake()

    def _grant(self, size: int) -> Reservation | None:
        """`size` bytes from the part that this post may use now; queues are the caller's concern."""
        small = size <= SMALL_POST_BYTES
        if small and self._share_used + size <= self._share_total:
            self._share_used += size
            return Reservation(self, share=size, common=0)
        if self._common_used + size <= self._common_total and not (small and self._large.size):
            self._common_used += size
            return Reservation(self, share=0, common=size)
        return None

    def _take_more(self, size: int) -> bool:
        """Add `size` bytes of the common part to a reservation, unless a large post waits for them."""
        if self._large.size or self._common_used + size > self._common_total:
            return False
        self._common_used += size
        return True

    def _give_back(self, *, share: int, common: int) -> None:
        self._share_used -= share
        self._common_used -= common
        if self._large.size or self._small.size:
            self._wake()

    def _wake(self) -> None:
        """Serve both queues from their heads as far as memory goes, the large ones' first."""
        for queue in (self._large, self._small):
            while queue:
                reservation = self._grant(queue.first().size)
                if reservation is None:
                    break
                queue.take().granted.set_result(reservation)


# A body: what a request carried, in memory within the budget or in a staging file.


class Body:
    """The bytes of one posted document, decoded.

    `data` is valid until `release`; views into it that others still hold stay valid after it, but are counted
    nowhere then. `staged` takes what must be written beside it; a small body has none. `file` is the one that `data`
    is a map of, if it is. `request` is what it came with, if it came over HTTP: it says whose turn the work on it is.
    """

    __slots__ = ("_reservation", "data", "file", "parse_seconds", "request", "staged")

    def __init__(
        self,
        data: bytes | bytearray | memoryview,
        reservation: Reservation | None,
        staged: "Staged | None",
        file: "StagedFile | None" = None,
    ) -> None:
        self.data = data
        self.staged = staged
        self.file = file
        self.request: web.BaseRequest | None = None
        self.parse_seconds = 0.0
        """CPU time that the parse worker took for it so far."""
        self._reservation = reservation

    @property
    def small(self) -> bool:
        """Whether it can be looked at on the event loop: 64 KiB parse in less than 0.1 ms."""
        return len(self.data) <= SMALL_POST_BYTES

    def become(self, decoded: "Body") -> None:
        """Hold what was decoded from this body instead of it."""
        self.release()
        self.data = decoded.data
        self.staged = decoded.staged
        self.file = decoded.file
        self._reservation = decoded._reservation

    def scratch(self, size: int) -> bytearray | mmap.mmap:
        """A writable buffer of `size` bytes that lives as long as this body. For worker threads, unless small.

        A file, unless the body is small: the budget has no room for a second copy of it.
        """
        return bytearray(size) if self.small or self.staged is None else self.staged.scratch(size)

    def spill(self) -> "StagedFile":
        """Write it to a file, for another process to read; it must not be small. For worker threads."""
        assert self.staged is not None, "only a small body has nothing staged"
        if self.file is None:
            self.file = self.staged.copy(self.data, has_memory=self._reservation is not None)
        return self.file

    def hold_file(self, data: memoryview) -> None:
        """Hold the map of the file that it was spilled to, and give its memory back, unless that has the file.

        For the event loop.
        """
        self.data = data
        if self._reservation is not None and not (self.file is not None and self.file.in_memory):
            self._reservation.release()
            self._reservation = None

    def new_file(self, size: int) -> "StagedFile":
        """A file of `size` bytes that lives as long as this body, which must not be small. For worker threads."""
        assert self.staged is not None, "only a small body has nothing staged"
        return self.staged.new_file(size)

    def __enter__(self) -> "Body":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it. To a `SpoolFull` is added what the body takes of the quota as staging files."""
        if isinstance(error, SpoolFull):
            self.count_staged(error)
        self.release()

    def count_staged(self, full: SpoolFull) -> None:
        """Add what is staged of it to what the record is known to need."""
        if self.staged is not None and not full.staged_bytes:
            full.staged_bytes = self.staged.claimed_bytes

    def release(self) -> None:
        """Give back memory and files; harmless when repeated."""
        self.data = b""
        self.file = None
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None
        if self.staged is not None:
            self.staged.discard()
            self.staged = None
