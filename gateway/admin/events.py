"""Recent events of destinations and of the spool: kept for the status page, and logged.

A bounded ring in memory; the log is the history.
"""

import logging
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import structlog

from gateway.admin.metrics import Metrics
from gateway.formatting import bytes_text
from gateway.operations.schemas import Event
from gateway.telemetry import Spans
from gateway.trace import instant
from spool.records import Clock, Delivery, Form, OwnedCall
from uploaders.redact import redact

_KEPT = 50
_CALL = "\0"
"""Stands for the call: no name of a destination and no reason holds it."""
_LOGGER = "callspool.destinations"


@dataclass(frozen=True, slots=True)
class _Kept:
    """An event in memory. What is written to a file names no call: a call may be erased, a file is there for a day."""

    at: int
    level: str
    text: str
    """With `_CALL` where the call stands."""
    call_id: str | None = None

    @property
    def shown(self) -> str:
        return self.text.replace(_CALL, "a call" if self.call_id is None else f"call {redact(self.call_id)}", 1)

    @property
    def anonymous(self) -> tuple[int, str, str]:
        return self.at, self.level, self.text.replace(_CALL, "a call", 1)


class RecentEvents:
    """Keeps the newest events, and logs them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: deque[_Kept] = deque(maxlen=_KEPT)
        self._log = structlog.get_logger(_LOGGER)
        self._log_each = logging.getLogger(_LOGGER).isEnabledFor(logging.DEBUG)

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        """Keeps dead letters and what was too large; ordinary attempts are logged at the debug level only."""
        form = "call log" if delivery.form is Form.WHOLE else delivery.form.value
        call, what = delivery.record.call_id, f"{delivery.destination}: the {form} of {_CALL}"
        if outcome == "diverted":
            self._keep("warning", f"{what} is too large: the fallback is tried", call)
            self._log.warning("too_large", **_described(delivery, seconds))
        elif outcome == "corrupt":
            self._keep("error", f"{what} is corrupt in the spool", call)
            self._log.error("corrupt_payload", **_described(delivery, seconds))
        elif outcome == "dead":
            self._keep("error", f"{what} became a dead letter", call)
            self._log.error("dead_letter", **_described(delivery, seconds))
        elif self._log_each:
            self._log.debug("attempted", outcome=outcome, **_described(delivery, seconds))

    def destination_changed(self, destination: str, up: bool, reason: str) -> None:
        """A destination fails, or accepts deliveries again."""
        if up:
            self._keep("info", f"{destination} accepts deliveries again")
            self._log.info("destination_up", destination=destination)
        else:
            self._keep("warning", f"{destination} accepts no deliveries: {reason}")
            self._log.warning("destination_down", destination=destination, reason=reason)

    def credential_changed(self, destination: str, credential: str, accepted: bool, reason: str) -> None:
        """A destination refuses the token of an agent, or accepts it again."""
        if accepted:
            self._keep("info", f"{destination}: {credential} is no longer refused: {reason}")
            self._log.info("credential_accepted", destination=destination, credential=credential, reason=reason)
        else:
            self._keep("warning", f"{destination} refuses {credential}, its deliveries are held: {reason}")
            self._log.warning("credential_refused", destination=destination, credential=credential, reason=reason)

    def details_given_up(self, count: int, payload_bytes: int) -> None:
        """Details were given up because the spool was full."""
        text = (
            f"the spool is full: {count} of the oldest details ({bytes_text(payload_bytes)}) were given up to make room"
        )
        self._keep("warning", text)
        self._log.warning("details_given_up", deliveries=count, payload_bytes=payload_bytes)

    def spool_refuses(self, reason: str) -> None:
        """The spool does not take every record any more; who finds that out logs it."""
        self._keep("warning", reason)

    def spool_takes_all_again(self) -> None:
        """It does again; who finds that out logs it."""
        self._keep("info", "the spool takes every record again")

    def recent(self) -> tuple[Event, ...]:
        """The events that are kept, the newest first."""
        return tuple(Event(instant(each.at), each.level, each.shown) for each in reversed(self._events))

    def kept(self) -> tuple[tuple[int, str, str], ...]:
        """The same as plain data that names no call: time (ms), level and text, the oldest first."""
        return tuple(each.anonymous for each in self._events)

    def restore(self, events: Iterable[tuple[int, str, str]]) -> None:
        """Put before those of this process what one before it left."""
        here = {each.anonymous for each in self._events}
        before = [_Kept(*each) for each in events if each not in here]
        self._events = deque([*before, *self._events], maxlen=_KEPT)

    def forget(self, calls: Collection[OwnedCall]) -> None:
        """These calls are erased: no event names them any more, nor one of their ids."""
        call_ids = {call.call_id for call in calls}
        self._events = deque(
            (replace(each, call_id=None) if each.call_id in call_ids else each for each in self._events), maxlen=_KEPT
        )

    def _keep(self, level: str, text: str, call_id: str | None = None) -> None:
        self._events.append(_Kept(self._clock(), level, redact(text), call_id))


def _described(delivery: Delivery, seconds: float) -> dict[str, object]:
    return {
        "destination": delivery.destination,
        "form": delivery.form.value,
        "call_id": delivery.record.call_id,
        "record_id": delivery.record.uid,
        "seconds": round(seconds, 3),
    }


@dataclass(frozen=True, slots=True)
class Observers:
    """Passes on what happens to everybody who follows it. Implements the dispatcher's observer.

    Made before everything else, so that a start that fails is seen, too.
    """

    metrics: Metrics
    events: RecentEvents
    spans: Spans | None = None
    """None where nobody wants any."""

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        """An attempt ended."""
        self.metrics.attempted(delivery, outcome, seconds)
        self.events.attempted(delivery, outcome, seconds)
        if self.spans is not None:
            self.spans.attempted(delivery, outcome)

    def destination_changed(self, destination: str, up: bool, reason: str) -> None:
        """A destination began or ceased to take deliveries; its gauge is read from the dispatcher."""
        self.events.destination_changed(destination, up, reason)

    def credential_changed(self, destination: str, credential: str, accepted: bool, reason: str) -> None:
        """A destination began or stopped refusing a token; its gauge is read from the dispatcher."""
        self.events.credential_changed(destination, credential, accepted, reason)

    def details_given_up(self, count: int, payload_bytes: int) -> None:
        """Details were given up because the spool was full."""
        self.metrics.details_given_up(count)
        self.events.details_given_up(count, payload_bytes)
