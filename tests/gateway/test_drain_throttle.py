"""What details leave to live calls: the rule, at the moments that matter."""

import pytest

from gateway.live_calls import DrainThrottle, OpenCalls, ThrottlePolicy, ThrottleStatus
from spool.stats import LiveCall
from tests.spool.spool_parts import Clock

HOUR = 3600_000
IDLE_ONLY = ThrottlePolicy(rate=None, when_idle=True, live_rate=256.0, live_concurrency=1, live_max_age=2 * HOUR)


def throttle(rule: ThrottlePolicy, *began: tuple[str, int]) -> tuple[DrainThrottle, Clock]:
    clock = Clock(100 * HOUR)
    return DrainThrottle(rule, OpenCalls(LiveCall(call_id, "", at, None) for call_id, at in began), clock), clock


def test_a_live_call_slows_details_until_it_ends() -> None:
    """From its call_started to its call_ended details go at the slower rate, fewer at once; then all is as before."""
    one, clock = throttle(IDLE_ONLY)
    assert one.status() == ThrottleStatus(live_calls=0, slowed=False, rate=None)
    one.calls.accepted("a", "call_started", clock.now)
    assert one.status() == ThrottleStatus(live_calls=1, slowed=True, rate=256.0)
    assert one.details_at_once() == 1
    one.calls.accepted("a", "call_ended", clock.now)
    assert one.status() == ThrottleStatus(live_calls=0, slowed=False, rate=None)
    assert one.details_at_once() is None


def test_a_call_that_lost_its_end_holds_nothing_back_for_ever() -> None:
    """After the configured age a call is not live any more, whatever became of it."""
    one, clock = throttle(IDLE_ONLY, ("a", 100 * HOUR))
    clock.now += 2 * HOUR
    assert one.status().slowed
    clock.now += 1
    assert one.status() == ThrottleStatus(live_calls=0, slowed=False, rate=None)


def test_a_call_from_before_the_start_is_live() -> None:
    """What the spool knew of calls at the start counts."""
    one, _ = throttle(IDLE_ONLY, ("a", 99 * HOUR))
    assert one.slowed


@pytest.mark.parametrize(
    ("rate", "live_rate", "idle", "live"),
    [(None, None, None, None), (100.0, 256.0, 100.0, 100.0), (1e6, 9.0, 1e6, 9.0)],
)
def test_the_lower_rate_holds(rate: float | None, live_rate: float | None, idle: object, live: object) -> None:
    """Live calls only ever make the limit lower."""
    one, clock = throttle(ThrottlePolicy(rate, True, live_rate, 1, 2 * HOUR))
    assert one.rate() == idle
    one.calls.accepted("a", "call_started", clock.now)
    assert one.rate() == live
    assert one.limits_rate is (live is not None)


def test_without_when_idle_live_calls_change_nothing() -> None:
    """They are counted, and details go as ever."""
    one, _ = throttle(ThrottlePolicy(None, False, 9.0, 1, 2 * HOUR), ("a", 100 * HOUR))
    assert one.status() == ThrottleStatus(live_calls=1, slowed=False, rate=None)
    assert one.details_at_once() is None
    assert not one.limits_rate
