"""The calls that are live on this machine, and the throttle that holds details back in their favour.

While a call is live, details are sent a few at a time and slowly; afterwards they catch up. Cores never wait. The
throttle is consulted at the moment of each decision, in constant time, so nobody has to be notified when a call begins
or ends.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spool.records import Clock
from spool.stats import LiveCall

# A call is live once its `call_started` was accepted, or a heartbeat of it came, until its end is accepted. A stop can
# wait for live calls. At a start the spool says which calls began before it.

STARTED = "call_started"
ENDED = "call_ended"
ENDS = frozenset({ENDED, "call_log"})
"""Nothing follows of a call after these: a call log without an event is all of it."""
MOST = 10_000
OLDEST = 4 * 3600 * 1000
"""Milliseconds; no call is remembered for longer."""


class OpenCalls:
    """Counts live calls. Times in milliseconds since the epoch."""

    def __init__(self, began: Iterable[LiveCall] = (), monotonic: Callable[[], float] = time.monotonic) -> None:
        """`began`: the calls that are live at a start, the oldest first."""
        self._monotonic = monotonic
        self._started: dict[tuple[str, str], int] = {}
        self._happened: dict[tuple[str, str], int] = {}
        """When calls began by their own times, as far as these say."""
        for call in began:
            self._begin((call.principal, call.call_id), call.accepted_at, call.happened_at)
        self._last_post_at = -math.inf
        self.call_ended: Callable[[str, str], None] | None = None
        """Called with the id and the principal of each call whose end was accepted, superseded or not."""

    def accepted(self, call_id: str, event: str, now: int, principal: str = "", happened_at: int | None = None) -> None:
        """A call log is durable; the oldest live call is forgotten when there are too many.

        `happened_at` is the event's own time. An end that happened before the start was of an earlier call of this id.
        """
        self._last_post_at = self._monotonic()
        call = principal, call_id
        if event == STARTED:
            self._forget(call)
            self._begin(call, now, happened_at)
            if len(self._started) > MOST:
                self._forget(next(iter(self._started)))
        elif event in ENDS:
            began = self._happened.get(call)
            if began is None or happened_at is None or happened_at >= began:
                self._forget(call)

    def heard(self, call_id: str, now: int, principal: str) -> None:
        """The call goes on: it is live from now on, if it is not yet."""
        call = principal, call_id
        if call not in self._started:
            self._begin(call, now, None)
            if len(self._started) > MOST:
                self._forget(next(iter(self._started)))

    def _begin(self, call: tuple[str, str], now: int, happened_at: int | None) -> None:
        self._started[call] = now
        if happened_at is not None:
            self._happened[call] = happened_at

    def _forget(self, call: tuple[str, str]) -> None:
        self._started.pop(call, None)
        self._happened.pop(call, None)

    def quiet_seconds(self) -> float:
        """For how long no call log was accepted, whatever became of the wall clock; infinite before the first."""
        return self._monotonic() - self._last_post_at

    def any_live(self, now: int, max_age: int) -> bool:
        """Whether a call is live that began at most `max_age` ago."""
        newest = next(reversed(self._started.values()), None)
        return newest is not None and now - newest <= max_age

    def open_calls(self, now: int, max_age: int = OLDEST) -> int:
        """How many calls are live; one that began more than `max_age` ago has lost its end."""
        for call, started in list(self._started.items()):
            if now - started <= OLDEST:
                break
            self._forget(call)
        return sum(1 for started in self._started.values() if now - started <= max_age)


@dataclass(frozen=True, slots=True)
class ThrottlePolicy:
    """How details are throttled. Rates are bytes a second, over all destinations together; None: no limit."""

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
    """The throttle at one moment, for people and metrics."""

    live_calls: int
    slowed: bool
    """Whether live calls throttle details now."""
    rate: float | None
    """The bytes a second that details of all destinations may take; None: no limit."""


@dataclass(frozen=True, slots=True)
class DrainThrottle:
    """Applies the policy to the calls that are live now."""

    policy: ThrottlePolicy
    calls: OpenCalls
    clock: Clock

    @property
    def limits_rate(self) -> bool:
        """Whether there can ever be a rate."""
        policy = self.policy
        return policy.rate is not None or (policy.when_idle and policy.live_rate is not None)

    @property
    def slowed(self) -> bool:
        """Whether live calls throttle details now."""
        return self.policy.when_idle and self.calls.any_live(self.clock(), self.policy.live_max_age)

    def rate(self) -> float | None:
        """The limit in bytes a second that applies now."""
        rates = [self.policy.rate, self.policy.live_rate if self.slowed else None]
        return min((rate for rate in rates if rate is not None), default=None)

    def details_at_once(self) -> int | None:
        """How many details a destination may have under way now; None: no limit."""
        return self.policy.live_concurrency if self.slowed else None

    def status(self) -> ThrottleStatus:
        """The live calls and the limits at this moment."""
        live = self.calls.open_calls(self.clock(), self.policy.live_max_age)
        return ThrottleStatus(live, self.slowed, self.rate())
