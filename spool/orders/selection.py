"""Which deliveries an operator means, and the pages in which they are found. Plain data."""

from collections.abc import Iterable
from dataclasses import dataclass

from spool.figures import OpenDelivery
from spool.records import Delivery, DeliveryKey, DeliveryState, Form

DEAD = frozenset({DeliveryState.DEAD})
QUEUED = frozenset(state for state in DeliveryState if state.queued)


@dataclass(frozen=True, slots=True)
class Selection:
    """Deliveries that have not ended, by what all of these say; what is None says nothing."""

    states: frozenset[DeliveryState] = DEAD
    destination: str | None = None
    form: Form | None = None
    record_id: int | None = None
    call_id: str | None = None
    reason: str | None = None
    """A text in the reason of the last failure, in capitals or not."""
    since: int | None = None
    until: int | None = None
    """Neither before nor after these times (ms): of a dead letter when it became one, else when it was accepted."""

    def takes(self, found: OpenDelivery) -> bool:
        """Whether it is one of these."""
        one = found.delivery
        named = one.destination == (self.destination or one.destination) and one.form is (self.form or one.form)
        of_record = self.record_id is None or found.record.record_id == self.record_id
        in_time = (self.since or 0) <= found.since and (self.until is None or found.since <= self.until)
        told = self.reason is None or self.reason.casefold() in (one.error or "").casefold()
        return named and of_record and one.state in self.states and in_time and told


@dataclass(frozen=True, slots=True)
class Page:
    """What was found in one bounded step."""

    found: tuple[OpenDelivery, ...]
    """In commit order. Perhaps none, though there are more on the next page: what was looked at is bounded too."""
    next: DeliveryKey | None
    """Where the next page goes on; None when this was the last."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """What an order did."""

    moved: int
    """Deliveries of which it was carried out; those that had moved or ended meanwhile were passed over."""
    ready: tuple[Delivery, ...]
    """What may be sent now because of it."""


def place_of(key: DeliveryKey) -> tuple[int, str, str]:
    """Where a delivery stands among all others: in commit order, then by destination and form."""
    return key.record_id, key.destination, key.form


def together(parts: Iterable[Ordered]) -> Ordered:
    """What several steps of an order did."""
    done = tuple(parts)
    return Ordered(sum(part.moved for part in done), tuple(one for part in done for one in part.ready))
