"""What a spool should do, in its plainest form: records in a list, places found anew after whatever happened.

The model knows nothing of tables, transactions or look-ups. It is compared with the real spool by `test_model`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from spool.records import (
    DeadLetter,
    Delivered,
    DeliveryKey,
    DeliveryState,
    Form,
    Hold,
    Lane,
    NewDelivery,
    Redirect,
    RetryAt,
    Settlement,
)
from spool.stats import LaneCounts

READY, WAITING, HELD, DEAD = DeliveryState.READY, DeliveryState.WAITING, DeliveryState.HELD, DeliveryState.DEAD
WITH_ITS_CORE = "with a dead one of its record"
DETAILS = (Form.DETAIL, Form.REDUCED)


@dataclass
class Owed:
    """One delivery."""

    plan: NewDelivery
    state: DeliveryState = WAITING
    held_for: str | None = None
    """The token's name, "shared" for the one of the destination, or WITH_ITS_CORE."""
    attempts: int = 0
    due_at: int = 0

    @property
    def waits(self) -> bool:
        return self.state is WAITING or (self.state is HELD and self.held_for == WITH_ITS_CORE)

    @property
    def blocks(self) -> bool:
        """Whether what was accepted later for the same call and destination waits for it."""
        return self.state.queued and self.held_for != WITH_ITS_CORE and self.plan.ordered and not self.is_notice

    @property
    def is_notice(self) -> bool:
        return self.plan.form is Form.NOTICE


@dataclass
class Kept:
    """One accepted record."""

    number: int
    call_id: str
    event: str
    digest: bytes
    token: str | None
    accepted_at: int
    body: bytes
    superseded: bool
    owed: list[Owed] = field(default_factory=list)
    renewed_at: int = 0
    """When an order put some of it back as if never tried."""

    @property
    def over(self) -> bool:
        return all(one.state.ended for one in self.owed)

    @property
    def given_up(self) -> bool:
        return any(one.state in (DeliveryState.EXPIRED, DeliveryState.DISCARDED) for one in self.owed)


