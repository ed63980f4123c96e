"""Fair queueing among tenants: what is due in one lane, a prefetch for each tenant, taken in turns by their weights.

Without it, ten thousand queued deliveries of one tenant go before the next one of any other. Each tenant has pages of
its own, so a new delivery of one with nothing queued is here at once, whatever the others have in the spool; and slots
go to whoever was served least for its weight (stride scheduling). The order of a call's deliveries does not depend on
this: the queue names what must wait as not ready.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial

from spool.records import Delivery, DeliveryKey, Due, OfTenant
from uploaders.dispatch.lane import Prefetch


class FairPrefetch:
    """As `Prefetch`, of all tenants together. `weights` holds those that may have something in the spool."""

    def __init__(self, weights: Mapping[str | None, int]) -> None:
        self._weights = weights
        self._prefetches: dict[str | None, Prefetch] = {tenant: Prefetch() for tenant in weights}
        self._served: dict[str | None, float] = dict.fromkeys(weights, 0.0)
        """For each tenant how much it was served, in deliveries for a weight of 1."""
        self._now_serving = 0.0
        self._filling = False

    @property
    def idle(self) -> bool:
        """See `Prefetch`."""
        return all(each.idle for each in self._prefetches.values())

    @property
    def may_have_waiting(self) -> bool:
        """See `Prefetch`."""
        return any(each.may_have_waiting for each in self._prefetches.values())

    @property
    def waiting(self) -> int:
        """See `Prefetch`."""
        return sum([each.waiting for each in self._prefetches.values()])

    @property
    def wants_filling(self) -> bool:
        """See `Prefetch`."""
        return not self._filling and any(each.wants_filling for each in self._prefetches.values())

    @property
    def next_due_at(self) -> int | None:
        """See `Prefetch`."""
        return min(
            (each.next_due_at for each in self._prefetches.values() if each.next_due_at is not None), default=None
        )

    def offer(self, delivery: Delivery, now: int) -> None:
        """See `Prefetch`."""
        self._of(delivery.record.tenant).offer(delivery, now)

    def ask_again(self) -> None:
        """See `Prefetch`."""
        for each in self._prefetches.values():
            each.ask_again()

    def note_due(self, when: int, delivery: Delivery) -> None:
        """See `Prefetch`."""
        self._of(delivery.record.tenant).note_due(when, delivery)

    def advance(self, now: int) -> None:
        """See `Prefetch`."""
        for each in self._prefetches.values():
            each.advance(now)

    async def fill(self, due: Callable[[int, OfTenant], Awaitable[Due]]) -> None:
        """See `Prefetch`: a page for each tenant that few are left of."""
        self._filling = True
        try:
            for tenant, each in list(self._prefetches.items()):
                if each.wants_filling:
                    await each.fill(partial(_page_of, due, OfTenant(tenant)))
        finally:
            self._filling = False

    def take(self) -> Delivery | None:
        """The first delivery of the tenant whose turn it is, still claimed."""
        waiting = [tenant for tenant, each in self._prefetches.items() if each.waiting]
        if not waiting:
            return None
        tenant = min(waiting, key=self._turn)
        self._now_serving = self._turn(tenant)
        self._served[tenant] = self._now_serving + 1 / self._weights.get(tenant, 1)
        return self._prefetches[tenant].take()

    def take_first(self, wanted: Callable[[Delivery], bool]) -> Delivery | None:
        """See `Prefetch`."""
        return next((found for each in self._prefetches.values() if (found := each.take_first(wanted))), None)

    def withdraw(self, keys: Collection[DeliveryKey]) -> None:
        """See `Prefetch`."""
        for each in self._prefetches.values():
            each.withdraw(keys)

    def claims(self, keys: Collection[DeliveryKey]) -> bool:
        """See `Prefetch`."""
        return any(each.claims(keys) for each in self._prefetches.values())

    def release(self, key: DeliveryKey) -> None:
        """See `Prefetch`."""
        for each in self._prefetches.values():
            each.release(key)

    def _turn(self, tenant: str | None) -> float:
        """When it is this tenant's turn; who had nothing for a while has saved up no turns."""
        return max(self._served[tenant], self._now_serving)

    def _of(self, tenant: str | None) -> Prefetch:
        if tenant not in self._prefetches:
            self._prefetches[tenant] = Prefetch()
            self._served[tenant] = 0.0
        return self._prefetches[tenant]


def _page_of(due: Callable[[int, OfTenant], Awaitable[Due]], whose: OfTenant, limit: int) -> Awaitable[Due]:
    return due(limit, whose)
