"""Open calls."""

from gateway.live_calls import OpenCalls
from tests.intake.bodies import call_log
from tests.intake.running_intake import RunningIntake

HOUR = 3600 * 1000


async def test_posts_open_and_end_calls(world: RunningIntake) -> None:
    """A call is open from its call_started to its call_ended; a superseded start opens nothing."""
    calls = world.intake.open_calls
    assert (calls.open_calls(world.clock()), calls.last_post_at) == (0, None)
    await world.post(call_log("a", wcall_event="call_started"))
    await world.post(call_log("b", wcall_event="call_started"))
    assert calls.open_calls(world.clock()) == 2
    assert calls.last_post_at == world.clock()
    await world.post(call_log("a"))
    await world.post(call_log("c"))
    await world.post(call_log("a", wcall_event="call_started", late=1))
    assert calls.open_calls(world.clock()) == 1


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
