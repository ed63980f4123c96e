"""A line a minute that says what happened: for those who read logs and scrape nothing."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from gateway.admin.readiness import spool_obstacle
from gateway.humane import bytes_text
from spool.figures import SpoolStats

EVERY_SECONDS = 60.0

_log = structlog.get_logger("callspool")


@dataclass(frozen=True, slots=True)
class Totals:
    """All destinations and lanes together."""

    owed: int
    delivered: int
    queued: int
    dead: int
    expired: int


def totals_of(stats: SpoolStats) -> Totals:
    """The sum over destinations and lanes."""
    lanes = stats.lanes.values()
    return Totals(
        sum(lane.owed for lane in lanes),
        sum(lane.delivered for lane in lanes),
        sum(lane.queued for lane in lanes),
        sum(lane.dead for lane in lanes),
        sum(lane.expired for lane in lanes),
    )


async def summarize_forever(
    stats: Callable[[], SpoolStats], trouble: Callable[[], str | None], every_seconds: float = EVERY_SECONDS
) -> None:
    """Log a summary every minute in which something happened or waits, and what is wrong then, until cancelled.

    That is what keeps the spool from taking records, and what is in `trouble` with its maintenance.
    """
    before = totals_of(stats())
    while True:
        await asyncio.sleep(every_seconds)
        current = stats()
        after = totals_of(current)
        if after != before or after.queued or after.dead:
            _log.info(
                "summary",
                new_deliveries=after.owed - before.owed,
                delivered=after.delivered - before.delivered,
                queued=after.queued,
                dead=after.dead,
                expired=after.expired - before.expired,
                spool=bytes_text(current.used_bytes),
            )
        before = after
        obstacle = spool_obstacle(current)
        if obstacle is not None:
            _log.warning("not_ready", reason=obstacle)
        reason = trouble()
        if reason is not None:
            _log.warning("maintenance_failed", reason=reason)
