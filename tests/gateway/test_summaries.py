"""The line a minute."""

import asyncio

from structlog.testing import capture_logs
from structlog.typing import EventDict

from gateway.admin.status import summarize_forever
from spool.records import Lane
from spool.stats import LaneCounts, SpoolStats

MOMENT = 0.001


def stats_of(counts: LaneCounts, shortage: str | None = None) -> SpoolStats:
    return SpoolStats(5_000_000, 10_000_000, {("endpoint", Lane.CORE): counts}, {}, 0, None, shortage)


async def lines(*looks: LaneCounts, trouble: str | None = None, shortage: str | None = None) -> list[EventDict]:
    """What is logged while the spool stands like this, look after look."""
    left, seen_all = list(looks), asyncio.Event()

    def stats() -> SpoolStats:
        if len(left) == 1:
            seen_all.set()
        return stats_of(left.pop(0) if len(left) > 1 else left[0], shortage)

    with capture_logs() as logged:
        task = asyncio.create_task(summarize_forever(stats, lambda: trouble, MOMENT))
        await asyncio.wait_for(seen_all.wait(), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return logged


async def test_a_summary_tells_what_came_and_went() -> None:
    """New, delivered and expired deliveries are those since the line before; queued and dead are those of now."""
    before = LaneCounts(owed=10, ready=4, delivered=6)
    after = LaneCounts(owed=15, ready=1, waiting=1, dead=1, delivered=11, expired=1)
    (line, *_) = await lines(before, after, after)
    assert {name: line[name] for name in ("new_deliveries", "delivered", "queued", "dead", "expired")} == {
        "new_deliveries": 5,
        "delivered": 5,
        "queued": 2,
        "dead": 1,
        "expired": 1,
    }
    assert line["spool"] == "5.0 MB"


async def test_an_idle_minute_is_not_worth_a_line() -> None:
    """When nothing happened and nothing waits, nothing is logged."""
    idle = LaneCounts(owed=6, delivered=6)
    assert await lines(idle, idle, idle) == []


async def test_what_maintenance_cannot_do_is_told() -> None:
    """A spool that cannot clean up after itself says so each time."""
    idle = LaneCounts()
    (line, *_) = await lines(idle, idle, idle, trouble="deleting chunks: disk I/O error")
    assert (line["event"], line["log_level"]) == ("maintenance_failed", "warning")


async def test_a_full_disk_is_told() -> None:
    """Whoever reads nothing but the log learns each minute why posts are refused."""
    idle = LaneCounts()
    (line, *_) = await lines(idle, idle, idle, shortage="the disk is full: free space on it")
    assert (line["event"], line["log_level"]) == ("not_ready", "warning")
    assert line["reason"] == "the spool cannot take every record: the disk is full: free space on it"
