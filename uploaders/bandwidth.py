"""How fast details may leave: the limits of one destination and of all together, and the waiting.

Cores pass at once. They are counted, so that details leave them room; but no core ever waits for a byte.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from spool.records import Buffer, Lane
from uploaders.sending import SLICE_BYTES, Pace
from uploaders.token_bucket import BURST_SECONDS, TokenBucket

SMALLEST_SLICE = 1024


@dataclass(slots=True)
class RateLimit:
    """One limit that uploads go through. `rate` tells the bytes a second that hold now; None: any number."""

    rate: Callable[[], float | None]
    _bucket: TokenBucket = field(init=False, default_factory=lambda: TokenBucket(None))

    def bucket(self, now: float) -> TokenBucket:
        """The bucket, with the rate of this moment."""
        self._bucket.change(self.rate(), now)
        return self._bucket


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """The limits that what goes to one destination passes, all of them. `clock` gives monotonic seconds."""

    limits: Sequence[RateLimit]
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def pace(self, lane: Lane) -> Pace | None:
        """What holds the uploads of this lane back; None where there is no limit at all."""
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
"""Where nothing is limited."""
