"""A token bucket that counts bytes: pure. It says how long to wait, and waits for nothing itself.

What is taken is always granted, and is owed: who takes more than there is waits until the debt is paid, and who comes
after waits behind. Seconds are those of a monotonic clock.
"""

from dataclasses import dataclass, field

BURST_SECONDS = 0.1
"""So much of its rate a bucket holds at most: more would be felt on a thin line beside a live call."""
DEBT_SECONDS = 5.0
"""What goes without waiting can make the others wait so long, and no longer: nobody starves behind it."""


@dataclass(slots=True)
class TokenBucket:
    """Grants `rate` bytes a second; None: any number."""

    rate: float | None
    _tokens: float = field(init=False, default=0.0)
    _at: float | None = field(init=False, default=None)

    def change(self, rate: float | None, now: float) -> None:
        """Another rate from now on; what was taken stays taken."""
        if rate != self.rate:
            self._fill(now)
            self.rate = rate

    def take(self, count: int, now: float) -> float:
        """Take so many bytes; returns how many seconds to wait before they are sent."""
        if self.rate is None:
            return 0.0
        self._fill(now)
        self._tokens -= count
        return max(0.0, -self._tokens / self.rate)

    def pass_by(self, count: int, now: float) -> None:
        """Count bytes that are sent at once, whatever there is: the others wait the longer, within bounds."""
        if self.rate is not None:
            self._fill(now)
            self._tokens = max(self._tokens - count, min(self._tokens, -DEBT_SECONDS * self.rate))

    def _fill(self, now: float) -> None:
        """Add what time has brought; a bucket begins full."""
        rate = self.rate or 0.0
        most = BURST_SECONDS * rate
        gained = most if self._at is None else (now - self._at) * rate
        self._tokens = min(most, self._tokens + max(0.0, gained))
        self._at = now
