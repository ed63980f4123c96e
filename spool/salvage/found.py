"""Plain data of a salvage: what was found in another database, what came of it, and how it went altogether."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from spool.records import DeliveryState, Form, Lane, Record


@dataclass(frozen=True, slots=True)
class FoundDelivery:
    """A delivery as the other database has it; destinations by name, for their numbers are its own."""

    destination: str
    form: Form
    lane: Lane
    state: DeliveryState
    ordered: bool = True
    after: str | None = None
    attempts: int = 0
    due_at: int = 0
    first_failed_at: int | None = None
    settled_at: int | None = None
    location: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A record that could be read, with all that is known of its deliveries and the agent's own token."""

    record: Record
    deliveries: tuple[FoundDelivery, ...]
    token: str | None

    @property
    def open(self) -> bool:
        """Whether anything of it is still to be delivered, or is a dead letter."""
        return any(not delivery.state.ended for delivery in self.deliveries)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is known to have been there, and cannot be read."""

    record_id: int
    call_id: str | None
    """None where that cannot be read either."""
    reason: str


class Outcome(StrEnum):
    """What came of a record."""

    BROUGHT = "brought"
    """It is in this spool now, with its deliveries and its keys."""
    DAMAGED = "brought, with damaged parts"
    """Some of its payload could not be read: deliveries that need that become dead letters, the others are made."""
    THERE = "already there"
    """An earlier salvage brought it."""
    DUPLICATE = "posted again since"
    """The agent repeated the post, and this spool accepted it."""
    SUPERSEDED = "superseded"
    """A later event of its call was accepted since."""
    ENDED = "delivered before"
    """Nothing of it is owed any more."""
    UNREADABLE = "unreadable"
    """Nothing of it can be brought."""


@dataclass(slots=True)
class Tally:
    """How a salvage goes; counts of records."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    deliveries: Counter[DeliveryState] = field(default_factory=Counter)
    """Deliveries that were brought, by the state that they have now."""
    payload_bytes: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)
    without_token: int = 0
    """Records whose agent's token could not be read; they are sent without it."""
