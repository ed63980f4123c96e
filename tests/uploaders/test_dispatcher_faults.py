"""The dispatcher when something around it fails: payloads, uploaders, the spool, the observer; and how it stops."""

import asyncio

import pytest

from spool.errors import CorruptPayload, SpoolUnavailable
from spool.records import Delivery, Lane
from tests.uploaders.dispatcher_stage import POLICY, Gate, Observed, ToldUploader, a_stage, names
from tests.uploaders.fake_time import FakeTime, turns
from tests.uploaders.memory_queue import MemoryQueue, a_post
from uploaders.base import Delivered, Outcome, RetryLater, Scope
from uploaders.dispatch.dispatcher import DestinationPlan, Dispatcher
from uploaders.dispatch.lane import MOST_UNSETTLED


async def test_an_unreadable_payload_is_a_dead_letter() -> None:
    """A corrupt payload is set aside with its reason, and says nothing about the destination."""

    def corrupt(_delivery: Delivery) -> Outcome:
        raise CorruptPayload("chunk 7 is missing")

    async with a_stage() as stage:
        stage.uploader.answer = corrupt
        await stage.post_all(*names(30))
        assert set(stage.queue.states()) == {"dead"}
        assert set(stage.queue.errors()) == {"corrupt: chunk 7 is missing"}
        assert stage.dispatcher.status()[0].up


async def test_a_spool_that_cannot_be_read_counts_against_nobody() -> None:
    """While the spool cannot give payloads, deliveries wait without a counted attempt."""

    def unreadable(_delivery: Delivery) -> Outcome:
        raise SpoolUnavailable("disk")

    async with a_stage() as stage:
        stage.uploader.answer = unreadable
        await stage.post_all(*names(8))
        assert {stage.queue.delivery(number).attempts for number in range(8)} == {0}
        assert stage.dispatcher.status()[0].up
        stage.uploader.answer = Delivered()
        await stage.time.advance(1)
        assert set(stage.queue.states()) == {"delivered"}


async def test_a_probe_without_a_payload_gives_its_turn_to_another() -> None:
    """A probe whose payload is corrupt says nothing about the destination: the next one finds out at once."""

    async with a_stage() as stage:
        stage.uploader.answer = RetryLater("cannot connect", Scope.DESTINATION)
        await stage.post_all("corrupt", "a")

        def corrupt(delivery: Delivery) -> Outcome:
            if delivery.record.call_id == "corrupt":
                raise CorruptPayload("chunk 7 is missing")
            return RetryLater("cannot connect", Scope.DESTINATION)

        stage.uploader.answer = corrupt
        await stage.time.advance(1.5)
        assert stage.queue.states() == ["dead", "ready"]
        stage.uploader.answer = Delivered()
        await stage.time.advance(10)
        assert stage.queue.states() == ["dead", "delivered"]


