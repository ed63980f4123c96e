"""When callbacks are fired: never early, soon after their time, once; within hours and limits, whatever clocks do."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.callbacks import CLAIM, DISTRUST_SECONDS, CallbackScheduler
from gateway.intake.responses import Rejection
from tests.pipeline.queued import done
from tests.spool.spool_parts import Clock
from uploaders.pipeline.options import CallbackRule, TenantRule
from uploaders.stores.pipeline import Callback, CallbackTables, Insight, NewCallback
from uploaders.stores.pipeline_tables import LEASE_MILLISECONDS, PipelineTables

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)

BERLIN = ZoneInfo("Europe/Berlin")
RULE = CallbackRule("Europe/Berlin", per_number_and_day=2)
HOUR = 3_600_000


def at(year: int, month: int, day: int, hour: int) -> int:
    return round(datetime(year, month, day, hour, tzinfo=BERLIN).timestamp() * 1000)


NOON = at(2027, 7, 14, 12)


class Scheduler(CallbackScheduler):
    """Fires into a list instead of a spool; the spool knows what it has by its name (tests/system/test_pipeline.py)."""

    def __init__(self, tables: CallbackTables, clock: Clock, owner: str = "me") -> None:
        self.fired: list[tuple[str, str]] = []
        self.outcomes: list[str] = []
        self.ticks = 0.0
        tenants = {"ny": TenantRule(zone="America/New_York")}
        spool: Any = None
        super().__init__(tables, owner, RULE, tenants, spool, spool, self, clock, lambda: self.ticks)

    def callback_ended(self, outcome: str, _late_seconds: float | None) -> None:
        self.outcomes.append(outcome)

    async def _accept(self, callback: Callback) -> str | None:
        self.fired.append((callback.project, callback.call_id))
        return f"record-{callback.call_id}"


@pytest.fixture
def scheduler(callbacks: CallbackTables, clock: Clock) -> Scheduler:
    clock.now = NOON
    return Scheduler(callbacks, clock)


async def want(tables: PipelineTables, call_id: str, due_at: int, project: str = "", number: str = "+1555") -> None:
    callback = NewCallback(due_at, RULE.zone, "tomorrow", number)
    await done(tables, call_id, Insight("s", "llm", None, callback), project=project)


async def test_a_callback_three_days_ahead_is_fired_at_its_time(
    tables: PipelineTables, callbacks: CallbackTables, scheduler: Scheduler, clock: Clock
) -> None:
    """Not a second before, whoever restarts meanwhile; and then once."""
    due = at(2027, 7, 16, 15)
    await want(tables, "c", due)
    for moment in (NOON, NOON + 24 * HOUR, due - 1):
        clock.now = moment
        assert await Scheduler(callbacks, clock, f"restart {moment}").fire_due() == 0
    clock.now = due
    assert await scheduler.fire_due() == 1
    assert await scheduler.fire_due() == 0
    assert await Scheduler(callbacks, clock, "other").fire_due() == 0
    assert scheduler.fired == [("", "c")]


async def test_one_that_a_killed_receiver_had_is_fired_by_another(
    tables: PipelineTables, callbacks: CallbackTables, scheduler: Scheduler, clock: Clock
) -> None:
    """Once its lease has ended; the receiver itself, restarted, at once."""
    await want(tables, "c", NOON)
    assert len(await callbacks.claim("killed", 10)) == 1
    assert await scheduler.fire_due() == 0
    assert await Scheduler(callbacks, clock, "killed").fire_due() == 1
    await want(tables, "d", NOON)
    assert len(await callbacks.claim("killed", 10)) == 1
    clock.now += LEASE_MILLISECONDS
    assert await scheduler.fire_due() == 1


@pytest.mark.parametrize("meanwhile", ["stands still", "cancelled"])
async def test_what_is_taken_away_after_it_was_claimed_is_not_fired(
    tables: PipelineTables, callbacks: CallbackTables, clock: Clock, meanwhile: str
) -> None:
    """A receiver that stood still for longer than its lease calls nobody whom another one has called; and nobody is
    called whose callback an operator cancelled before its turn."""
    await want(tables, "c1", NOON)
    await want(tables, "c2", NOON, number="+1777")
    other = Scheduler(callbacks, clock, "other")

    class Slow(Scheduler):
        """While its first one is fired, the second one is taken away."""

        async def _accept(self, callback: Callback) -> str | None:
            if not self.fired and meanwhile == "cancelled":
                assert await callbacks.cancel("", "c2", "an operator cancelled it")
            elif not self.fired:
                await callbacks.fired(callback, "record")
                clock.now += LEASE_MILLISECONDS
                assert await other.fire_due() == 1
            return await super()._accept(callback)

    slow = Slow(callbacks, clock)
    clock.now = NOON
    assert await slow.fire_due() == 1
    assert slow.fired == [("", "c1")]
    assert [each.state for each in await callbacks.find() if each.call_id == "c2"] == [
        "cancelled" if meanwhile == "cancelled" else "fired"
    ]


@pytest.mark.parametrize(
    "error",
    [Rejection(503, "parse_worker_failed", "It failed.", "Later.", retry_after=10), ValueError("a defect")],
    ids=["cannot be parsed now", "a defect"],
)
async def test_one_that_cannot_be_fired_now_holds_up_no_other(
    tables: PipelineTables, callbacks: CallbackTables, clock: Clock, error: Exception
) -> None:
    """Those that are due after it are fired; it waits, and is fired when that works."""
    await want(tables, "c1", NOON - 1)
    await want(tables, "c2", NOON, number="+1777")

    class Failing(Scheduler):
        async def _accept(self, callback: Callback) -> str | None:
            if callback.call_id == "c1" and not works:
                raise error
            return await super()._accept(callback)

    works: list[bool] = []
    clock.now = NOON
    failing = Failing(callbacks, clock)
    assert [await failing.fire_due(), await failing.fire_due()] == [1, 0]
    works.append(True)
    assert await failing.fire_due() == 1
    assert failing.fired == [("", "c2"), ("", "c1")]


async def test_many_that_cannot_be_fired_now_hold_up_no_other(
    tables: PipelineTables, callbacks: CallbackTables, clock: Clock
) -> None:
    """However many are due before it: each look passes over those that failed in the looks before it."""
    poison = [f"p{number}" for number in range(CLAIM + 1)]
    for call_id in poison:
        await want(tables, call_id, NOON - 1)
    await want(tables, "last", NOON, number="+1777")

    class Failing(Scheduler):
        async def _accept(self, callback: Callback) -> str | None:
            if callback.call_id in poison:
                tried.append(callback.call_id)
                raise ValueError("a defect")
            return await super()._accept(callback)

    tried: list[str] = []
    clock.now = NOON
    failing = Failing(callbacks, clock)
    assert [await failing.fire_due(), await failing.fire_due()] == [0, 1]
    assert failing.fired == [("", "last")]
    assert sorted(tried) == sorted(poison), "one was tried again before all others had been"
    assert await failing.fire_due() == 0
    assert len(tried) > len(poison), "those that failed are tried again"


async def test_after_an_outage_nobody_is_called_at_night(
    tables: PipelineTables, callbacks: CallbackTables, scheduler: Scheduler, clock: Clock
) -> None:
    """What was due while nothing ran waits for the next working hour, in the tenant's own zone."""
    await want(tables, "c", NOON)
    await want(tables, "c", NOON, "ny")
    clock.now = at(2027, 7, 14, 23)  # 17:00 in New York
    assert await scheduler.fire_due() == 1
    assert scheduler.fired == [("ny", "c")]
    (waiting,) = await callbacks.find(state="waiting")
    assert waiting.due_at == at(2027, 7, 15, 9)
    clock.now = at(2027, 7, 15, 9) - 1
    assert await scheduler.fire_due() == 0
    clock.now += 1
    assert await scheduler.fire_due() == 1


