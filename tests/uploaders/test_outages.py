"""The dispatcher when a destination fails, refuses, or comes back: with a fake clock, by the real parts."""

import pytest

from spool.records import Form, Lane
from tests.uploaders.dispatcher_stage import LONE_DETAIL, POLICY, WHOLE, Gate, a_stage, names, only, seconds
from tests.uploaders.fake_time import FakeTime, turns
from tests.uploaders.memory_queue import MemoryQueue
from uploaders.base import Delivered, Refused, RetryLater, Scope
from uploaders.dispatch.policy import RetryPolicy

REFUSED_CONNECTION = RetryLater("cannot connect: Connection refused", Scope.DESTINATION)
WRONG_ADDRESS = Refused("HTTP 302 redirects to /login", Scope.DESTINATION)


async def test_an_outage_is_met_by_one_delivery_at_a_time() -> None:
    """After the first refused connection everything waits; then one delivery at a time is the probe."""
    async with a_stage(core_slots=1) as stage:
        start = stage.time.now
        stage.uploader.answer = REFUSED_CONNECTION
        await stage.post_all("a", "b", "c")
        assert stage.uploader.calls == ["a"]
        assert not stage.dispatcher.status()[0].up
        assert stage.dispatcher.status()[0].retry_at == start + 500
        await stage.time.advance(7.5)
        assert seconds(stage, start) == [0, 0.5, 1.5, 3.5, 7.5]
        assert stage.observed.changes == [
            ("endpoint", False, "backing off: cannot connect: Connection refused"),
        ]


async def test_the_end_of_an_outage_costs_no_waiting() -> None:
    """The first success of a probe opens the destination, and everything is sent at that moment."""
    async with a_stage() as stage:
        stage.uploader.answer = REFUSED_CONNECTION
        await stage.post_all(*[f"c{number}" for number in range(50)])
        await stage.time.advance(7.4)
        stage.uploader.answer = Delivered()
        await stage.time.advance(0.1)
        await turns(1000)
        assert stage.queue.states() == ["delivered"] * 50
        assert stage.observed.changes[-1] == ("endpoint", True, "deliveries are accepted again")


async def test_what_met_an_outage_is_not_counted_against_it() -> None:
    """An outage of days makes no dead letters, and no record's own waiting longer."""
    async with a_stage(core_slots=4) as stage:
        stage.uploader.answer = REFUSED_CONNECTION
        await stage.post_all("a", "b", "c", "d")
        await stage.time.advance(3 * 86400)
        assert stage.queue.states() == ["ready"] * 4
        assert {stage.queue.delivery(number).attempts for number in range(4)} == {0}
        assert stage.queue.errors()[0] == REFUSED_CONNECTION.reason


async def test_failed_probes_take_turns() -> None:
    """A delivery that failed as a probe waits until the others have had their turn."""
    async with a_stage() as stage:
        stage.uploader.answer = REFUSED_CONNECTION
        await stage.post_all("a", "b", "c")
        await stage.time.advance(31.5)
        assert stage.uploader.calls == ["a", "b", "c", "a", "b", "c", "a"]


async def test_one_poison_record_does_not_keep_a_destination_closed() -> None:
    """When the delivery that closed it fails every probe, the next one's turn opens it."""
    async with a_stage() as stage:
        stage.uploader.answer = only("poison", answer=REFUSED_CONNECTION)
        await stage.post_all("poison", "a", "b")
        await stage.time.advance(0.5)
        assert stage.queue.states() == ["ready", "delivered", "delivered"]


async def test_retry_after_is_honoured_by_both_lanes() -> None:
    """No attempt of either lane is made before the time that was asked for, not even after a late success."""
    async with a_stage(core_slots=2) as stage:
        start = stage.time.now
        slow = Gate()
        stage.uploader.answer = lambda d: (
            slow(d) if d.record.call_id == "slow" else RetryLater("HTTP 429", Scope.DESTINATION, 120)
        )
        await stage.post_all("slow", "a")
        slow.open()
        await turns()
        assert stage.queue.states() == ["delivered", "ready"]
        await stage.post("d", LONE_DETAIL)
        await stage.post_all("b")
        stage.uploader.answer = Delivered()
        await stage.time.advance(119.9)
        assert seconds(stage, start) == [0, 0]
        await stage.time.advance(0.1)
        assert stage.queue.states() == ["delivered"] * 4


