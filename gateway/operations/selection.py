"""From what a request says to what the spool is asked. Pure.

Raises `BadSelection` with a sentence that names what is wrong and what would be right.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.operations.advice import ReasonKind, kind_of
from gateway.operations.schemas import LIMIT, Select
from spool.admin.query import DEAD, QUEUED, Selection
from spool.records import DeliveryKey, DeliveryState, Form
from spool.stats import OpenDelivery

STATES: Mapping[str, frozenset[DeliveryState]] = {
    **{state.name.lower(): frozenset({state}) for state in DeliveryState if not state.ended},
    "queued": QUEUED,
}
"""The words for states that a delivery may be in before it has ended."""
_KEY = re.compile(r"([0-9a-f]{8}-\d{1,18})(?:/([a-z]+)(?:/(.+))?)?", re.DOTALL)
_CURSOR = re.compile(r"(\d{1,18})/([a-z]+)/(.+)", re.DOTALL)


class BadSelection(Exception):
    """An invalid selection; the message says what would be right."""


def selection_of(
    select: Select, record_id: int | None, now: int, default: frozenset[DeliveryState] = DEAD
) -> Selection:
    """What the spool is asked for at `now` (ms); `default` are the states where none is named.

    `record_id` is that of the record that has the name in `named_record`; None where there is none.
    """
    form, destination, call_id = _target(select, record_id)
    return Selection(
        states=frozenset().union(*(_states(word) for word in select.states)) or default,
        destination=destination,
        form=form,
        record_id=record_id,
        call_id=call_id,
        reason=select.reason or None,
        since=None if select.newer_than is None else now - _milliseconds("newer_than", select.newer_than),
        until=None if select.older_than is None else now - _milliseconds("older_than", select.older_than),
    )


def of_kind(select: Select, found: Iterable[OpenDelivery]) -> tuple[OpenDelivery, ...]:
    """Those whose reason is of the kind that is selected; all where none is."""
    if select.kind is None:
        return tuple(found)
    if select.kind not in set(ReasonKind):
        raise BadSelection(f"there is no kind of reasons {select.kind!r}: say {_listed(ReasonKind)}")
    return tuple(each for each in found if kind_of(each.delivery.error) == select.kind)


def keys_of(select: Select) -> tuple[Select, ...]:
    """Selections of one delivery each, for those that are named one by one."""
    if len(select.keys) > LIMIT:
        raise BadSelection(f"an order names at most {LIMIT} deliveries: give several")
    for key in select.keys:
        named = _KEY.fullmatch(key)
        if named is None or named[2] is None or named[3] is None:
            raise BadSelection(f"{key!r} names no delivery: say RECORD_ID/FORM/DESTINATION")
    return tuple(Select(states=select.states, target=key) for key in select.keys)


def cursor_of(key: DeliveryKey | None) -> str | None:
    """A place in commit order, as text."""
    return None if key is None else f"{key.record_id}/{key.form}/{key.destination}"


def place_in(cursor: str | None) -> DeliveryKey | None:
    """The place that `cursor_of` wrote down."""
    if cursor is None:
        return None
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise BadSelection(f"the cursor {cursor!r} is not one that a step or a page ended with")
    return DeliveryKey(int(found[1]), found[3], _form(found[2]))


def named_record(select: Select) -> str | None:
    """What the target may be the id of a record in; None where it can only be a call id."""
    found = _KEY.fullmatch(select.target or "")
    return None if found is None else found[1]


def _target(select: Select, record_id: int | None) -> tuple[Form | None, str | None, str | None]:
    """Form, destination and call id, of which the target says some."""
    form = None if select.form is None else _form(select.form)
    parts = _KEY.fullmatch(select.target or "")
    if parts is None or record_id is None:
        return form, select.destination, select.target
    return (None if parts[2] is None else _form(parts[2])) or form, parts[3] or select.destination, None


def _states(word: str) -> frozenset[DeliveryState]:
    if word not in STATES:
        raise BadSelection(f"there is no state {word!r}: say {_listed(STATES)}")
    return STATES[word]


def _form(word: str) -> Form:
    try:
        return Form(word)
    except ValueError:
        raise BadSelection(f"there is no form {word!r}: say {_listed(Form)}") from None


def _milliseconds(name: str, seconds: float) -> int:
    if not (math.isfinite(seconds) and 0 <= seconds <= 1e10):
        raise BadSelection(f"{name} = {seconds} is no span of time: say how many seconds")
    return round(seconds * 1000)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


# What deliveries a destination can be given by an operator. Plain data.


@dataclass(frozen=True, slots=True)
class Accepts:
    """What deliveries a destination can be given that were planned for another."""

    forms: frozenset[Form]
    ordered: bool
    """Whether it gets those of a call one after the other."""
    tenants: frozenset[str] | None = None
    """Whose call logs it gets, where it is the own one of tenants; None: everybody's."""

    def of(self, tenant: str | None) -> bool:
        """Whether it gets this tenant's call logs."""
        return self.tenants is None or tenant in self.tenants
