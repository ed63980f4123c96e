"""The desk where operators' orders are taken: each request is one bounded step, carried out at once.

Nothing of an order is remembered between two steps: who gives it holds the cursor. So an order that is interrupted
has done what it has done, and given again it goes on with what is left.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from gateway.orders.describing import delivery_of, document_bytes, entry_of
from gateway.orders.documents import LARGEST_LIMIT, LIMIT, DeliveryPage, OrderRequest, OrderStep, Select
from gateway.orders.selecting import cursor_of, place_in, selection_of
from spool.figures import OpenDelivery
from spool.orders.desk import Orders
from spool.orders.selection import DEAD, Ordered
from spool.records import DeliveryKey, DeliveryState, Form

_log = structlog.get_logger("callspool.orders")

_FOLLOWERS = (Form.DETAIL, Form.REDUCED, Form.NOTICE)
"""What is held with a core that is a dead letter."""


class OrderName(StrEnum):
    """What can be ordered."""

    REPLAY = "replay"
    """Send dead letters again."""
    DISCARD = "discard"
    """Give dead letters up."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """How an order is carried out, and of deliveries in which states unless the selection names others."""

    carry_out: Callable[[tuple[OpenDelivery, ...], OrderRequest], Awaitable[Ordered]]
    states: frozenset[DeliveryState]


class OrderDesk:
    """Answers questions and takes orders about deliveries that have not ended. For the event loop."""

    def __init__(self, orders: Orders, clock: Callable[[], int]) -> None:
        self._orders = orders
        self._clock = clock
        self._rules = {
            OrderName.REPLAY: _Rule(self._replay, DEAD),
            OrderName.DISCARD: _Rule(self._discard, DEAD),
        }

    async def list(self, select: Select, cursor: str | None, limit: int = LIMIT) -> DeliveryPage:
        """A page of what is selected. Raises `BadSelection` and the spool's errors."""
        now = self._clock()
        wanted = selection_of(select, self._orders.spool_id, now)
        page = await self._orders.find(wanted, limit=max(1, min(limit, LARGEST_LIMIT)), after=place_in(cursor))
        return DeliveryPage(deliveries=tuple(entry_of(found, now) for found in page.found), cursor=cursor_of(page.next))

    async def take(self, name: OrderName, request: OrderRequest) -> OrderStep:
        """Carry out one step of an order. Raises `BadSelection` and the spool's errors."""
        rule = self._rules[name]
        wanted = selection_of(request.select, self._orders.spool_id, self._clock(), rule.states)
        page = await self._orders.find(wanted, limit=LIMIT, after=place_in(request.cursor))
        done = 0
        if page.found and not request.dry_run:
            done = (await rule.carry_out(page.found, request)).moved
            _log.info("order", order=name.value, deliveries=done)
        return OrderStep(
            matched=len(page.found),
            matched_bytes=sum(document_bytes(delivery_of(found)) for found in page.found),
            done=done,
            cursor=cursor_of(page.next),
        )

    async def _replay(self, found: tuple[OpenDelivery, ...], _request: OrderRequest) -> Ordered:
        return await self._orders.replay(_keys(found))

    async def _discard(self, found: tuple[OpenDelivery, ...], _request: OrderRequest) -> Ordered:
        """What is held with a core goes with it: freed alone, a detail would be sent to who has no core of it."""
        keys = _keys(found)
        held = [
            DeliveryKey(key.record_id, key.destination, form)
            for key in keys
            if key.form is Form.CORE
            for form in _FOLLOWERS
        ]
        return await self._orders.discard([*keys, *held])


def _keys(found: Iterable[OpenDelivery]) -> list[DeliveryKey]:
    return [one.key for one in found]
