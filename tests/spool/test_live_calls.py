"""Calls that are live when a spool is opened: found again after a restart, by an index."""

import sqlite3
from pathlib import Path

from spool.db import sql
from spool.directory import DATABASE_NAME
from spool.stats import LiveCall
from tests.spool.spool_parts import Clock, a_record, opened


async def test_a_restart_knows_the_calls_that_are_live(tmp_path: Path) -> None:
    """Calls that began and did not end, the oldest first: no superseded starts, no older ones."""
    clock = Clock()
    async with opened(tmp_path, clock=clock) as spool:
        for call in ("old", "a", "b", "c"):
            await spool.accept(a_record(call, event="call_started"))
            clock.now += 1000
        await spool.accept(a_record("b", event="call_ended"))
        await spool.accept(a_record("d", event="call_ended"))
        await spool.accept(a_record("d", event="call_started", superseded_by="call_ended"))
    async with opened(tmp_path, clock=clock) as spool:
        began = clock.now - 4000
        assert _times(await spool.reader.live_calls(began + 1, 10)) == [("a", began + 1000), ("c", began + 3000)]
        assert _times(await spool.reader.live_calls(0, 1)) == [("c", began + 3000)]


def _times(live: list[LiveCall]) -> list[tuple[str, int]]:
    return [(call.call_id, call.accepted_at) for call in live]


async def test_they_are_found_by_an_index(tmp_path: Path) -> None:
    """Neither the look-up nor its check of the ends reads all records."""
    async with opened(tmp_path, clock=Clock()):
        connection = sqlite3.connect(tmp_path / DATABASE_NAME)
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql.LIVE_CALLS}", (0, 10))]
        connection.close()
    assert "SEARCH began USING INDEX calls_started (accepted_at>?)" in plan
    assert "SEARCH ended USING INDEX records_by_call (call_id=?)" in plan