async def test_a_later_answer_may_ask_for_a_longer_wait() -> None:
    """Of several answers under way when a destination closes, the longest Retry-After counts."""
    async with a_stage(core_slots=2) as stage:
        start = stage.time.now
        slow = Gate(RetryLater("HTTP 429", Scope.DESTINATION, 300))
        stage.uploader.answer = lambda d: (
            slow(d) if d.record.call_id == "slow" else RetryLater("HTTP 429", Scope.DESTINATION, 10)
        )
        await stage.post_all("slow", "a")
        slow.open()
        await turns()
        stage.uploader.answer = Delivered()
        await stage.time.advance(299.9)
        assert len(stage.uploader.given) == 2
        await stage.time.advance(0.1)
        assert seconds(stage, start)[2:] == [300, 300]


async def test_a_probe_is_a_core_if_there_is_one() -> None:
    """What a dashboard needs at once goes first, details wait for it; without cores a detail is the probe."""
    async with a_stage() as stage:
        stage.uploader.answer = REFUSED_CONNECTION
        await stage.post("d", LONE_DETAIL)
        await turns()
        await stage.post("a", WHOLE)
        await stage.time.advance(0.5)
        assert [delivery.lane for delivery in stage.uploader.given] == [Lane.DETAIL, Lane.CORE]
    async with a_stage() as stage:
        stage.uploader.answer = REFUSED_CONNECTION
        await stage.post("d", LONE_DETAIL)
        await stage.time.advance(0.5)
        assert [delivery.lane for delivery in stage.uploader.given] == [Lane.DETAIL, Lane.DETAIL]


async def test_other_destinations_do_not_notice() -> None:
    """An outage of one destination delays nothing for another."""
    async with a_stage() as stage:
        stage.uploader.answer = REFUSED_CONNECTION
        await stage.post("a", WHOLE, WHOLE.__class__("other", Form.WHOLE, Lane.CORE))
        await turns()
        assert stage.queue.states("other") == ["delivered"]
        assert [status.up for status in stage.dispatcher.status()] == [False, True]


async def test_several_failing_in_a_row_close_the_destination() -> None:
    """Five different deliveries failing without a success between mean the destination; four do not."""
    async with a_stage() as stage:
        stage.uploader.answer = RetryLater("HTTP 500")
        await stage.post_all("a", "b", "c", "d")
        assert stage.dispatcher.status()[0].up
        await stage.post_all("e", "f", "g")
        assert not stage.dispatcher.status()[0].up
        assert stage.uploader.calls == ["a", "b", "c", "d", "e"]


async def test_a_success_between_failures_keeps_it_open() -> None:
    """Records that fail by themselves close nothing while others pass."""
    async with a_stage() as stage:
        stage.uploader.answer = only("a", "b", "d", "e", "f", answer=RetryLater("HTTP 500"))
        await stage.post_all("a", "b", "c", "d", "e", "f")
        assert stage.dispatcher.status()[0].up


async def test_one_delivery_failing_often_closes_nothing() -> None:
    """The same delivery failing again and again is one failure."""
    async with a_stage() as stage:
        stage.uploader.answer = RetryLater("HTTP 500")
        await stage.post_all("a")
        await stage.time.advance(3600)
        assert len(stage.uploader.given) > 10
        assert stage.dispatcher.status()[0].up


async def test_details_that_come_too_early_close_nothing() -> None:
    """ "Call log not found" is an answer of a destination in its right mind: cores go on."""
    async with a_stage() as stage:
        stage.uploader.answer = RetryLater("HTTP 404", give_up_after_seconds=86400)
        for number in range(30):
            await stage.post(f"d{number}", LONE_DETAIL)
        await turns(500)
        assert stage.dispatcher.status()[0].up
        await stage.time.advance(86400 + 600)
        assert set(stage.queue.states()) == {"dead"}


async def test_an_outage_of_answers_is_no_reason_to_give_up() -> None:
    """While everything fails with 5xx for days nothing becomes a dead letter, and its end wakes everything at once."""
    async with a_stage() as stage:
        stage.uploader.answer = RetryLater("HTTP 502")
        await stage.post_all(*[f"c{number}" for number in range(20)])
        await stage.time.advance(2 * 86400)
        assert set(stage.queue.states()) == {"ready"}
        stage.uploader.answer = Delivered()
        await stage.time.advance(150)
        await turns(1000)
        assert set(stage.queue.states()) == {"delivered"}


