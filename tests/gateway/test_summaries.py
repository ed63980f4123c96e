"""What the log says by itself: a line a minute, and when records are refused."""

import asyncio
from dataclasses import replace

from structlog.testing import capture_logs
from structlog.typing import EventDict

from gateway.admin.events import RecentEvents
from gateway.admin.status import follow_readiness, summarize_forever
from spool.records import Lane
from spool.stats import LaneCounts, SpoolStats

MOMENT = 0.001


def stats_of(counts: LaneCounts) -> SpoolStats:
    return SpoolStats(5_000_000, 10_000_000, {("endpoint", Lane.CORE): counts}, {}, 0, None)


async def lines(*looks: LaneCounts, trouble: str | None = None) -> list[EventDict]:
    """What is logged while the spool stands like this, look after look."""
    left, seen_all = list(looks), asyncio.Event()

    def stats() -> SpoolStats:
        if len(left) == 1:
            seen_all.set()
        return stats_of(left.pop(0) if len(left) > 1 else left[0])

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


FREE = stats_of(LaneCounts())
FULL = replace(FREE, shortage="the disk is full")
TOLD = "the spool cannot take every record: the disk is full"


async def followed(looks: list[SpoolStats], every_seconds: float = 60) -> tuple[list[str], list[EventDict]]:
    """What the page shows, the oldest first, and what is logged, look after look."""
    left, seen_all, events = list(looks), asyncio.Event(), RecentEvents(lambda: 0)

    def stats() -> SpoolStats:
        if len(left) == 1:
            seen_all.set()
        return left.pop(0) if len(left) > 1 else left[0]

    with capture_logs() as logged:
        task = asyncio.create_task(follow_readiness(stats, events, 0, every_seconds))
        await asyncio.wait_for(seen_all.wait(), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return [event.text for event in reversed(events.recent())], logged


async def test_a_disk_that_was_full_for_a_moment_is_told() -> None:
    """Also when that is over before the minute is: once that it is full, once that it is not."""
    told, logged = await followed([FREE, FULL, *[FREE] * 9])
    assert told == [TOLD, "the spool takes every record again"]
    assert [(line["event"], line["log_level"]) for line in logged] == [
        ("not_ready", "warning"),
        ("ready_again", "info"),
    ]
    assert logged[0]["runbook"].endswith("#the-disk-is-full")


async def test_at_the_edge_of_a_full_disk_the_log_is_not_flooded() -> None:
    """Where it comes and goes, it is not over."""
    told, logged = await followed([FULL, FREE] * 50)
    assert (told, len(logged)) == ([TOLD], 1)


async def test_a_disk_that_stays_full_is_told_each_minute() -> None:
    """Whoever reads nothing but the log learns why posts are refused."""
    told, logged = await followed([FULL] * 9, every_seconds=0)
    assert told == [TOLD]
    assert len(logged) > 1
    assert {(line["event"], line["log_level"], line["reason"]) for line in logged} == {("not_ready", "warning", TOLD)}


async def test_another_reason_is_told_at_once() -> None:
    """A disk that was full fails: what is to be done is another thing."""
    told, logged = await followed([FULL, replace(FREE, failure="disk I/O error")])
    assert told == [TOLD, "the spool cannot take records: disk I/O error"]
    assert [line["reason"] for line in logged] == told


async def test_a_spool_that_takes_everything_is_not_worth_a_line() -> None:
    """Neither the log nor the page tells what is as it should be."""
    assert await followed([FREE] * 20) == ([], [])