async def test_a_number_is_called_so_often_a_day(
    tables: PipelineTables, callbacks: CallbackTables, scheduler: Scheduler, clock: Clock
) -> None:
    """The third one of the day is for tomorrow; other numbers and tenants are called."""
    for name in ("c1", "c2", "c3"):
        await want(tables, name, NOON)
    await want(tables, "c4", NOON, number="+1777")
    await want(tables, "c5", NOON, "other")
    assert await scheduler.fire_due() == 4
    (waiting,) = await callbacks.find(state="waiting")
    assert waiting.due_at == at(2027, 7, 15, 9)
    assert scheduler.outcomes.count("moved") == 1


async def test_a_number_on_the_list_is_never_called(
    tables: PipelineTables, callbacks: CallbackTables, scheduler: Scheduler
) -> None:
    """It is cancelled, with the reason, also one that an operator hastens."""
    await want(tables, "c", NOON + HOUR)
    await callbacks.block_number("", "+1555", blocked=True)
    await callbacks.hasten("", "c")
    assert await scheduler.fire_due() == 0
    (cancelled,) = await callbacks.find()
    assert (cancelled.state, cancelled.reason) == ("cancelled", "its number is on the do-not-call list")


def test_a_clock_that_was_set_forward_is_not_believed_at_once(scheduler: Scheduler, clock: Clock) -> None:
    """For a minute; one that was set back again is. Slow minutes are no jump."""
    for _ in range(5):
        clock.now, scheduler.ticks = clock.now + 60_000, scheduler.ticks + 60.5
        assert scheduler.clock_is_sound()
    clock.now, scheduler.ticks = clock.now + 72 * HOUR, scheduler.ticks + 1
    assert not scheduler.clock_is_sound()
    clock.now, scheduler.ticks = clock.now - 72 * HOUR, scheduler.ticks + 1
    assert scheduler.clock_is_sound()
    clock.now, scheduler.ticks = clock.now + 72 * HOUR, scheduler.ticks + 1
    assert not scheduler.clock_is_sound()
    clock.now, scheduler.ticks = clock.now + 60_000, scheduler.ticks + DISTRUST_SECONDS
    assert scheduler.clock_is_sound()