async def test_bad_records_at_the_head_do_not_starve_the_others() -> None:
    """Some records that always fail cost the others back-off, not delivery: a success does not wake them each time."""
    async with a_stage() as stage:
        bad = [f"bad{number}" for number in range(8)]
        stage.uploader.answer = only(*bad, answer=RetryLater("HTTP 500"))
        await stage.post_all(*bad)
        await stage.post_all(*[f"good{number}" for number in range(50)])
        await stage.time.advance(10)
        await turns(1000)
        assert stage.queue.states().count("delivered") == 50


async def test_a_redirecting_destination_is_paused_and_probed() -> None:
    """A wrong address pauses everything, loses nothing, is told once, and is probed after 1, 2, 4, 5 minutes."""
    async with a_stage() as stage:
        start = stage.time.now
        stage.uploader.answer = WRONG_ADDRESS
        await stage.post_all("a", "b", "c")
        await stage.time.advance(60 + 120 + 240 + 300 + 300)
        assert seconds(stage, start) == [0, 60, 180, 420, 720, 1020]
        assert stage.observed.changes == [("endpoint", False, "paused: HTTP 302 redirects to /login")]
        stage.uploader.answer = Delivered()
        await stage.time.advance(300)
        assert stage.queue.states() == ["delivered"] * 3


async def test_a_refusal_does_not_outlive_the_process() -> None:
    """Who corrects a wrong address and starts again need not wait: what it refused is due at once."""
    async with a_stage() as stage:
        stage.uploader.answer = WRONG_ADDRESS
        await stage.post_all("a", "b", "c")
        due = await stage.queue.due("endpoint", Lane.CORE, now=stage.time.now, limit=10)
        assert len(due.deliveries) == 3


async def test_a_wrong_address_does_not_empty_the_queue_into_the_dead_letters() -> None:
    """When everything is refused, only the first few become dead letters, and they come back with the first success."""
    policy = RetryPolicy(refusals_before_pause=3)
    async with a_stage(policy=policy) as stage:
        stage.uploader.answer = Refused("HTTP 400: no such route")
        await stage.post_all(*[f"c{number}" for number in range(10)])
        assert stage.queue.states() == ["dead"] * 2 + ["ready"] * 8
        await stage.time.advance(3600)
        assert stage.queue.states() == ["dead"] * 2 + ["ready"] * 8
        stage.uploader.answer = Delivered()
        await stage.time.advance(300)
        assert stage.queue.states() == ["delivered"] * 10


@pytest.mark.parametrize("bad", [1, 2, 3, 19, 30])
async def test_what_a_redeploy_refused_comes_back_with_its_end(bad: int) -> None:
    """404 for some seconds says something about the address, not about records: none of them stays a dead letter."""
    async with a_stage() as stage:
        await stage.post_all(*names(3))
        stage.uploader.answer = Refused("HTTP 404", maybe_address=True)
        await stage.post_all(*names(bad, 3))
        stage.uploader.answer = Delivered()
        await stage.post_all("after")
        await stage.time.advance(300)
        assert set(stage.queue.states()) == {"delivered"}


async def test_what_a_redeploy_refused_keeps_its_place() -> None:
    """A later event of the call does not overtake what 404 may not have meant: at the endpoint the last one wins."""
    async with a_stage() as stage:
        stage.uploader.answer = Refused("HTTP 404", maybe_address=True)
        await stage.post_all("call")
        stage.uploader.answer = Delivered()
        await stage.post_all("call", "another")
        await stage.time.advance(300)
        assert stage.uploader.calls == ["call", "another", "call", "call"]
        assert stage.queue.states() == ["delivered"] * 3
        numbers = [one.record.record_id for one in stage.uploader.given if one.record.call_id == "call"]
        assert numbers == sorted(numbers)


async def test_404_is_final_once_others_pass() -> None:
    """That is the evidence that the record is meant; until it comes, 404 is tried again for a quarter of an hour."""
    async with a_stage() as stage:
        stage.uploader.answer = only("bad", answer=Refused("HTTP 404", maybe_address=True))
        await stage.post_all("bad")
        await stage.time.advance(5)
        assert stage.queue.states() == ["ready"]
        await stage.post_all("good")
        await stage.time.advance(60)
        assert stage.queue.states() == ["dead", "delivered"]
        await stage.post_all("bad")
        await stage.time.advance(1800)
        assert stage.queue.states() == ["dead", "delivered", "dead"]


