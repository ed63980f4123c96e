"""The circuit breaker of a destination: what a restart knows of it, how it is tried, and an operator's order."""

from dataclasses import replace

import pytest

from spool.records import BreakerSnapshot, DeliveryKey, Form
from tests.uploaders.dispatcher_stage import POLICY, Gate, a_stage
from tests.uploaders.fake_time import FakeTime, turns
from tests.uploaders.memory_queue import MemoryQueue, a_post
from uploaders.base import BreakerState, Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.dispatch.circuit_breaker import CircuitBreaker

DOWN = RetryLater("cannot connect: Connection refused", Scope.DESTINATION)
WRONG_ADDRESS = Refused("HTTP 302 redirects to /login", Scope.DESTINATION)
HOUR = 3600_000


async def test_an_open_breaker_is_kept_until_it_closes() -> None:
    """Each change is written down: what it opened for, each failed probe, and its end."""
    async with a_stage() as stage:
        start = stage.time.now
        stage.uploader.answer = DOWN
        await stage.post_all("a")
        await stage.time.advance(0.5)
        stage.uploader.answer = Delivered()
        await stage.time.advance(1)
        kept = BreakerSnapshot("backing_off", DOWN.reason, start, start + 500, 0)
        assert stage.queue.uploader_state.keeps == [kept, replace(kept, retry_at=start + 1500, probes=1), None]


async def test_a_closed_breaker_costs_no_write() -> None:
    """As long as deliveries flow, nothing is written about the destination."""
    async with a_stage() as stage:
        await stage.post_all("a", "b", "c")
        assert stage.queue.states() == ["delivered"] * 3
        assert stage.queue.uploader_state.keeps == []


async def test_a_restart_during_a_back_off_sends_nothing_before_its_time() -> None:
    """What asked for time is given it by the next process too; then one delivery is the probe."""
    time = FakeTime()
    queue = MemoryQueue(time.clock)
    since = time.now - 60_000
    queue.uploader_state.kept["endpoint"] = BreakerSnapshot("backing_off", "HTTP 503", since, time.now + 90_000, 7)
    for call in ("a", "b"):
        await queue.accept(a_post(call))
    slow = Gate()
    async with a_stage(queue=queue, time=time, core_slots=4, answer=slow) as stage:
        status = stage.dispatcher.status()[0]
        assert (status.up, status.reason, status.since) == (False, "HTTP 503", since)
        assert (status.breaker, status.retry_at) == (BreakerState.OPEN, time.now + 90_000)
        assert stage.observed.changes == [("endpoint", False, "backing off, as before the restart: HTTP 503")]
        await time.advance(89.9)
        assert stage.uploader.calls == []
        await time.advance(0.1)
        assert stage.uploader.calls == ["a"]
        assert stage.dispatcher.status()[0].breaker is BreakerState.HALF_OPEN
        slow.open()
        await turns()
        assert queue.states() == ["delivered", "delivered"]
        assert queue.uploader_state.kept == {}


async def test_a_restart_during_a_pause_probes_at_once() -> None:
    """Whoever corrects an address restarts and need not wait; but no more than one delivery tries it."""
    time = FakeTime()
    queue = MemoryQueue(time.clock)
    queue.uploader_state.kept["endpoint"] = BreakerSnapshot(
        "paused", WRONG_ADDRESS.reason, time.now, time.now + 300_000, 3
    )
    for call in ("a", "b", "c"):
        await queue.accept(a_post(call))
    async with a_stage(queue=queue, time=time, core_slots=4, answer=WRONG_ADDRESS) as stage:
        assert stage.uploader.calls == ["a"]
        assert not stage.dispatcher.status()[0].up


@pytest.mark.parametrize(
    ("kept", "retry_at", "since"),
    [
        (BreakerSnapshot("backing_off", "r", 10 * HOUR, 10 * HOUR + 5, 0), 10 * HOUR + 5, 10 * HOUR),
        (BreakerSnapshot("backing_off", "r", 900 * HOUR, 999 * HOUR, 0), 11 * HOUR, 10 * HOUR),
        (BreakerSnapshot("paused", "r", 10 * HOUR, 99 * HOUR, 0), 10 * HOUR, 10 * HOUR),
        (BreakerSnapshot("a word of a later version", "r", 1, 99 * HOUR, 0), 10 * HOUR, 1),
    ],
)
def test_what_was_kept_is_believed_as_far_as_it_can_be_true(kept: BreakerSnapshot, retry_at: int, since: int) -> None:
    """A clock that was set back since makes nobody wait longer than the longest wait there is."""
    breaker = CircuitBreaker(POLICY, lambda: 0.5)
    breaker.restore(kept, 10 * HOUR)
    assert (breaker.retry_at, breaker.since) == (retry_at, since)


