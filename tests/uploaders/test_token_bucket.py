"""The token bucket: a pure rule about bytes and seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploaders.rate_limit import BURST_SECONDS, DEBT_SECONDS, TokenBucket


def test_a_full_bucket_lets_its_burst_pass_and_then_the_rate() -> None:
    """The first tenth of a second's worth goes at once; what is taken after it waits as long as it takes to earn."""
    bucket = TokenBucket(1000)
    assert bucket.take(int(1000 * BURST_SECONDS), 5.0) == 0
    assert bucket.take(500, 5.0) == pytest.approx(0.5)
    assert bucket.take(500, 5.0) == pytest.approx(1.0)
    assert bucket.take(500, 6.0) == pytest.approx(0.5)


def test_idleness_is_not_saved_up() -> None:
    """After an hour without uploads no more than the burst goes at once."""
    bucket = TokenBucket(1000)
    bucket.take(1, 0.0)
    assert bucket.take(1000, 3600.0) == pytest.approx(1 - BURST_SECONDS)


def test_without_a_rate_nobody_waits() -> None:
    """No limit means no waiting, whatever was taken."""
    bucket = TokenBucket(None)
    assert [bucket.take(10**12, now) for now in (0.0, 0.0, 1.0)] == [0, 0, 0]


def test_who_passes_by_makes_the_others_wait_within_bounds() -> None:
    """What is sent without waiting is counted, but a flood of it starves nobody."""
    bucket = TokenBucket(1000)
    bucket.pass_by(600, 0.0)
    assert bucket.take(0, 0.0) == pytest.approx(0.5)
    bucket.pass_by(10**9, 0.0)
    assert bucket.take(0, 0.0) == pytest.approx(DEBT_SECONDS)
    bucket.pass_by(10**9, 1.0)
    assert bucket.take(0, 1.0) == pytest.approx(DEBT_SECONDS)


def test_a_changed_rate_holds_from_then_on() -> None:
    """What is owed is paid at the new rate; taking the limit away forgives it."""
    bucket = TokenBucket(1000)
    bucket.take(1100, 0.0)
    bucket.change(100, 0.0)
    assert bucket.take(0, 0.0) == pytest.approx(10.0)
    bucket.change(None, 0.0)
    assert bucket.take(10**9, 0.0) == 0


def test_a_clock_that_stands_still_or_turns_back_grants_nothing() -> None:
    """Only time that passes earns bytes."""
    bucket = TokenBucket(1000)
    bucket.take(1100, 10.0)
    assert bucket.take(0, 9.0) == pytest.approx(1.0)


@given(
    rate=st.floats(1, 1e9),
    takes=st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 10)), min_size=1, max_size=50),
)
def test_who_waits_as_told_never_exceeds_the_rate(rate: float, takes: list[tuple[int, float]]) -> None:
    """Up to every moment, no more was sent than the rate and one burst allow."""
    bucket, now, sent = TokenBucket(rate), 0.0, 0
    for count, pause in takes:
        now += pause
        now += bucket.take(count, now)
        sent += count
        assert sent <= rate * (now + BURST_SECONDS) * 1.000001 + 1