@pytest.mark.parametrize("bad", [1, 2, 30])
async def test_what_a_redeploy_refused_comes_back_after_a_restart(bad: int) -> None:
    """Gateway and endpoint are often redeployed together: the evidence may come to the next process only."""
    time = FakeTime()
    queue = MemoryQueue(time.clock)
    async with a_stage(queue=queue, time=time) as stage:
        await stage.post_all(*names(3))
        stage.uploader.answer = Refused("HTTP 404", maybe_address=True)
        await stage.post_all(*names(bad, 3))
    async with a_stage(queue=queue, time=time) as stage:
        await stage.post_all("after")
        await time.advance(300)
        assert set(queue.states()) == {"delivered"}
        assert queue.uploader_state.kept == {}


async def test_a_streak_is_counted_through_a_restart() -> None:
    """What was refused before it comes back too, where it is the second process that finds the address at fault."""
    time = FakeTime()
    queue = MemoryQueue(time.clock)
    policy = RetryPolicy(refusals_before_pause=5)
    for first in (0, 4):
        async with a_stage(policy=policy, queue=queue, time=time, answer=Refused("HTTP 400: no such route")) as stage:
            await stage.post_all(*names(4 if first == 0 else 6, first))
        await time.advance(60)
    assert queue.states() == ["dead"] * 8 + ["ready"] * 2
    async with a_stage(policy=policy, queue=queue, time=time):
        await time.advance(600)
        assert queue.states() == ["delivered"] * 10


async def test_a_record_that_is_refused_alone_is_no_streak() -> None:
    """Each success ends one: what is bad by itself stays a dead letter, through a restart as well."""
    time = FakeTime()
    queue = MemoryQueue(time.clock)
    async with a_stage(queue=queue, time=time) as stage:
        stage.uploader.answer = only("bad", answer=Refused("HTTP 422"))
        await stage.post_all("bad", "good")
    async with a_stage(queue=queue, time=time) as stage:
        await stage.post_all("another")
        await time.advance(300)
        assert queue.states() == ["dead", "delivered", "delivered"]


async def test_what_a_wrong_address_refused_comes_back_after_a_restart() -> None:
    """Who corrects an address restarts: what became a dead letter there comes back, too."""
    time = FakeTime()
    queue = MemoryQueue(time.clock)
    policy = RetryPolicy(refusals_before_pause=5)
    async with a_stage(policy=policy, queue=queue, time=time) as stage:
        stage.uploader.answer = Refused("HTTP 400: no such route")
        await stage.post_all(*names(10))
        await time.advance(120)
        assert queue.states() == ["dead"] * 4 + ["ready"] * 6
    async with a_stage(policy=policy, queue=queue, time=time, answer=Refused("HTTP 400: no such route")):
        await time.advance(600)
        assert queue.states() == ["dead"] * 4 + ["ready"] * 6, "a restart does not begin the streak anew"
    async with a_stage(policy=policy, queue=queue, time=time):
        await time.advance(600)
        assert queue.states() == ["delivered"] * 10


async def test_a_record_that_is_refused_again_stays_a_dead_letter() -> None:
    """What came back once, and is refused while others are accepted, has had its evidence: that is final."""
    bad = names(4)
    async with a_stage() as stage:
        stage.uploader.answer = only(*bad, answer=Refused("HTTP 404: no such agent", maybe_address=True))
        await stage.post_all(*bad, *names(3, 10))
        await stage.time.advance(3600)
        await stage.post_all(*names(20, 20))
        await stage.time.advance(3600)
        assert stage.queue.states() == ["dead"] * 4 + ["delivered"] * 23
        await stage.post_all(*names(20, 40))
        await stage.time.advance(3600)
        attempts = len(stage.uploader.given)
        assert stage.queue.states() == ["dead"] * 4 + ["delivered"] * 43
        await stage.post_all(*names(20, 60))
        await stage.time.advance(3600)
        assert stage.queue.states() == ["dead"] * 4 + ["delivered"] * 63
        assert len(stage.uploader.given) == attempts + 20, "none of the refused ones was tried again"


@pytest.mark.parametrize("reason", ["HTTP 413: (9 bytes were sent; do)", "corrupt: chunk 1 is missing"])
async def test_what_died_for_another_reason_does_not_come_back(reason: str) -> None:
    """Only refusals of a streak are taken back: not what is too large, nor what cannot be read."""
    async with a_stage() as stage:
        stage.uploader.answer = Refused(reason)
        await stage.post_all("a")
        stage.uploader.answer = Refused("HTTP 404", maybe_address=True)
        await stage.post_all("b")
        stage.uploader.answer = Delivered()
        await stage.post_all("c")
        await stage.time.advance(300)
        assert stage.queue.states() == ["dead", "delivered", "delivered"]


