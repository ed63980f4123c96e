"""The dispatcher when a destination refuses a token: with a fake clock, by the real parts."""

import pytest
from msgspec.structs import replace

from spool.errors import CorruptPayload, SpoolUnavailable
from spool.records import Delivery, DeliveryState
from tests.uploaders.deliveries import a_delivery, a_record
from tests.uploaders.dispatcher_stage import Answer, Stage, a_stage, only, seconds
from tests.uploaders.fake_time import FakeTime, turns
from tests.uploaders.memory_queue import MemoryQueue, a_post
from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.dispatch.circuit_breaker import MOST_UNNEEDED, CredentialBreaker
from uploaders.dispatch.policy import RetryPolicy

TOKEN_REFUSED = Refused("HTTP 401: no such key", Scope.CREDENTIAL)


async def post_tokens(stage: Stage, **tokens: str | None) -> None:
    """One call for each name, with this token."""
    for call, token in tokens.items():
        await stage.post(call, token=token)
    await turns(200)


def by_token(bad: int, answer: Outcome = TOKEN_REFUSED) -> Answer:
    return lambda delivery: answer if delivery.record.token_id == bad else Delivered()


async def test_a_refused_token_holds_its_own_deliveries_only() -> None:
    """Deliveries of a refused token are held as they come up, after one request; other tokens pass."""
    async with a_stage() as stage:
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, a="bad", b="good", c="bad", d=None, e="bad")
        assert stage.queue.states() == ["held", "delivered", "held", "delivered", "held"]
        assert stage.uploader.calls == ["a", "b", "d"]
        assert stage.queue.errors()[2] == TOKEN_REFUSED.reason
        assert stage.dispatcher.status()[0].up
        assert stage.observed.credentials == [("endpoint", "token 1", False, TOKEN_REFUSED.reason)]
        assert stage.observed.changes == [], "the destination is neither up nor down for it"


async def test_a_refused_token_is_probed_with_one_delivery() -> None:
    """After 1, 2, 4 and then every 5 minutes one held delivery is released and sent, the others stay held."""
    async with a_stage() as stage:
        start = stage.time.now
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, a="bad", b="bad", c="bad")
        await stage.time.advance(60 + 120 + 240 + 300)
        assert seconds(stage, start) == [0, 60, 180, 420, 720]
        assert stage.queue.states() == ["held"] * 3
        assert len(stage.observed.credentials) == 1


async def test_a_token_that_is_taken_again_frees_all_its_deliveries() -> None:
    """The first probe that passes releases everything that was held for this token, at that moment."""
    async with a_stage() as stage:
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, **{f"c{number}": "bad" for number in range(40)})
        stage.uploader.answer = Delivered()
        await stage.time.advance(60)
        await turns(1000)
        assert stage.queue.states() == ["delivered"] * 40
        assert stage.observed.credentials[-1] == ("endpoint", "token 1", True, "it is accepted again")
        assert stage.observed.changes == []


@pytest.mark.parametrize("answer", [Refused("HTTP 422"), RetryLater("HTTP 404", give_up_after_seconds=60)])
async def test_an_answer_about_the_record_means_the_token_is_taken(answer: Outcome) -> None:
    """A destination that looks at the record has looked past the token."""
    async with a_stage() as stage:
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, a="bad", b="bad")
        stage.uploader.answer = only("a", answer=answer)
        await stage.time.advance(60)
        assert stage.queue.states()[1] == "delivered"


async def test_a_probe_that_fails_for_another_reason_says_nothing_about_the_token() -> None:
    """A time-out of the probe neither frees the token's deliveries nor makes its pause longer."""
    async with a_stage() as stage:
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, a="bad", b="bad")
        stage.uploader.answer = RetryLater("no answer in time")
        await stage.time.advance(60)
        assert stage.queue.states()[1] == "held"
        stage.uploader.answer = Delivered()
        await stage.time.advance(60)
        assert stage.queue.states() == ["delivered"] * 2


async def test_with_nothing_held_the_next_delivery_is_the_probe() -> None:
    """When an operator discarded what was held, the next delivery of the token finds out."""
    async with a_stage() as stage:
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, a="bad")
        stage.queue.entries.clear()
        await stage.time.advance(3600)
        assert stage.uploader.calls == ["a"]
        stage.uploader.answer = Delivered()
        await post_tokens(stage, b="bad", c="bad")
        assert stage.queue.states() == ["delivered"] * 2


async def test_a_token_that_was_replaced_is_no_longer_refused() -> None:
    """An order gave all held deliveries another token: the refused one is gone from the gauge at once, and logged."""
    async with a_stage() as stage:
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, a="bad", b="bad")
        assert stage.dispatcher.status()[0].refused_tokens == 1
        keys = [key for key, entry in stage.queue.entries.items() if entry.state is DeliveryState.HELD]
        stage.queue.entries.clear()
        stage.dispatcher.withdraw(keys)
        await turns(200)
        assert stage.dispatcher.status()[0].refused_tokens == 0
        assert stage.observed.credentials[-1] == ("endpoint", "token 1", True, "no delivery needs it any more")
        assert stage.dispatcher.retry_now("endpoint") is False, "nothing waits"


async def test_resuming_tries_a_refused_token_again() -> None:
    """The key was mended at the endpoint: `resume` sends one of its deliveries at once, and frees the others."""
    async with a_stage() as stage:
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, a="bad", b="bad")
        stage.uploader.answer = Delivered()
        assert stage.dispatcher.retry_now("endpoint") is True
        await turns(200)
        assert stage.queue.states() == ["delivered"] * 2
        assert stage.dispatcher.status()[0].refused_tokens == 0