def test_the_end_of_an_outage_wakes_what_waits_after_the_clock_was_set_back() -> None:
    """Not again soon after the last time; but a time that lies ahead is not soon."""
    breaker = CircuitBreaker(POLICY, lambda: 0.5)

    def wakes(now: int) -> bool:
        """Whether the end of an outage of single records does, at this time."""
        keys = [DeliveryKey(number, "endpoint", Form.WHOLE) for number in range(POLICY.failures_before_back_off)]
        for key in keys:
            breaker.attempt_ended(key, RetryLater("HTTP 502"), now, probe=False)
        breaker.probe_started()
        change = breaker.attempt_ended(keys[0], Delivered(), now, probe=True)
        return change is not None and change.wake

    assert [wakes(10 * HOUR), wakes(10 * HOUR + 1), wakes(9 * HOUR)] == [True, False, True]


def test_only_a_delivery_ends_a_streak_of_refusals() -> None:
    """A probe that is refused as well closes a breaker, and says nothing for the address: none comes back by that."""
    breaker = CircuitBreaker(replace(POLICY, refusals_before_pause=3), lambda: 0.5)
    refused = Refused("HTTP 404", maybe_address=True)

    def attempted(number: int, outcome: Outcome) -> None:
        probe = not breaker.closed
        if probe:
            breaker.probe_started()
        breaker.attempt_ended(DeliveryKey(number, "endpoint", Form.WHOLE), outcome, 10 * HOUR + number, probe=probe)

    for number, outcome in enumerate[Outcome]((refused, DOWN, refused)):
        attempted(number, outcome)
    assert (breaker.closed, breaker.take_revival()) == (True, None)
    attempted(3, refused)
    assert (breaker.closed, breaker.refusing_everything) == (False, True)
    attempted(4, Delivered())
    assert (breaker.closed, breaker.take_revival()) == (True, 10 * HOUR)


async def test_a_success_before_the_clock_was_set_back_is_none_since() -> None:
    """A record that may have met a wrong address is retried, although the last success seems to lie ahead."""
    async with a_stage() as stage:
        await stage.post_all("a")
        stage.time.now -= HOUR
        stage.uploader.answer = Refused("HTTP 404", maybe_address=True)
        await stage.post_all("b")
        assert stage.queue.states() == ["delivered", "ready"]


async def test_an_order_ends_a_back_off_at_once() -> None:
    """One delivery is sent at the order, though Retry-After asked for more; its success wakes everything."""
    async with a_stage(core_slots=4) as stage:
        stage.uploader.answer = replace(DOWN, after_seconds=3000)
        await stage.post_all("a", "b")
        stage.uploader.given.clear()
        slow = Gate()
        stage.uploader.answer = slow
        assert stage.dispatcher.retry_now("endpoint") is True
        await turns()
        assert len(stage.uploader.given) == 1
        slow.open()
        await turns()
        assert stage.queue.states() == ["delivered", "delivered"]
        assert stage.dispatcher.status()[0].up


async def test_an_order_in_vain_begins_the_waits_anew() -> None:
    """A destination that still fails is backed off from the shortest wait on."""
    async with a_stage() as stage:
        stage.uploader.answer = DOWN
        await stage.post_all("a")
        await stage.time.advance(1000)
        stage.dispatcher.retry_now("endpoint")
        await turns()
        retry_at = stage.dispatcher.status()[0].retry_at
        assert retry_at is not None
        assert retry_at - stage.time.now <= 1000


async def test_an_order_tries_each_refused_token() -> None:
    """One delivery of a refused token is sent at once; once it is taken, the others follow."""
    async with a_stage() as stage:
        stage.uploader.answer = Refused("HTTP 401", Scope.CREDENTIAL)
        await stage.post("a", token="t")
        await stage.post("b", token="t")
        await turns()
        assert stage.queue.states() == ["held", "held"]
        assert stage.dispatcher.status()[0].refused_tokens == 1
        stage.uploader.answer = Delivered()
        assert stage.dispatcher.retry_now("endpoint") is True
        await turns()
        assert stage.queue.states() == ["delivered", "delivered"]
        assert stage.dispatcher.status()[0].refused_tokens == 0


async def test_an_order_for_who_needs_none_says_so() -> None:
    """A destination that takes deliveries waits for nothing, and one that is not configured cannot be tried."""
    async with a_stage() as stage:
        assert stage.dispatcher.retry_now("endpoint") is False
        assert stage.dispatcher.retry_now("nobody") is None
