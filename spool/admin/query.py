"""Which deliveries an operator means, and the pages in which they are found. Plain data."""

from collections.abc import Iterable
from dataclasses import dataclass

from spool.db.sql import RECORD_COLUMNS, TRACED_COLUMNS
from spool.queue.reader import Reader
from spool.records import Delivery, DeliveryKey, DeliveryState, Form, Lane
from spool.stats import OpenDelivery

DEAD = frozenset({DeliveryState.DEAD})
QUEUED = frozenset(state for state in DeliveryState if state.queued)


@dataclass(frozen=True, slots=True)
class Selection:
    """Deliveries that have not ended and match all of these; None matches everything."""

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

    def matches(self, candidate: OpenDelivery) -> bool:
        """Whether it is one of these."""
        one = candidate.delivery
        named = self.destination in {None, one.destination} and one.form is (self.form or one.form)
        of_record = self.record_id is None or candidate.record.record_id == self.record_id
        in_time = (self.since or 0) <= candidate.since and (self.until is None or candidate.since <= self.until)
        has_reason = self.reason is None or self.reason.casefold() in (one.error or "").casefold()
        return named and of_record and one.state in self.states and in_time and has_reason


@dataclass(frozen=True, slots=True)
class Page:
    """What was found in one bounded step."""

    found: tuple[OpenDelivery, ...]
    """In commit order. Perhaps none, though there are more on the next page: what was looked at is bounded too."""
    next: DeliveryKey | None
    """Where the next page begins; None when this was the last."""


@dataclass(frozen=True, slots=True)
class AdminResult:
    """What an order did."""

    moved: int
    """Deliveries of which it was carried out; those that had moved or ended meanwhile were passed over."""
    ready: tuple[Delivery, ...]
    """What may be sent now because of it."""


def place_of(key: DeliveryKey) -> tuple[int, str, str]:
    """Where a delivery stands among all others: in commit order, then by destination and form."""
    return key.record_id, key.destination, key.form


def combined(parts: Iterable[AdminResult]) -> AdminResult:
    """What several steps of an order did."""
    done = tuple(parts)
    return AdminResult(sum(part.moved for part in done), tuple(one for part in done for one in part.ready))


# Finding the deliveries that an operator means, a bounded page at a time.


async def find(reader: Reader, selection: Selection, limit: int, after: DeliveryKey | None) -> Page:
    """Look at the next `limit` deliveries that the indexes lead to, and keep those that match the selection.

    In commit order over all destinations, lanes and states, so that orders are carried out in that order.
    """
    ahead = await _ahead(reader, selection, limit, after)
    ahead = [one for one in ahead if after is None or place_of(one.key) > place_of(after)]
    looked_at = sorted(ahead, key=_place)[:limit]
    last = looked_at[-1].key if len(looked_at) == limit else None
    return Page(tuple(one for one in looked_at if selection.matches(one)), last)


async def _ahead(reader: Reader, selection: Selection, limit: int, after: DeliveryKey | None) -> list[OpenDelivery]:
    """At least the next `limit` ones, in any order, by the narrowest index."""
    first = after.record_id if after else 0
    # A lane holds at most three forms of a record: some of `after`'s own were on the page before, and the last
    # record may be cut off among its forms.
    enough = limit + len(Form)
    if selection.record_id is not None:
        return await reader.find(OPEN_OF_RECORD, (selection.record_id,))
    if selection.call_id is not None:
        return await _of_call(reader, selection.call_id, first, limit)
    ids = reader.destinations.ids
    wanted = ids.values() if selection.destination is None else [ids.get(selection.destination)]
    found: list[OpenDelivery] = []
    for destination_id in wanted:
        for lane in Lane:
            for state in sorted(selection.states):
                bounds = (destination_id, lane, int(state), first, enough)
                found += await reader.find(OPEN_IN_STATE, bounds)
    return found


async def _of_call(reader: Reader, call_id: str, first: int, limit: int) -> list[OpenDelivery]:
    """Those of a call; of one record there are at most as many as destinations and forms."""
    most_of_a_record = len(reader.destinations.ids) * len(Form)
    return await reader.find(OPEN_OF_CALL, (call_id, first, limit + 2 * most_of_a_record))


def _place(one: OpenDelivery) -> tuple[int, str, str]:
    """For sorting."""
    return place_of(one.key)


# The SQL statements of operators' orders.

FOUND_COLUMNS = f"{RECORD_COLUMNS}, {TRACED_COLUMNS}"

# The plus is that of the partial index: see the schema.
OPEN_IN_STATE = (
    f"SELECT {FOUND_COLUMNS} FROM deliveries d JOIN records r USING (record_id) "
    "WHERE d.destination_id = ? AND d.lane = ? AND d.state = ? AND +d.state <= 3 AND d.record_id >= ? "
    "ORDER BY d.record_id LIMIT ?"
)
# A record belongs to the call that it was accepted for, so its deliveries are found by its own index.
OPEN_OF_CALL = (
    f"SELECT {FOUND_COLUMNS} FROM records r CROSS JOIN deliveries d USING (record_id) "
    "WHERE r.call_id = ? AND r.record_id >= ? AND +d.state <= 3 ORDER BY r.record_id LIMIT ?"
)
OPEN_OF_RECORD = (
    f"SELECT {FOUND_COLUMNS} FROM deliveries d JOIN records r USING (record_id) WHERE d.record_id = ? AND +d.state <= 3"
)
REPLAY = (
    "UPDATE deliveries SET state = ?, due_at = ?, held_for = ?, attempts = 0, first_failed_at = NULL, "
    "settled_at = NULL, error = NULL, deferred_at = NULL, for_destination = 0 "
    "WHERE record_id = ? AND destination_id = ? AND form = ?"
)
# The reason for which it was dead or held stays, for the trace.
DISCARD = (
    f"UPDATE deliveries SET state = {int(DeliveryState.DISCARDED)}, settled_at = ?, held_for = NULL "
    "WHERE record_id = ? AND destination_id = ? AND form = ?"
)
# What waits for the end of a delivery waits for it where it is owed now.
FOLLOW = "UPDATE deliveries SET after_destination_id = ? WHERE record_id = ? AND after_destination_id = ?"
SET_TOKEN = "UPDATE records SET token_id = ? WHERE record_id = ?"