async def test_a_hold_that_is_written_after_the_release_holds_nothing() -> None:
    """While the disk fails, a hold is retried; where the token was accepted meanwhile, its delivery is made too."""
    async with a_stage() as stage:
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, a="bad")
        stage.queue.failing = SpoolUnavailable("disk")
        accepted = await stage.queue.accept(replace(a_post("b", token="bad"), event="e"))
        stage.dispatcher.offer(accepted.ready)
        await stage.time.advance(59)
        stage.queue.failing, stage.uploader.answer = None, Delivered()
        await stage.time.advance(1)
        assert stage.queue.states() == ["delivered", "ready"], "the hold is still being retried"
        await stage.time.advance(30)
        assert stage.queue.states() == ["delivered", "delivered"]


async def test_a_probe_that_cannot_be_read_does_not_pause_a_token_for_ever() -> None:
    """With nothing held the next delivery is the probe; where its payload is unreadable, another one follows."""
    async with a_stage() as stage:
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, a="bad")
        stage.queue.entries.clear()
        await stage.time.advance(120)

        def answer(delivery: Delivery) -> Outcome:
            if delivery.record.call_id == "b":
                raise CorruptPayload("chunk 1 is missing")
            return Delivered()

        stage.uploader.answer = answer
        await post_tokens(stage, b="bad", c="bad")
        await stage.time.advance(120)
        assert stage.queue.states() == ["dead", "delivered"]


async def test_a_probe_that_vanishes_does_not_pause_a_token_for_ever() -> None:
    """If the released delivery never comes up, another one is released at the next time."""
    async with a_stage() as stage:
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, a="bad", b="bad")
        stage.uploader.answer = Delivered()
        release = stage.queue.release

        async def and_discard(
            destination: str, token_id: int | None, *, limit: int | None = None
        ) -> tuple[Delivery, ...]:
            freed = await release(destination, token_id, limit=limit)
            del stage.queue.entries[freed[0].key]
            stage.queue.release = release  # type: ignore[method-assign]  # only the first release is disturbed
            return (replace(freed[0], destination="gone"),)

        stage.queue.release = and_discard  # type: ignore[method-assign]  # an operator discards the probe in between
        await stage.time.advance(60)
        assert stage.queue.states() == ["held"]
        await stage.time.advance(60)
        assert stage.queue.states() == ["delivered"]


async def test_a_shared_token_pauses_the_destination() -> None:
    """Where all deliveries share one configured token, its refusal pauses them all, without holding each."""
    async with a_stage(shared_token=True) as stage:
        stage.uploader.answer = TOKEN_REFUSED
        await post_tokens(stage, a="one", b="two", c=None)
        assert stage.uploader.calls == ["a"]
        assert stage.queue.states() == ["ready"] * 3
        assert stage.observed.changes == [("endpoint", False, "paused: HTTP 401: no such key")]
        stage.uploader.answer = Delivered()
        await stage.time.advance(60)
        assert stage.queue.states() == ["delivered"] * 3


async def held_before_a_restart() -> tuple[FakeTime, MemoryQueue]:
    time = FakeTime()
    queue = MemoryQueue(time.clock)
    async with a_stage(queue=queue, time=time) as stage:
        stage.uploader.answer = TOKEN_REFUSED
        await post_tokens(stage, a="one", b="one", c="two")
        assert queue.states() == ["held"] * 3
    return time, queue


async def test_what_was_held_before_a_restart_is_probed_at_once() -> None:
    """A restart often follows a repair: one delivery of each held token is sent at the start."""
    time, queue = await held_before_a_restart()
    async with a_stage(queue=queue, time=time, answer=by_token(2)) as stage:
        await turns(200)
        assert queue.states() == ["delivered", "delivered", "held"]
        assert stage.uploader.calls.count("c") == 1


async def test_a_token_configured_since_frees_what_was_held_for_others() -> None:
    """When a configured token replaces the agents' own, nothing held for these waits any longer."""
    time, queue = await held_before_a_restart()
    async with a_stage(queue=queue, time=time, shared_token=True):
        await turns(200)
        assert queue.states() == ["delivered"] * 3


async def test_holding_a_backlog_needs_no_requests() -> None:
    """A thousand deliveries of a refused token are set aside with one request among them."""
    async with a_stage() as stage:
        stage.uploader.answer = by_token(1)
        await post_tokens(stage, **{f"c{number}": "bad" for number in range(1000)})
        await turns(5000)
        assert set(stage.queue.states()) == {"held"}
        assert len(stage.uploader.given) == 1


async def test_a_pause_that_ends_during_a_release_is_not_revived() -> None:
    """When the token is taken while a probe is being released, nothing is paused afterwards."""
    pauses = CredentialBreaker(RetryPolicy())
    one, other = a_delivery(a_record(record_id=1, token_id=7)), a_delivery(a_record(record_id=2, token_id=7))
    pauses.resume(7, 0)
    pauses.released(7, (one,))
    assert pauses.attempt_ended(one, Delivered(), 0) is True
    pauses.released(7, (other,))
    assert pauses.hold_reason(other, 0) is None
    assert pauses.next_probe_at is None


def test_tokens_that_nothing_needs_are_forgotten_in_the_end() -> None:
    """A sender that invents a token for each post does not fill the memory: the newest ones are remembered."""
    pauses = CredentialBreaker(RetryPolicy())
    for token_id in range(3 * MOST_UNNEEDED):
        pauses.resume(token_id, 0)
        pauses.released(token_id, ())
    assert list(pauses._pauses) == list(range(2 * MOST_UNNEEDED, 3 * MOST_UNNEEDED))
