"""What details leave to the calls that are live on the same machine, and to its line.

While a call is live, details go a few at a time and slowly; afterwards they catch up. Cores never wait. Everything
is asked at the moment it matters, in constant time, so nothing has to be told when a call begins or ends.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

# Which calls are live: a `call_started` came and its `call_ended` did not.
#
# A stop can wait for these, and details make room for them. Every answer but the count takes constant time; a start
# learns from the spool which calls began before it.

STARTED = "call_started"
ENDED = "call_ended"
MOST = 10_000
OLDEST = 4 * 3600 * 1000
"""Milliseconds; no call is remembered for longer."""


class OpenCalls:
    """Counts live calls. Times in milliseconds since the epoch."""

    def __init__(self, began: Iterable[tuple[str, int]] = ()) -> None:
        """`began`: the calls that are live at a start and when they began, the oldest first."""
        self._started: dict[str, int] = dict(began)
        self.last_post_at: int | None = None
        """When a call log was last accepted; None before the first."""

    def accepted(self, call_id: str, event: str, now: int) -> None:
        """A call log is durable; the oldest live call is forgotten when there are too many."""
        self.last_post_at = now
        if event == STARTED:
            self._started.pop(call_id, None)
            self._started[call_id] = now
            if len(self._started) > MOST:
                del self._started[next(iter(self._started))]
        elif event == ENDED:
            self._started.pop(call_id, None)

    def any_live(self, now: int, max_age: int) -> bool:
        """Whether a call is live that began at most `max_age` ago."""
        newest = next(reversed(self._started.values()), None)
        return newest is not None and now - newest <= max_age

    def open_calls(self, now: int, max_age: int = OLDEST) -> int:
        """How many calls are live; one that began more than `max_age` ago has lost its end."""
        for call_id, started in list(self._started.items()):
            if now - started <= OLDEST:
                break
            del self._started[call_id]
        return sum(1 for started in self._started.values() if now - started <= max_age)


@dataclass(frozen=True, slots=True)
class ThrottlePolicy:
    """How much is left. Rates are bytes a second, over all destinations together; None: any number."""

    rate: float | None
    """At all times."""
    when_idle: bool
    """Whether live calls change anything."""
    live_rate: float | None
    """While a call is live, where that is less."""
    live_concurrency: int
    """Details of one destination under way at once while a call is live."""
    live_max_age: int
    """Milliseconds; a call that began longer ago has lost its end, and is not live."""


@dataclass(frozen=True, slots=True)
class ThrottleStatus:
    """How it is at one moment."""

    live_calls: int
    slowed: bool
    """Whether details are held to a slower rate because of live calls."""
    rate: float | None
    """The bytes a second that details of all destinations may take; None: any number."""


@dataclass(frozen=True, slots=True)
class DrainThrottle:
    """The rule, applied to the calls that are live now. `clock` gives milliseconds since the Unix epoch."""

    rule: ThrottlePolicy
    calls: OpenCalls
    clock: Callable[[], int]

    @property
    def limits_rate(self) -> bool:
        """Whether there can ever be a rate."""
        rule = self.rule
        return rule.rate is not None or (rule.when_idle and rule.live_rate is not None)

    @property
    def slowed(self) -> bool:
        """Whether live calls hold details back now."""
        return self.rule.when_idle and self.calls.any_live(self.clock(), self.rule.live_max_age)

    def rate(self) -> float | None:
        """The bytes a second that hold now."""
        rates = [self.rule.rate, self.rule.live_rate if self.slowed else None]
        return min((rate for rate in rates if rate is not None), default=None)

    def details_at_once(self) -> int | None:
        """How many details a destination may have under way now; None: as many as it bears."""
        return self.rule.live_concurrency if self.slowed else None

    def status(self) -> ThrottleStatus:
        """For people and metrics."""
        live = self.calls.open_calls(self.clock(), self.rule.live_max_age)
        return ThrottleStatus(live, self.slowed, self.rate())
