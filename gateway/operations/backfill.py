"""A backfill: the rows of the new path for the days before the cutoff, the newest day first.

It gives way to live writes. Beside each page a small durable write is timed, and when that takes more than twice as
long as at the beginning, the backfill waits until it does not.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median
from typing import Final

from uploaders.rate_limit import TokenBucket
from uploaders.stores.store import BackfillDay, BackfillStatus, Store

PROBES: Final = 5
"""Writes that are timed before the first page."""
SLOWER: Final = 2.0
"""How many times the latency of the beginning is too much."""
UNNOTICED_SECONDS: Final = 0.05
"""A write that takes less than this harms nobody, however fast it was before."""
FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 30.0
"""Seconds: the waits for a busy store double from the one to the other."""
LEAST_PAGE: Final = 100
"""Rows: with a low rate pages are smaller, so that they come once a second."""


@dataclass(frozen=True, slots=True)
class Yielded:
    """It waits, because live writes take this long."""

    commit_seconds: float
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class Paused:
    """It stopped before its end, because somebody asked for that."""


Step = BackfillDay | Yielded | Paused


def days_between(first: date, last: date) -> list[date]:
    """The days from the last back to the first, both included."""
    return [last - timedelta(days=back) for back in range((last - first).days + 1)]


class Backfill:
    """Carries out backfills of a store."""

    def __init__(
        self,
        store: Store,
        *,
        rows_per_second: float | None = None,
        page_rows: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`page_rows` is what suits the engine, unless it is given or the rate is low."""
        self._store = store
        self._bucket = TokenBucket(rows_per_second)
        if rows_per_second is not None and page_rows is None:
            page_rows = max(LEAST_PAGE, int(rows_per_second))
        self._page_rows = page_rows
        self._clock = clock
        self._sleep = sleep

    async def run(self, days: list[date]) -> AsyncGenerator[Step, None]:
        """Backfill these days, one after the other; gives what was done after each page, and each wait."""
        await self._store.pause_backfills(pause=False)
        usual = median([await self._store.commit_seconds() for _ in range(PROBES)])
        limit = max(SLOWER * usual, UNNOTICED_SECONDS)
        before = {each.day: each.calls for each in await self._store.backfill_days()}
        for day in days:
            done = before.get(day, 0)
            async with aclosing(self._store.backfill(day, self._page_rows)) as pages:
                while True:
                    page, seconds = await self._timed(pages)
                    if page is None:
                        break
                    yield page
                    if page.status is not BackfillStatus.RUNNING:
                        continue
                    if await self._store.backfills_paused():
                        yield Paused()
                        return
                    rows, done = max(0, page.calls - done), page.calls
                    await self._sleep(self._bucket.take(rows, self._clock()))
                    wait = FIRST_WAIT
                    while seconds > limit:
                        yield Yielded(seconds, wait)
                        await self._sleep(wait)
                        wait = min(2 * wait, LONGEST_WAIT)
                        seconds = await self._store.commit_seconds()

    async def _timed(self, pages: AsyncGenerator[BackfillDay, None]) -> tuple[BackfillDay | None, float]:
        """The next page, and how long a live write took beside it."""
        probe = asyncio.create_task(self._store.commit_seconds())
        try:
            return await anext(pages, None), await probe
        finally:
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)
