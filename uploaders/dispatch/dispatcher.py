"""Due deliveries, to their uploaders, to their settlement: the one class that the rest of the program holds.

There is no polling. Work begins when a post was committed or a settlement freed a delivery (`offer`), when a slot or
a destination opens, and when a timer says that something became due.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping

from spool.records import Clock, Delivery, DeliveryKey, Record
from uploaders.base import DestinationStatus, DispatchObserver, Queue
from uploaders.dispatch.destination import Begin, DestinationPlan, DestinationWorker, unchanged
from uploaders.dispatch.scheduling import Timer, Timing

__all__ = ["DestinationPlan", "Dispatcher"]


class Dispatcher:
    """Delivers to all configured destinations, from `start` to `stop`, on one event loop.

    `clock` gives milliseconds since the Unix epoch, `jitter` something in [0, 1). Deliveries owed to a destination
    that is not in `destinations` stay in the spool.
    """

    def __init__(
        self,
        queue: Queue,
        destinations: Mapping[str, DestinationPlan],
        clock: Clock,
        jitter: Callable[[], float],
        observer: DispatchObserver,
        timer: Timer | None = None,
        begin: Begin = unchanged,
    ) -> None:
        """`begin` is called with each delivery before it is attempted, and returns what its uploader is to get."""
        timing = Timing(clock, jitter, timer or Timer(clock))
        self._destinations = {
            name: DestinationWorker(name, plan, queue, timing, observer, self.offer, self._pumped, begin)
            for name, plan in destinations.items()
        }
        self._pumps: set[asyncio.Future[None]] = set()

    def start(self) -> None:
        """Begin with what the spool has. To be called once, on the running event loop."""
        for destination in self._destinations.values():
            destination.start()

    def offer(self, deliveries: Iterable[Delivery]) -> None:
        """Deliveries that may be sent now: of a post just committed, or freed by an operator.

        Takes constant time for each, asks the spool nothing, and never waits. Offering one twice does no harm.
        """
        for delivery in deliveries:
            destination = self._destinations.get(delivery.destination)
            if destination is not None:
                destination.offer(delivery)

    def withdraw(self, keys: Collection[DeliveryKey]) -> None:
        """Forget deliveries that an order moved, as far as they are not being attempted; the spool is asked anew."""
        for destination in self._destinations.values():
            destination.withdraw(keys)

    def attempting(self, wanted: Callable[[Record], bool]) -> list[str]:
        """The destinations to which something is being sent of a record of which this holds."""
        return [name for name, worker in self._destinations.items() if worker.attempts(wanted)]

    async def finish_attempts(self, wanted: Callable[[Record], bool]) -> None:
        """Wait until nothing is being attempted of such records; the caller sets the deadline."""
        while self.attempting(wanted):
            pumped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._pumps.add(pumped)
            try:
                await pumped
            finally:
                self._pumps.discard(pumped)

    def probe_tokens(self, destination: str, token_ids: Collection[int | None]) -> bool:
        """Send one held delivery of each of these tokens now; whether the destination has paused one of them."""
        found = self._destinations.get(destination)
        return found is not None and found.probe_tokens(token_ids)

    def core_idle(self) -> bool:
        """Whether no core, whole or notice is under way, and none could be started now."""
        return all(destination.core_idle for destination in self._destinations.values())

    def retry_now(self, destination: str) -> bool | None:
        """End what a destination waits for, by an operator's order: it is tried at once.

        False where it waits for nothing, None where no destination is configured under this name.
        """
        worker = self._destinations.get(destination)
        return None if worker is None else worker.retry_now()

    async def stop(self, grace: float) -> None:
        """Start nothing more; wait up to `grace` seconds for attempts and their settlements, then cancel them.

        Afterwards the uploaders are closed. A cancelled delivery is still owed, and made again after a restart.
        """
        await asyncio.gather(*(destination.stop(grace) for destination in self._destinations.values()))

    def status(self) -> tuple[DestinationStatus, ...]:
        """How each destination does at this moment."""
        return tuple(destination.status for destination in self._destinations.values())

    def _pumped(self) -> None:
        for waiting in self._pumps:
            if not waiting.done():
                waiting.set_result(None)
