"""What is due in one lane of one destination, as far as it fits into memory, and which deliveries are claimed.

A claim is held from the moment a delivery is in the buffer until what became of it is durable; the spool keeps naming
it as due until then. As long as everything due is here, new deliveries come in without a query; once that is no
longer known, the spool is asked for a page whenever the buffer runs low.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Collection

from spool.records import Delivery, DeliveryKey, Due

PAGE = 256
LOW_WATER = 128
HIGH_WATER = 1024
"""Offers beyond this are left to the spool: a backlog costs no memory."""


class DueBuffer:
    """Deliveries in the order of their commits, each claimed."""

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        self._claimed: set[DeliveryKey] = set()
        self._spool_has_more = True
        self._filling = False
        self._ended_while_filling: set[DeliveryKey] = set()
        self.next_due_at: int | None = None
        """When something becomes due that is not now, as far as known."""

    @property
    def idle(self) -> bool:
        """Whether nothing is claimed here, and the spool is known to have nothing due either."""
        return not (self._claimed or self._spool_has_more or self._filling)

    @property
    def may_have_waiting(self) -> bool:
        """Whether a delivery is here, or may turn out to be."""
        return bool(self._waiting) or self._spool_has_more or self._filling

    @property
    def wants_filling(self) -> bool:
        """Whether the spool should be asked now."""
        return self._spool_has_more and not self._filling and len(self._waiting) < LOW_WATER

    def offer(self, delivery: Delivery, now: int) -> None:
        """A delivery that is newly ready. Takes constant time; what is claimed already is left alone."""
        if delivery.due_at > now:
            self.note_due(delivery.due_at)
        elif self._spool_has_more or self._filling or len(self._waiting) >= HIGH_WATER:
            self._spool_has_more = True
        else:
            self._claim(delivery)

    def ask_again(self) -> None:
        """Something in the spool may have become due without being offered."""
        self._spool_has_more = True

    def note_due(self, when: int) -> None:
        """Something becomes due at this time."""
        self.next_due_at = when if self.next_due_at is None else min(self.next_due_at, when)

    def advance(self, now: int) -> None:
        """Ask the spool again when what was to become due by now is not here."""
        if self.next_due_at is not None and self.next_due_at <= now:
            self.next_due_at = None
            self._spool_has_more = True

    async def fill(self, due: Callable[[int], Awaitable[Due]]) -> None:
        """Ask `due` for a page of so many, and take what is not claimed."""
        self._filling, self._spool_has_more, self.next_due_at = True, False, None
        limit = PAGE + len(self._claimed)
        try:
            page = await due(limit)
        except BaseException:
            self._spool_has_more = True
            raise
        else:
            self._take_page(page, limit)
        finally:
            self._filling = False
            self._ended_while_filling.clear()

    def take(self) -> Delivery | None:
        """The first delivery, still claimed."""
        return self._waiting.popleft() if self._waiting else None

    def take_first(self, wanted: Callable[[Delivery], bool]) -> Delivery | None:
        """The first delivery of which this holds, still claimed."""
        for index, delivery in enumerate(self._waiting):
            if wanted(delivery):
                del self._waiting[index]
                return delivery
        return None

    def withdraw(self, keys: Collection[DeliveryKey]) -> None:
        """An order moved these: forget those that wait here. What is being attempted stays claimed to its end."""
        gone = {one.key for one in self._waiting if one.key in keys}
        self._waiting = deque(one for one in self._waiting if one.key not in gone)
        for key in gone:
            self.release(key)
        if self._filling:
            self._ended_while_filling.update(keys)

    def release(self, key: DeliveryKey) -> None:
        """What became of this delivery is durable: the spool names it again only if it is due again."""
        self._claimed.discard(key)
        if self._filling:
            self._ended_while_filling.add(key)

    def _take_page(self, page: Due, limit: int) -> None:
        """A page may be older than the latest settlements: what ended while it was read is not in it again."""
        for delivery in page.deliveries:
            if delivery.key not in self._ended_while_filling:
                self._claim(delivery)
        if len(page.deliveries) >= limit:
            self._spool_has_more = True
        elif page.next_due_at is not None:
            self.note_due(page.next_due_at)

    def _claim(self, delivery: Delivery) -> None:
        if delivery.key not in self._claimed:
            self._claimed.add(delivery.key)
            self._waiting.append(delivery)
