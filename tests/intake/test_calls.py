"""Open calls."""

import math

from gateway.live_calls import OpenCalls
from spool.records import principal_of
from tests.intake.bodies import call_log
from tests.intake.running_intake import RunningIntake

HOUR = 3600 * 1000


async def test_posts_open_and_end_calls(world: RunningIntake) -> None:
    """A call is open from its call_started to its call_ended; a superseded start opens nothing."""
    calls = world.intake.open_calls
    assert (calls.open_calls(world.clock()), calls.quiet_seconds()) == (0, math.inf)
    await world.post(call_log("a", wcall_event="call_started"))
    await world.post(call_log("b", wcall_event="call_started"))
    assert calls.open_calls(world.clock()) == 2
    assert calls.quiet_seconds() < 60
    await world.post(call_log("a"))
    await world.post(call_log("c"))
    await world.post(call_log("a", wcall_event="call_started", late=1))
    assert calls.open_calls(world.clock()) == 1


def test_it_is_quiet_by_a_clock_that_nobody_sets() -> None:
    """A wall clock that is set back in a shutdown would keep it waiting to its deadline."""
    seconds = [7.0]
    calls = OpenCalls(monotonic=lambda: seconds[0])
    calls.accepted("a", "call_ended", HOUR)
    seconds[0] += 1.5
    assert calls.quiet_seconds() == 1.5
    calls.accepted("b", "call_ended", 0)
    assert calls.quiet_seconds() == 0


async def test_a_repeated_start_opens_no_call_that_has_ended(world: RunningIntake) -> None:
    """Its sender saw no answer to the first attempt, and the call was shorter than the time until the second."""
    start = call_log("a", wcall_event="call_started")
    await world.post(start)
    assert world.intake.open_calls.open_calls(world.clock()) == 1
    await world.post(call_log("a"))
    assert (await world.post(start)).json["duplicate"] is True
    assert world.intake.open_calls.open_calls(world.clock()) == 0


async def test_a_call_log_without_an_event_ends_its_call(world: RunningIntake) -> None:
    """It is all of the call, which was heard of by heartbeats or a start; also for a gateway that starts later."""
    for call_id in ("heard", "started"):
        await world.post({"call_id": call_id, "wcall_event": "call_started"})
    world.intake.open_calls.heard("beating", world.clock(), principal_of(None, None))
    assert world.intake.open_calls.open_calls(world.clock()) == 3
    for call_id in ("started", "beating"):
        await world.post({"call_id": call_id})
    assert world.intake.open_calls.open_calls(world.clock()) == 1
    assert [call.call_id for call in await world.spool.reader.live_calls(0, 10)] == ["heard"]


def test_calls_that_lost_their_end_are_forgotten() -> None:
    """After four hours a call counts no more."""
    calls = OpenCalls()
    calls.accepted("a", "call_started", 0)
    calls.accepted("b", "call_started", HOUR)
    assert calls.open_calls(4 * HOUR) == 2
    assert calls.open_calls(4 * HOUR + 1) == 1
    assert calls.open_calls(9 * HOUR) == 0


def test_a_call_that_starts_again_is_young_again() -> None:
    """A repeated start counts from then on, once."""
    calls = OpenCalls()
    calls.accepted("a", "call_started", 0)
    calls.accepted("b", "call_started", 1)
    calls.accepted("a", "call_started", 3 * HOUR)
    assert calls.open_calls(5 * HOUR) == 1


def test_their_number_is_bounded() -> None:
    """With more than ten thousand open calls the oldest are forgotten."""
    calls = OpenCalls()
    for number in range(10_050):
        calls.accepted(str(number), "call_started", number)
    assert calls.open_calls(10_050) == 10_000