class Model:
    """All records that were acknowledged, and what is to become of them."""

    def __init__(self) -> None:
        self.records: list[Kept] = []
        self.moved_on: list[tuple[str, Lane]] = []
        """Deliveries whose place was taken by others: owed no more."""

    def original_of(self, call_id: str, event: str, digest: bytes) -> Kept | None:
        """The accepted record that a post repeats."""
        of_event = [one for one in reversed(self.records) if (one.call_id, one.event) == (call_id, event)]
        candidates = [one for one in of_event if one is of_event[0] or not one.over]
        return next((one for one in candidates if one.digest == digest and not one.given_up), None)

    def accept(self, record: Kept, plans: Iterable[NewDelivery], now: int) -> None:
        self.records.append(record)
        if not record.superseded:
            record.owed = [Owed(plan, due_at=now) for plan in plans]
        self._find_places()

    def find(self, key: DeliveryKey) -> Owed | None:
        for record, one in self.each():
            if (record.number, one.plan.destination, one.plan.form) == (key.record_id, key.destination, key.form):
                return one
        return None

    def each(self) -> Iterator[tuple[Kept, Owed]]:
        for record in self.records:
            for one in record.owed:
                yield record, one

    def settle(self, key: DeliveryKey, settlement: Settlement, token: str | None, now: int) -> None:
        """What an attempt with this token came to: with one that was replaced meanwhile, a refusal says nothing."""
        one = self.find(key)
        if one is None or one.state.ended or (one.state is not READY and not isinstance(settlement, Delivered)):
            return
        if isinstance(settlement, (Hold, DeadLetter)) and token != self.records[key.record_id - 1].token:
            return
        match settlement:
            case Delivered():
                one.state, one.held_for = DeliveryState.DELIVERED, None
            case RetryAt(due_at, _, counted):
                one.due_at, one.attempts = due_at, one.attempts + counted
            case Hold(_, token_id):
                one.state, one.held_for = HELD, "shared" if token_id is None else token
            case DeadLetter():
                one.state, one.attempts = DEAD, one.attempts + 1
            case Redirect(_, to, keep):
                self._divert(key, one, to, keep=keep, now=now)
        self._find_places()

    def _divert(self, key: DeliveryKey, one: Owed, to: Iterable[NewDelivery], *, keep: bool, now: int) -> None:
        record = self.records[key.record_id - 1]
        if keep:
            one.state, one.attempts = DEAD, one.attempts + 1
        else:
            record.owed.remove(one)
        known = {(other.plan.destination, other.plan.form) for other in record.owed}
        record.owed += [Owed(plan, due_at=now) for plan in to if (plan.destination, plan.form) not in known]

    def replay(self, keys: Iterable[DeliveryKey], now: int) -> None:
        for key in keys:
            one = self.find(key)
            if one is not None and one.state is DEAD:
                one.state, one.held_for, one.attempts, one.due_at = WAITING, None, 0, now
                self.records[key.record_id - 1].renewed_at = now
                self._find_places()

    def retry(self, keys: Iterable[DeliveryKey], now: int) -> None:
        for key in keys:
            one = self.find(key)
            if one is not None and one.state is READY:
                one.due_at = min(one.due_at, now)

    def replace_token(self, keys: Iterable[DeliveryKey], token: str, now: int) -> None:
        for number in dict.fromkeys(key.record_id for key in keys if (one := self.find(key)) and not one.state.ended):
            record = self.records[number - 1]
            for one in record.owed:
                if one.state is HELD and one.held_for == (record.token or "shared"):
                    one.state, one.held_for, one.due_at = READY, None, now
            record.token = token

    def reroute(self, keys: Sequence[DeliveryKey], to: str, forms: frozenset[Form], now: int, *, ordered: bool) -> None:
        """What a record still owes to a destination leaves together, or not at all."""
        for number, old in dict.fromkeys((key.record_id, key.destination) for key in keys):
            record = self.records[number - 1]
            named = {key.form for key in keys if (key.record_id, key.destination) == (number, old)}
            leaving = [one for one in record.owed if one.plan.destination == old and not one.state.ended]
            moving = {one.plan.form for one in leaving}
            taken = {one.plan.form for one in record.owed if one.plan.destination == to}
            if old == to or not named & moving or not moving <= forms or moving & taken:
                continue
            self.moved_on += [(old, one.plan.lane) for one in leaving]
            record.renewed_at = now
            for one in record.owed:
                after = to if one.plan.after == old else one.plan.after
                if one in leaving:
                    one.plan = replace(one.plan, destination=to, after=after, ordered=ordered)
                    one.state, one.held_for, one.attempts, one.due_at = WAITING, None, 0, now
                else:
                    one.plan = replace(one.plan, after=after)
            for one in leaving:
                if self._place(record, one) is READY:
                    one.state = READY
        # Not before all have left: what one of them frees may be the next one to leave.
        self._find_places()

    def give_up(self, those: Iterable[Owed], state: DeliveryState) -> None:
        for one in those:
            one.state, one.held_for = state, None
        self._find_places()

    def expire(self, before: int) -> None:
        """Give up what is queued of older records, and what is of no use without that.

        What else is held with a dead letter stays with it.
        """
        those: list[Owed] = []
        for record in self.records:
            if max(record.accepted_at, record.renewed_at) < before:
                old = [one for one in record.owed if one.state.queued and one.held_for != WITH_ITS_CORE]
                held = [one for one in record.owed if one.held_for == WITH_ITS_CORE]
                those += [*old, *(one for one in held if any(_needs(one, other) for other in old))]
        self.give_up(those, DeliveryState.EXPIRED)

    def release(self, destination: str, held_for: str) -> None:
        for _, one in self.each():
            if one.plan.destination == destination and one.state is HELD and one.held_for == held_for:
                one.state, one.held_for = READY, None

    def _find_places(self) -> None:
        """Whatever waits may be free by now; what is free stays free."""
        for record, one in self.each():
            if one.waits:
                one.state = self._place(record, one)
                one.held_for = WITH_ITS_CORE if one.state is HELD else None

    def _place(self, record: Kept, one: Owed) -> DeliveryState:
        """Promise 4."""
        ahead = [other.state for other in record.owed if _goes_first(other, one)]
        if DEAD in ahead:
            return HELD
        if any(state.queued for state in ahead):
            return WAITING
        if one.plan.ordered and not one.is_notice and self._earlier_of_call(record, one):
            return WAITING
        return READY

    def _earlier_of_call(self, record: Kept, one: Owed) -> bool:
        return any(
            other.blocks and (other.plan.lane is Lane.CORE or one.plan.lane is Lane.DETAIL)
            for earlier, other in self.each()
            if earlier.number < record.number
            and earlier.call_id == record.call_id
            and other.plan.destination == one.plan.destination
        )

    def counts(self) -> dict[tuple[str, Lane], LaneCounts]:
        """What the counters should say, for every destination and lane that was ever owed something."""
        found: dict[tuple[str, Lane], list[int]] = {key: [0] * (len(DeliveryState) + 1) for key in self.moved_on}
        for record, one in self.each():
            counted = found.setdefault((one.plan.destination, one.plan.lane), [0] * (len(DeliveryState) + 1))
            counted[one.state] += 1
            # Stored in one piece, so that a core carries all of it, and a detail nothing.
            carried = len(record.body) if one.plan.form in {Form.WHOLE, Form.CORE} else 0
            counted[-1] += carried if one.state.queued else 0
        return {key: LaneCounts(sum(numbers[:-1]), *numbers) for key, numbers in found.items()}


def _needs(one: Owed, other: Owed) -> bool:
    """Whether it is of no use without `other`: the core of a bucket is not what a notice is of."""
    same = one.plan.destination == other.plan.destination
    return _goes_first(other, one) and (same or other.plan.form is not Form.CORE)


def _goes_first(other: Owed, one: Owed) -> bool:
    """Whether `other`, of the same record, must end before `one` is sent."""
    if other is one:
        return False
    if one.plan.after == other.plan.destination and not other.is_notice:
        return True
    own_core = other.plan.destination == one.plan.destination and other.plan.form is Form.CORE
    return own_core and (one.is_notice or (one.plan.ordered and one.plan.form in DETAILS))
