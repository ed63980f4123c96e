"""A backfill on real SQLite files: its plan, its pace, and that it gives way."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from gateway.operations.backfill import Backfill, Paused, Step, Yielded, days_between
from tests.stores.calls import part_of
from tests.stores.engines import SqliteEngine
from uploaders.stores.parts import PartKind
from uploaders.stores.store import BackfillDay, BackfillStatus, Store, day_of

DAY = 24 * 3600 * 1000


@pytest.fixture
async def engine(tmp_path: Path) -> SqliteEngine:
    """Ten calls on each of two days, on the old path alone."""
    made = SqliteEngine(tmp_path)
    store = made.store(pairs=False)
    for day in range(2):
        await store.write([part_of(PartKind.CALL, f"c{day}{number}") for number in range(10)])
        made.age(DAY)
    await store.close()
    return made


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if seconds:
            self.slept.append(seconds)


async def steps_of(
    store: Store,
    time: Time,
    engine: SqliteEngine,
    *,
    page_rows: int | None = None,
    rows_per_second: float | None = None,
) -> list[Step]:
    """All steps of a backfill of both days."""
    backfill = Backfill(store, clock=time, sleep=time.sleep, page_rows=page_rows, rows_per_second=rows_per_second)
    days = days_between(day_of(engine.now - 2 * DAY), day_of(engine.now - DAY))
    return [step async for step in backfill.run(days)]


async def usual_seconds() -> float:
    """A commit's time, where no slow moment of this machine is to make it wait."""
    return 0.001


def test_the_newest_day_comes_first() -> None:
    """From the cutoff backwards: what people look at is on the new path first."""
    assert days_between(date(2026, 1, 30), date(2026, 2, 1)) == [
        date(2026, 2, 1),
        date(2026, 1, 31),
        date(2026, 1, 30),
    ]
    assert days_between(date(2026, 2, 2), date(2026, 2, 1)) == []


async def test_all_days_are_completed(engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page after page, day after day, without waiting where nothing asks for it."""
    store, time = engine.store(), Time()
    monkeypatch.setattr(store, "commit_seconds", usual_seconds)
    steps = await steps_of(store, time, engine, page_rows=4)
    ended = [step for step in steps if isinstance(step, BackfillDay) and step.status is BackfillStatus.COMPLETED]
    assert [(step.day, step.written) for step in ended] == [
        (day_of(engine.now - DAY), 10),
        (day_of(engine.now - 2 * DAY), 10),
    ]
    assert (len(steps), time.slept) == (8, [])
    await store.close()


async def test_no_more_rows_a_second_than_allowed(engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 calls at 5 a second take 4 seconds, but for what a bucket may give at once."""
    store, time = engine.store(), Time()
    monkeypatch.setattr(store, "commit_seconds", usual_seconds)
    await steps_of(store, time, engine, rows_per_second=5, page_rows=2)
    assert 3.4 <= time.now <= 4
    await store.close()


async def test_it_waits_while_live_writes_are_slow(engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a commit takes more than twice as long as at the beginning it stops, looks again, and goes on."""
    store, time = engine.store(), Time()
    usual = [0.04] * 5
    latencies = iter([*usual, 0.079, 0.081, 0.5, 0.2, 0.079, *[0.04] * 20])

    async def commit_seconds() -> float:
        return next(latencies)

    monkeypatch.setattr(store, "commit_seconds", commit_seconds)
    steps = await steps_of(store, time, engine, page_rows=4)
    assert [step for step in steps if isinstance(step, Yielded)] == [
        Yielded(0.081, 0.5),
        Yielded(0.5, 1.0),
        Yielded(0.2, 2.0),
    ]
    assert time.slept == [0.5, 1.0, 2.0]
    await store.close()


async def test_latency_that_nobody_notices_is_no_reason_to_wait(
    engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 1 ms to 49 ms is no harm to anybody."""
    store, time = engine.store(), Time()
    latencies = iter([0.001] * 5 + [0.049] * 20)

    async def commit_seconds() -> float:
        return next(latencies)

    monkeypatch.setattr(store, "commit_seconds", commit_seconds)
    assert not [step for step in await steps_of(store, time, engine) if isinstance(step, Yielded)]
    await store.close()


async def test_somebody_else_may_pause_it(engine: SqliteEngine) -> None:
    """It stops after its page, and the next run goes on there, counting nothing twice."""
    store, other, time = engine.store(), engine.store(), Time()
    backfill = Backfill(store, page_rows=4, clock=time, sleep=time.sleep)
    day = day_of(engine.now - DAY)
    steps: list[Step] = []
    async for step in backfill.run([day]):
        steps.append(step)
        await other.pause_backfills(pause=True)
    assert [type(step) for step in steps] == [BackfillDay, Paused]
    again = [step async for step in backfill.run([day])]
    assert [step.calls for step in again if isinstance(step, BackfillDay)] == [8, 10, 10]
    for each in (store, other):
        await each.close()


async def test_a_backfill_that_is_killed_in_every_page_goes_on(engine: SqliteEngine) -> None:
    """SIGKILL after the rows and before the commit of each second page: rows and cursor always agree."""
    day = day_of(engine.now - DAY)
    for completed in (3, 6, 9):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "tests.stores.killed_backfill", str(engine.path), day.isoformat(), "3", "2"],
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
        with closing(sqlite3.connect(engine.path)) as connection:
            assert connection.execute("select count(*) from calls_complete").fetchall() == [(completed,)]
            assert connection.execute("select calls, written from backfill_progress").fetchall() == [
                (completed, completed)
            ]
    store = engine.store()
    pages = [page async for page in store.backfill(day, 3)]
    assert (pages[-1].status, pages[-1].calls, pages[-1].written) == (BackfillStatus.COMPLETED, 10, 10)
    await store.close()
