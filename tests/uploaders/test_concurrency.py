"""How many attempts are under way at once: a pure rule, told how attempts ended."""

from dataclasses import dataclass, field

import pytest

from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.dispatch.lane import ConcurrencyLimit

THROTTLED = RetryLater("HTTP 429", Scope.DESTINATION)
FAILED = RetryLater("HTTP 500")
DELIVERED = Delivered()


@dataclass
class Lane:
    """Attempts one after the other, each beginning when the one before it ended."""

    limit: ConcurrencyLimit
    now: float = 100.0
    started: list[float] = field(default_factory=list)

    def attempt(
        self, outcome: Outcome = DELIVERED, *, seconds: float = 0.1, size: int = 2000, busy: bool = True
    ) -> int:
        started, self.now = self.now, self.now + seconds
        self.limit.attempt_ended(outcome, size=size, started=started, now=self.now, all_in_use=busy)
        return self.limit.slots


def a_lane(most: int = 8) -> Lane:
    return Lane(ConcurrencyLimit(most))


def test_it_begins_with_what_is_configured_and_never_takes_more() -> None:
    """A destination without trouble has all its slots from the first attempt on."""
    lane = a_lane(8)
    assert lane.limit.slots == 8
    assert {lane.attempt() for _ in range(100)} == {8}


def test_throttling_halves_it_down_to_one() -> None:
    """Each throttled attempt that began after the last cut takes half of the slots, the last one stays."""
    lane = a_lane(8)
    assert [lane.attempt(THROTTLED) for _ in range(5)] == [4, 2, 1, 1, 1]


def test_what_was_under_way_together_counts_once() -> None:
    """Eight attempts that met the same overload are one piece of news."""
    limit = ConcurrencyLimit(8)
    for ended in range(8):
        limit.attempt_ended(THROTTLED, size=2000, started=100.0, now=101.0 + ended, all_in_use=True)
    assert limit.slots == 4


def test_success_gives_back_one_slot_a_round() -> None:
    """After a cut, a round of as many deliveries as there are slots gains one, until all are back."""
    lane = a_lane(4)
    for _ in range(3):
        lane.attempt(THROTTLED)
    gained = [lane.attempt() for _ in range(12)]
    assert gained[0] == 2
    assert gained == sorted(gained)
    assert gained[-1] == 4
    assert 4 not in gained[:5]


def test_slots_that_are_not_used_are_not_added_to() -> None:
    """A trickle of deliveries says nothing about what a destination bears."""
    lane = a_lane(8)
    for _ in range(3):
        lane.attempt(THROTTLED)
    assert {lane.attempt(busy=False) for _ in range(50)} == {1}


def test_answers_that_become_slow_take_slots_away() -> None:
    """Three times the usual duration, again and again, is a queue at the other end."""
    lane = a_lane(8)
    for _ in range(10):
        lane.attempt(seconds=0.4)
    assert lane.limit.slots == 8
    slots = [lane.attempt(seconds=4.0) for _ in range(10)]
    assert slots[-1] < 8
    assert slots == sorted(slots, reverse=True)


@pytest.mark.parametrize(
    ("usual", "then", "size"),
    [(0.005, 0.4, 2000), (1.0, 2.5, 2000), (0.1, 20.0, 6_000_000)],
    ids=["fast all the same", "within the ratio", "another size"],
)
def test_what_is_no_sign_of_trouble_takes_nothing(usual: float, then: float, size: int) -> None:
    """Fast answers, a little longer ones, and large bodies among small ones are no news."""
    lane = a_lane(8)
    for _ in range(20):
        lane.attempt(seconds=usual)
    assert [lane.attempt(seconds=then, size=size) for _ in range(8)] == [8] * 8


def test_one_slow_answer_means_nothing() -> None:
    """A single answer of three times the usual duration is chance."""
    lane = a_lane(8)
    for _ in range(20):
        lane.attempt(seconds=1.0)
    assert lane.attempt(seconds=3.5) == 8


def test_a_lasting_slowness_becomes_the_usual() -> None:
    """An endpoint that is slower for good gets its slots back."""
    lane = a_lane(8)
    for _ in range(20):
        lane.attempt(seconds=0.5)
    during = [lane.attempt(seconds=5.0) for _ in range(400)]
    assert min(during) == 1
    assert during[-1] == 8


@pytest.mark.parametrize("outcome", [FAILED, Refused("HTTP 422"), Refused("HTTP 401", Scope.CREDENTIAL)])
def test_a_failure_of_one_record_takes_nothing_and_gives_nothing(outcome: Outcome) -> None:
    """A 500 or a refusal that comes promptly says nothing about how much a destination bears."""
    lane = a_lane(8)
    assert lane.attempt(outcome) == 8
    lane.attempt(THROTTLED)
    assert {lane.attempt(outcome) for _ in range(30)} == {4}


@pytest.mark.parametrize("outcome", [FAILED, Refused("HTTP 422"), Refused("HTTP 401", Scope.CREDENTIAL)])
@pytest.mark.parametrize("first", [True, False])
def test_a_failure_at_once_makes_no_delivery_slow(outcome: Outcome, first: bool) -> None:
    """What was rejected before it was read says nothing about how long a delivery takes."""
    lane = a_lane(8)
    usual = [lane.attempt(seconds=5.0) for _ in range(0 if first else 10)]
    assert [lane.attempt(outcome, seconds=0.01) for _ in range(3)] == [8] * 3
    assert [*usual, *(lane.attempt(seconds=5.0) for _ in range(10))] == [8] * (len(usual) + 10)


def test_attempts_that_time_out_take_slots_away() -> None:
    """A destination that hangs is given less to hang with."""
    lane = a_lane(8)
    for _ in range(5):
        lane.attempt(seconds=0.2)
    assert lane.attempt(RetryLater("no answer within 45 s"), seconds=45.0) == 6
