"""Concurrency limit of a lane, adaptive: additive increase, multiplicative decrease (AIMD). Pure.

    throttled, or unreachable ───────────▶ half as many        at most once for what was under way together
    answers take 3 times their usual time ▶ 3/4 as many
    delivered, with all slots in use ─────▶ one more for each round of attempts

Between 1 and the configured number, where it begins. What is usual is learned by size, since a core and a detail of
6 MB have little in common, and it follows slowly what lasts: an endpoint that became slower for good is not
throttled for ever. Seconds are those of a monotonic clock.
"""

from dataclasses import dataclass, field

from uploaders.base import Delivered, Outcome, RetryLater, Scope

THROTTLED_FACTOR = 0.5
SLOW_FACTOR = 0.75
SLOW_RATIO = 3.0
"""Three times the usual duration means a queue at the other end, not chance."""
UNHURRIED_SECONDS = 0.5
"""Responses within this time are never slow, whatever the usual duration."""
RECENT_WEIGHT = 0.3
"""Of the newest attempt in what is recent: one slow answer alone means nothing."""
DRIFT = 0.02
"""Of the difference, by which the usual duration follows a longer one; a shorter one is the usual one at once."""


@dataclass(slots=True)
class _Durations:
    """How long attempts of about one size take."""

    usual: float
    recent: float

    def add(self, seconds: float) -> None:
        """One more attempt."""
        self.recent += RECENT_WEIGHT * (seconds - self.recent)
        self.usual = min(seconds, self.usual + DRIFT * (seconds - self.usual))

    @property
    def slow(self) -> bool:
        """Whether attempts take much longer than usual."""
        return self.recent > max(UNHURRIED_SECONDS, SLOW_RATIO * self.usual)


@dataclass(slots=True)
class ConcurrencyLimit:
    """The slots of one lane of one destination; `most` is the configured number."""

    most: int
    _limit: float = field(init=False)
    _cut_at: float = field(init=False, default=float("-inf"))
    _durations: dict[int, _Durations] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Begin with the configured number; only trouble reduces it."""
        self._limit = float(self.most)

    @property
    def slots(self) -> int:
        """How many attempts may be under way now, at least 1."""
        return int(self._limit)

    def attempt_ended(self, outcome: Outcome, *, size: int, started: float, now: float, all_in_use: bool) -> None:
        """Learn from an attempt of a record of `size` bytes; `all_in_use` says that no slot was free beside it."""
        if isinstance(outcome, RetryLater) and outcome.scope is Scope.DESTINATION:
            self._cut(THROTTLED_FACTOR, started, now)
        elif self._is_slow(size, now - started):
            self._cut(SLOW_FACTOR, started, now)
        elif isinstance(outcome, Delivered) and all_in_use:
            self._limit = min(float(self.most), self._limit + 1 / self._limit)

    def _is_slow(self, size: int, seconds: float) -> bool:
        """Whether attempts of this size (within a factor of 4) have become slow."""
        scale = size.bit_length() // 2
        durations = self._durations.get(scale)
        if durations is None:
            durations = self._durations[scale] = _Durations(seconds, seconds)
        durations.add(seconds)
        return durations.slow

    def _cut(self, factor: float, started: float, now: float) -> None:
        """Not for what began before the last cut: that was for the same trouble."""
        if started >= self._cut_at:
            self._limit = max(1.0, self._limit * factor)
            self._cut_at = now