async def test_an_early_detail_does_not_open_a_wrong_address() -> None:
    """Where everything is refused, "not found" to a detail is no sign of life."""
    async with a_stage(policy=RetryPolicy(refusals_before_pause=2)) as stage:
        stage.uploader.answer = lambda d: (
            Refused("HTTP 404") if d.lane is Lane.CORE else RetryLater("HTTP 404", give_up_after_seconds=86400)
        )
        await stage.post_all("a", "b")
        await stage.post("d", LONE_DETAIL)
        await stage.time.advance(600)
        assert not stage.dispatcher.status()[0].up


async def test_a_refused_probe_opens_a_destination_that_failed() -> None:
    """A destination that refuses one record for its content answers again: the others need not wait."""
    async with a_stage() as stage:
        stage.uploader.answer = REFUSED_CONNECTION
        await stage.post_all("bad", "a", "b")
        stage.uploader.answer = lambda d: Delivered() if d.record.call_id == "b" else Refused("HTTP 422")
        await stage.time.advance(0.5)
        assert stage.queue.states() == ["dead", "dead", "delivered"]


def test_the_defaults_are_those_of_the_design() -> None:
    """A second at first, five minutes at most, a day until a record is given up, a minute to the first probe."""
    policy = RetryPolicy()
    assert (policy.initial, policy.maximum, policy.give_up_after) == (1, 300, 86400)
    assert (policy.probe_initial, policy.probe_maximum) == (60, 300)
    assert policy == POLICY


@pytest.mark.parametrize("ends", ["a probe", "an order"])
async def test_the_end_of_an_outage_makes_due_what_waited_for_it_only(ends: str) -> None:
    """What the destination asked to have back in two days is not sent again when it accepts other deliveries."""
    async with a_stage(core_slots=1) as stage:
        stage.uploader.answer = RetryLater("503, in two days", after_seconds=2 * 86400)
        await stage.post_all("later")
        stage.uploader.answer = REFUSED_CONNECTION
        await stage.post_all("a", "b")
        stage.uploader.answer = Delivered()
        if ends == "an order":
            assert stage.dispatcher.retry_now("endpoint")
            await turns(100)
        else:
            await stage.time.advance(60)
        assert stage.queue.states() == ["ready", "delivered", "delivered"]
        assert stage.uploader.calls.count("later") == 1
        await stage.time.advance(2 * 86400 - 120)
        assert stage.uploader.calls.count("later") == 1
        await stage.time.advance(120)
        assert stage.queue.states() == ["delivered"] * 3


async def test_a_clock_that_was_set_back_delays_no_delivery() -> None:
    """What was deferred by seconds does not wait for the hours by which the clock was corrected."""
    async with a_stage() as stage:
        stage.uploader.answer = only("a", answer=RetryLater("HTTP 500"))
        await stage.post_all("a")
        stage.uploader.answer = Delivered()
        stage.time.now -= 10 * 3_600_000
        await stage.post_all("b")
        assert stage.queue.states() == ["delivered"] * 2


async def test_a_clock_that_was_set_back_keeps_no_breaker_open() -> None:
    """No wait of a breaker is longer than the longest that a destination may ask for."""
    async with a_stage() as stage:
        stage.uploader.answer = REFUSED_CONNECTION
        await stage.post_all("a")
        stage.uploader.answer = Delivered()
        stage.time.now -= 10 * 3_600_000
        await stage.post_all("b")
        assert not stage.dispatcher.status()[0].up
        retry_at = stage.dispatcher.status()[0].retry_at
        assert retry_at is not None
        assert retry_at <= stage.time.now + 3_600_000
        await stage.time.advance(3600)
        assert stage.queue.states() == ["delivered"] * 2


async def test_a_clock_that_was_set_back_refuses_no_token_for_longer() -> None:
    """A refused token is probed within five minutes, whatever the clock said before."""
    async with a_stage() as stage:
        stage.uploader.answer = Refused("HTTP 401", Scope.CREDENTIAL)
        await stage.post_all("a")
        stage.uploader.answer = Delivered()
        stage.time.now -= 10 * 3_600_000
        await stage.post("b", token="another")
        await stage.time.advance(300)
        assert stage.queue.states() == ["delivered"] * 2
