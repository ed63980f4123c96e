"""What details leave to the calls that are live on the same machine, and to its line.

While a call is live, details go a few at a time and slowly; afterwards they catch up. Cores never wait. Everything is
asked at the moment it matters, in constant time, so nothing has to be told when a call begins or ends.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.intake.calls import OpenCalls


@dataclass(frozen=True, slots=True)
class CourtesyRule:
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
class CourtesyFigures:
    """How it is at one moment."""

    live_calls: int
    slowed: bool
    """Whether details are held to a slower rate because of live calls."""
    rate: float | None
    """The bytes a second that details of all destinations may take; None: any number."""


@dataclass(frozen=True, slots=True)
class Courtesy:
    """The rule, applied to the calls that are live now. `clock` gives milliseconds since the Unix epoch."""

    rule: CourtesyRule
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

    def figures(self) -> CourtesyFigures:
        """For people and metrics."""
        live = self.calls.open_calls(self.clock(), self.rule.live_max_age)
        return CourtesyFigures(live, self.slowed, self.rate())