@pytest.mark.parametrize("error", [RuntimeError("secret"), KeyError("x"), asyncio.CancelledError(), MemoryError()])
async def test_an_uploader_that_raises_kills_nothing(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever an uploader raises is logged without its text, counted as a failed attempt, and the lane goes on."""

    def raising(delivery: Delivery) -> Outcome:
        if delivery.record.call_id == "bad":
            raise error
        return Delivered()

    async with a_stage() as stage:
        stage.uploader.answer = raising
        await stage.post_all("bad", "good")
        assert stage.queue.states() == ["ready", "delivered"]
        assert stage.queue.delivery(0).attempts == 1
        assert stage.queue.errors()[0] == f"the uploader failed unexpectedly: {type(error).__name__}"
        stage.uploader.cancelled = 0
    told = capsys.readouterr().out
    assert "uploader_raised" in told
    assert "secret" not in told


@pytest.mark.parametrize("failure", [SpoolUnavailable("disk"), ZeroDivisionError("a defect")])
async def test_a_spool_that_cannot_settle_causes_no_second_delivery(failure: Exception) -> None:
    """While the spool fails to settle, the delivery stays claimed; it is settled when the spool works again."""
    async with a_stage() as stage:
        await stage.post_all("a")
        stage.queue.failing = failure
        accepted = await stage.queue.accept(a_post("b"))
        stage.dispatcher.offer(accepted.ready)
        await turns()
        stage.dispatcher.offer(accepted.ready)
        await stage.time.advance(600)
        assert stage.uploader.calls == ["a", "b"]
        tries = stage.queue.calls.count("settle")
        assert tries > 5
        stage.queue.failing = None
        await stage.time.advance(30)
        assert stage.queue.states() == ["delivered", "delivered"]
        assert stage.uploader.calls == ["a", "b"]


async def test_a_failing_spool_bounds_what_may_be_sent_twice() -> None:
    """Deliveries are not sent on and on while none of them can be settled."""
    async with a_stage(core_slots=4) as stage:
        stage.queue.gate.clear()
        await stage.post_all(*names(MOST_UNSETTLED + 100))
        await turns(3000)
        assert MOST_UNSETTLED <= len(stage.uploader.given) <= MOST_UNSETTLED + 4
        stage.queue.gate.set()
        await turns(3000)
        assert len(stage.uploader.given) == MOST_UNSETTLED + 100


@pytest.mark.parametrize("failure", [SpoolUnavailable("disk"), ZeroDivisionError("a defect")])
async def test_a_spool_that_cannot_be_asked_is_asked_again(failure: Exception) -> None:
    """A backlog is found even if the spool fails to name it at first."""
    time = FakeTime()
    queue = MemoryQueue(time.clock)
    await queue.accept(a_post("a"))
    queue.failing = failure
    async with a_stage(queue=queue, time=time) as stage:
        queue.failing = None
        await time.advance(1)
        assert stage.uploader.calls == ["a"]


async def test_a_defect_in_the_observer_is_told_and_harms_nobody_else(capsys: pytest.CaptureFixture[str]) -> None:
    """An error outside the uploader is logged; its delivery stays claimed, and the lane goes on."""

    class Broken(Observed):
        def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
            if delivery.record.call_id == "a":
                raise ZeroDivisionError
            super().attempted(delivery, outcome, seconds)

    time = FakeTime()
    queue = MemoryQueue(time.clock)
    uploader = ToldUploader(time)
    plans = {"endpoint": DestinationPlan(uploader, POLICY, {Lane.CORE: 1, Lane.DETAIL: 1})}
    dispatcher = Dispatcher(queue, plans, time.clock, lambda: 0.5, Broken(), time)
    dispatcher.start()
    for call in ("a", "b"):
        dispatcher.offer((await queue.accept(a_post(call))).ready)
    await turns()
    assert queue.states() == ["ready", "delivered"]
    await dispatcher.stop(0)
    assert "ZeroDivisionError" in capsys.readouterr().out


async def test_stopping_waits_for_attempts_and_their_settlements() -> None:
    """What is under way is finished and written within the grace; nothing more is started."""
    async with a_stage() as stage:
        gate = Gate()
        stage.uploader.answer = gate
        await stage.post_all("a", "b")
        stopping = asyncio.create_task(stage.dispatcher.stop(30))
        await turns()
        assert not stopping.done()
        gate.open()
        await stopping
        assert stage.uploader.calls == ["a"]
        assert stage.queue.states() == ["delivered", "ready"]
        assert stage.uploader.closed


async def test_stopping_cancels_what_takes_longer_than_the_grace() -> None:
    """After the grace an attempt is cancelled; its delivery is still owed, uncounted."""
    async with a_stage() as stage:
        stage.uploader.answer = Gate()
        await stage.post_all("a")
        await stage.dispatcher.stop(0)
        assert stage.uploader.cancelled == 1
        assert stage.queue.states() == ["ready"]
        assert stage.queue.delivery(0).attempts == 0


async def test_stopping_ends_though_the_spool_refuses() -> None:
    """A spool that cannot settle does not hold up a stop beyond its grace; what was sent is still owed by its books."""
    async with a_stage() as stage:
        await stage.post_all("a")
        settled = stage.queue.calls.count("settle")
        stage.queue.failing = SpoolUnavailable("disk")
        stage.dispatcher.offer((await stage.queue.accept(a_post("b"))).ready)
        await turns()
        assert stage.uploader.calls == ["a", "b"]
        async with asyncio.timeout(30):
            await stage.dispatcher.stop(0)
        assert stage.queue.calls.count("settle") > settled
        assert stage.uploader.closed
        assert stage.queue.states() == ["delivered", "ready"]
