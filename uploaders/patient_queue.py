"""The queue as the dispatcher sees it: while the spool refuses, every call waits and is made again."""

from spool.open_breaker import OpenBreaker
from spool.records import Delivery, Due, Lane, Settlement
from uploaders.insisting import Insisting
from uploaders.uploader import Queue


class PatientQueue:
    """A `Queue` whose calls never raise `SpoolError`; they end when the spool has answered, or are cancelled."""

    def __init__(self, queue: Queue, insisting: Insisting) -> None:
        self._queue = queue
        self._insisting = insisting

    async def due(self, destination: str, lane: Lane, *, limit: int) -> Due:
        """See `Queue.due`; the time is that of the call that is answered."""
        return await self._insisting.on(
            lambda: self._queue.due(destination, lane, now=self._insisting.clock(), limit=limit), "asking what is due"
        )

    async def settle(self, delivery: Delivery, settlement: Settlement) -> tuple[Delivery, ...]:
        """See `Queue.settle`."""
        return await self._insisting.on(lambda: self._queue.settle(delivery, settlement), "settling a delivery")

    async def release(
        self, destination: str, token_id: int | None, *, limit: int | None = None
    ) -> tuple[Delivery, ...]:
        """See `Queue.release`."""
        return await self._insisting.on(
            lambda: self._queue.release(destination, token_id, limit=limit), "releasing held deliveries"
        )

    async def held_tokens(self, destination: str) -> tuple[int | None, ...]:
        """See `Queue.held_tokens`."""
        return await self._insisting.on(lambda: self._queue.held_tokens(destination), "asking which tokens are held")

    async def open_breaker(self, destination: str) -> OpenBreaker | None:
        """See `BreakerMemory.read`."""
        return await self._insisting.on(
            lambda: self._queue.breakers.read(destination), "asking whether a destination was down"
        )

    async def keep_breaker(self, destination: str, breaker: OpenBreaker | None) -> None:
        """See `BreakerMemory.keep`."""
        await self._insisting.on(
            lambda: self._queue.breakers.keep(destination, breaker), "keeping whether a destination is down"
        )

    async def wake(self, destination: str) -> None:
        """See `Queue.wake`."""
        await self._insisting.on(
            lambda: self._queue.wake(destination, now=self._insisting.clock()), "waking a destination"
        )
