"""Fair queueing by sender: whoever posts much waits for itself, not the others for it.

A sender is the address that a post comes from, together with the key that it presents (`sender_of`). Senders are
served round robin, the posts of one in their order.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

from aiohttp import web

from gateway.intake.staging import Workers

Item = TypeVar("Item")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

TURN_SECONDS = 0.25
"""What can be done in parts gives its thread to the next sender after this long."""
_KEYS = ("x-pype-token", "Authorization")


def sender_of(request: web.BaseRequest | None) -> str:
    """Whose turn the work on a request is; what comes from an outbox or a bucket has none."""
    if request is None:
        return ""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    address = peer[0] if isinstance(peer, tuple) else ""
    return " ".join((address, *(request.headers.get(name, "") for name in _KEYS)))


def is_gone(request: web.BaseRequest | None) -> bool:
    """Whether the client of a request has closed its connection."""
    return request is not None and (request.transport is None or request.transport.is_closing())


class FairQueue(Generic[Item]):
    """Items that wait, each for a sender; the next one is of the sender that was served the longest ago."""

    __slots__ = ("_queues", "size")

    def __init__(self) -> None:
        self._queues: dict[str, deque[Item]] = {}
        self.size = 0
        """How many wait; asked several times for each post, where it costs less than `len`."""

    def __len__(self) -> int:
        """How many wait."""
        return self.size

    def put(self, sender: str, item: Item) -> None:
        """Add an item behind those of the same sender."""
        self._queues.setdefault(sender, deque()).append(item)
        self.size += 1

    def first(self) -> Item:
        """The item that is next. There must be one."""
        return next(iter(self._queues.values()))[0]

    def take(self) -> Item:
        """Remove the item that is next; its sender goes to the end."""
        sender = next(iter(self._queues))
        queue = self._queues.pop(sender)
        item = queue.popleft()
        if queue:
            self._queues[sender] = queue
        self.size -= 1
        return item

    def remove(self, sender: str, item: Item) -> None:
        """Remove an item that is waited for no longer."""
        queue = self._queues[sender]
        queue.remove(item)
        if not queue:
            del self._queues[sender]
        self.size -= 1


class Turns:
    """At most `slots` have their turn at a time. For the event loop.

    What is costly is served in every other turn at most while anything else waits, whoever sent it: a sender that
    calls itself by many names is one among two then.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: tuple[FairQueue[asyncio.Future[None]], FairQueue[asyncio.Future[None]]] = (
            FairQueue(),
            FairQueue(),
        )
        self._last_was_costly = False

    async def begin(self, sender: str, *, costly: bool = False) -> None:
        """Return when it is this sender's turn, which lasts until `end`."""
        if self._free:
            self._free -= 1
            self._last_was_costly = costly
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[costly].put(sender, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had begun in the same moment
                self.end()
            raise

    def end(self) -> None:
        """The turn is over; the next one begins."""
        cheap, costly = self._waiting
        while cheap or costly:
            is_costly = bool(costly) and not (cheap and self._last_was_costly)
            turn = (costly if is_costly else cheap).take()
            if not turn.cancelled():
                self._last_was_costly = is_costly
                turn.set_result(None)
                return
        self._free += 1


SLICE_SECONDS = 0.002


class Slices:
    """Gives the event loop back now and then during work that would never wait. For the event loop.

    Of all that works at the moment one slice is done in each iteration of the loop, the senders in turn: so what else
    the loop has to do waits for one slice, however many connections send such work.
    """

    def __init__(self) -> None:
        self._turns = Turns(1)

    def of(self, sender: str) -> "Slicer":
        """The slices of one request."""
        return Slicer(self._turns, sender)


class Slicer:
    """The slices of one request."""

    def __init__(self, turns: Turns, sender: str) -> None:
        self._turns = turns
        self._sender = sender
        self._ends_at = 0.0

    async def next(self) -> None:
        """Return at once within a slice; at its end, wait for the next one."""
        if time.perf_counter() < self._ends_at:
            return
        await self._turns.begin(self._sender)
        try:
            await asyncio.sleep(0)
        finally:
            self._turns.end()
        self._ends_at = time.perf_counter() + SLICE_SECONDS


class Threads:
    """Runs functions in worker threads, the senders in turn. For the event loop."""

    def __init__(self, workers: Workers, slots: int) -> None:
        self._workers = workers
        self._turns = Turns(slots)

    async def run(
        self,
        sender: str,
        function: Callable[Parameters, Result],
        *arguments: Parameters.args,
        **keywords: Parameters.kwargs,
    ) -> Result:
        """The function's result. Cancelling this does not stop a function that runs already."""
        await self._turns.begin(sender)
        try:
            return await self._workers.run(function, *arguments, **keywords)
        finally:
            self._turns.end()
