"""Rate limits (token buckets) for details: of one destination, and of all together.

Cores are sent at once. They are counted, so that details slow down for them; but no core ever waits.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from spool.records import Buffer, Lane

SLICE_BYTES = 64 * 1024
"""The socket is waited for when it has been given so much, so each slice shows that the peer reads."""

Pace = Callable[[int], Awaitable[int]]
"""Waits until some of the given number of bytes may be sent, and returns how many: at least one."""

# A token bucket that counts bytes: pure. It says how long to wait, and waits for nothing itself.
#
# What is taken is always granted, and is owed: who takes more than there is waits until the debt is paid, and who comes
# after waits behind. Seconds are those of a monotonic clock.

BURST_SECONDS = 0.1
"""A bucket holds at most 0.1 s of its rate: a longer burst would disturb a live call on a thin line."""
DEBT_SECONDS = 5.0
"""Cores can delay details by at most so much: no detail starves behind them."""


@dataclass(slots=True)
class TokenBucket:
    """Grants `rate` bytes a second; None: no limit."""

    rate: float | None
    _tokens: float = field(init=False, default=0.0)
    _at: float | None = field(init=False, default=None)

    def change(self, rate: float | None, now: float) -> None:
        """Another rate from now on; what was taken stays taken."""
        if rate != self.rate:
            self._fill(now)
            self.rate = rate

    def take(self, count: int, now: float) -> float:
        """Take `count` bytes; returns how many seconds to wait before they are sent."""
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


SMALLEST_SLICE = 1024


@dataclass(slots=True)
class RateLimit:
    """One limit for uploads. `rate` returns the bytes a second that apply now; None: no limit."""

    rate: Callable[[], float | None]
    _bucket: TokenBucket = field(init=False, default_factory=lambda: TokenBucket(None))

    def bucket(self, now: float) -> TokenBucket:
        """The bucket, with the rate of this moment."""
        self._bucket.change(self.rate(), now)
        return self._bucket


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """All rate limits of one destination. `clock` gives monotonic seconds."""

    limits: Sequence[RateLimit]
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def pace(self, lane: Lane) -> Pace | None:
        """The pace of uploads in this lane; None where there is no limit."""
        if not self.limits:
            return None
        return self._wait if lane is Lane.DETAIL else self._count

    async def _wait(self, count: int) -> int:
        """Wait until a slice may be sent: a tenth of a second's worth, so that the line stays smooth."""
        now = self.clock()
        buckets = [limit.bucket(now) for limit in self.limits]
        rates = [bucket.rate for bucket in buckets if bucket.rate is not None]
        slice_bytes = min((max(SMALLEST_SLICE, int(rate * BURST_SECONDS)) for rate in rates), default=SLICE_BYTES)
        allowed = min(count, slice_bytes)
        seconds = max(bucket.take(allowed, now) for bucket in buckets)
        if seconds > 0:
            await self.sleep(seconds)
        return allowed

    async def _count(self, count: int) -> int:
        """Send all of it at once."""
        now = self.clock()
        for limit in self.limits:
            limit.bucket(now).pass_by(count, now)
        return count


async def paced(data: Buffer, pace: Pace | None) -> AsyncIterator[memoryview]:
    """The data in slices, each at its time; all of it at once where nothing holds it back."""
    rest = memoryview(data)
    while rest:
        allowed = len(rest) if pace is None else await pace(min(len(rest), SLICE_BYTES))
        yield rest[:allowed]
        rest = rest[allowed:]


UNLIMITED = Bandwidth((), clock=lambda: 0.0)
"""No rate limit."""
