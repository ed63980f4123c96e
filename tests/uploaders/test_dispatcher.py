import asyncio
import time as wall
from collections.abc import Iterable

import pytest

from spool.errors import CorruptPayload, SpoolUnavailable
from spool.records import Delivery, Form, Lane, NewDelivery
from tests.uploaders.dispatching import (
    CORE,
    DETAIL,
    LONE_DETAIL,
    POLICY,
    WHOLE,
    Gate,
    Observed,
    ToldUploader,
    a_stage,
)
from tests.uploaders.fake_time import FakeTime, turns
from tests.uploaders.memory_queue import MemoryQueue, a_post
from uploaders.dispatcher import DestinationPlan, Dispatcher
from uploaders.due_buffer import HIGH_WATER, PAGE
from uploaders.lane import MOST_UNSETTLED
from uploaders.uploader import Delivered, Outcome, Refused, RetryLater, Scope


def names(count: int, start: int = 0) -> list[str]:
    return [f"c{number:04}" for number in range(start, start + count)]


async def test_an_offered_delivery_is_sent_without_asking_the_spool() -> None:
    """Once the spool is known to have nothing more, a post goes from its commit to its uploader in memory."""
    async with a_stage() as stage:
        asked = stage.queue.calls.count("due")
        await stage.post_all("a", "b", "c")
        assert stage.uploader.calls == ["a", "b", "c"]
        assert stage.queue.states() == ["delivered"] * 3
        assert stage.queue.calls.count("due") == asked
        assert stage.observed.attempts == ["delivered"] * 3


async def test_what_the_spool_has_is_sent_from_the_start() -> None:
    """A backlog of more than one page is delivered in commit order, each once, after a restart."""
    time = FakeTime()
    queue = MemoryQueue(time.clock)
    calls = names(3 * PAGE + 7)
    for call in calls:
        await queue.accept(a_post(call))
    async with a_stage(queue=queue, time=time) as stage:
        await turns(8000)
        assert stage.uploader.calls == calls
        assert set(queue.states()) == {"delivered"}


async def test_offers_beyond_memory_are_left_to_the_spool() -> None:
    """A backlog costs bounded memory, and nothing of it is forgotten."""
    async with a_stage() as stage:
        gate = Gate()
        stage.uploader.answer = gate
        calls = names(HIGH_WATER + 300)
        await stage.post_all(*calls)
        gate.open()
        await turns(20_000)
        assert stage.uploader.calls == calls


async def test_each_lane_has_its_own_slots() -> None:
    """Attempts at the same time never exceed a lane's slots, and details take none of the cores'."""
    async with a_stage(core_slots=3, detail_slots=2) as stage:
        gate = Gate()
        stage.uploader.answer = gate
        for call in names(10):
            await stage.post(call, WHOLE)
            await stage.post(f"{call}-detail", LONE_DETAIL)
        await turns()
        assert stage.uploader.running == {Lane.CORE: 3, Lane.DETAIL: 2}
        assert stage.dispatcher.status()[0].in_flight == {Lane.CORE: 3, Lane.DETAIL: 2}
        gate.open()
        await turns(500)
        assert stage.uploader.most == {Lane.CORE: 3, Lane.DETAIL: 2}
        assert set(stage.queue.states()) == {"delivered"}


async def test_a_detail_follows_its_core_at_once() -> None:
    """What a settlement frees is sent without waiting for any clock."""
    async with a_stage() as stage:
        await stage.post("a", CORE, DETAIL)
        await turns()
        assert [delivery.form for delivery in stage.uploader.given] == [Form.CORE, Form.DETAIL]
        assert set(stage.uploader.times) == {stage.time.now}


async def test_what_one_destination_frees_at_another_is_sent() -> None:
    """A notice at the endpoint is freed by its object elsewhere, and knows its location."""
    async with a_stage() as stage:
        stage.other.answer = Delivered("s3://bucket/key")
        await stage.post(
            "a",
            NewDelivery("endpoint", Form.NOTICE, Lane.CORE, after="other"),
            NewDelivery("other", Form.DETAIL, Lane.DETAIL, ordered=False),
        )
        await turns()
        assert [(delivery.form, delivery.location) for delivery in stage.uploader.given] == [
            (Form.NOTICE, "s3://bucket/key")
        ]


async def test_a_slot_is_free_as_soon_as_its_attempt_ended() -> None:
    """Settlements are written while the next attempts run, so that many share a commit."""
    async with a_stage(core_slots=1) as stage:
        stage.queue.gate.clear()
        await stage.post_all(*names(20))
        assert len(stage.uploader.given) == 20
        assert stage.queue.states() == ["ready"] * 20
        stage.queue.gate.set()
        await turns()
        assert stage.queue.states() == ["delivered"] * 20


async def test_a_claim_lasts_until_its_settlement_is_durable() -> None:
    """While its settlement is being written, a delivery that is offered again or found again is not sent again."""
    async with a_stage() as stage:
        stage.queue.gate.clear()
        await stage.post_all("a")
        stage.dispatcher.offer([stage.queue.delivery(0)])
        await stage.queue.wake("endpoint", now=stage.time.now)
        await stage.post_all(*names(HIGH_WATER))
        assert stage.uploader.calls.count("a") == 1
        stage.queue.gate.set()
        await turns(20_000)
        assert stage.uploader.calls.count("a") == 1


async def test_a_page_that_was_read_before_a_settlement_does_not_bring_it_back() -> None:
    """A delivery settled while a page is on its way from the spool is not sent again for being in that page."""
    time = FakeTime()
    queue = MemoryQueue(time.clock)
    for call in names(PAGE + 10):
        await queue.accept(a_post(call))
    async with a_stage(queue=queue, time=time) as stage:
        gate = Gate()
        stage.uploader.answer = gate
        queue.due_gate.clear()
        gate.open()
        await turns(3000)
        assert len(stage.uploader.given) >= PAGE
        queue.due_gate.set()
        await turns(3000)
        assert stage.uploader.calls == names(PAGE + 10)


async def test_a_failed_delivery_is_tried_again_at_its_time_and_not_before() -> None:
    """A retry waits for its jittered, doubling time, without the spool being polled in between."""
    async with a_stage() as stage:
        stage.uploader.answer = RetryLater("HTTP 500")
        await stage.post_all("a")
        start = stage.time.now
        await stage.time.advance(0.499)
        assert len(stage.uploader.given) == 1
        asked = stage.queue.calls.count("due")
        await stage.time.advance(0.001)
        assert stage.queue.calls.count("due") == asked + 1
        await stage.time.advance(3.1)
        assert [(when - start) / 1000 for when in stage.uploader.times] == [0, 0.5, 1.5, 3.5]
        assert stage.queue.delivery(0).attempts == 4
        assert stage.observed.attempts == ["retry"] * 4


async def test_nothing_to_do_sets_no_timer() -> None:
    """An idle dispatcher wakes for nothing."""
    async with a_stage() as stage:
        await stage.post_all("a")
        assert stage.time.pending == []


async def test_a_record_that_alone_fails_for_a_day_becomes_a_dead_letter() -> None:
    """Given up only where the destination took others since the first failure."""
    async with a_stage() as stage:
        stage.uploader.answer = lambda d: RetryLater("HTTP 500") if d.record.call_id == "bad" else Delivered()
        await stage.post_all("bad")
        await stage.time.advance(25 * 3600)
        assert stage.queue.states() == ["ready"]
        await stage.post_all("good")
        await stage.time.advance(600)
        assert stage.queue.states() == ["dead", "delivered"]
        assert str(stage.queue.errors()[0]).startswith("given up after 2")


async def test_a_refused_record_is_a_dead_letter_and_blocks_nobody() -> None:
    """One bad record is set aside with its reason; the others pass."""
    async with a_stage() as stage:
        stage.uploader.answer = lambda d: Refused("HTTP 422: bad") if d.record.call_id == "bad" else Delivered()
        await stage.post_all("bad", "a", "b")
        assert stage.queue.states() == ["dead", "delivered", "delivered"]
        assert stage.queue.errors()[0] == "HTTP 422: bad"
        assert stage.observed.changes == []


async def test_an_unreadable_payload_is_a_dead_letter() -> None:
    """A corrupt payload is set aside with its reason, and says nothing about the destination."""

    def corrupt(_delivery: Delivery) -> Outcome:
        raise CorruptPayload("chunk 7 is missing")

    async with a_stage() as stage:
        stage.uploader.answer = corrupt
        await stage.post_all(*names(30))
        assert set(stage.queue.states()) == {"dead"}
        assert set(stage.queue.errors()) == {"chunk 7 is missing"}
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


async def test_a_spool_that_cannot_settle_causes_no_second_delivery() -> None:
    """While the spool refuses to settle, the delivery stays claimed; it is settled when the spool works again."""
    async with a_stage() as stage:
        await stage.post_all("a")
        stage.queue.failing = SpoolUnavailable("disk")
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


async def test_a_spool_that_cannot_be_asked_is_asked_again() -> None:
    """A backlog is found even if the spool refuses to name it at first."""
    time = FakeTime()
    queue = MemoryQueue(time.clock)
    await queue.accept(a_post("a"))
    queue.failing = SpoolUnavailable("disk")
    async with a_stage(queue=queue, time=time) as stage:
        queue.failing = None
        await time.advance(1)
        assert stage.uploader.calls == ["a"]


async def test_deliveries_of_unknown_destinations_are_left_alone() -> None:
    """What is owed to a destination that is no longer configured stays in the spool."""
    async with a_stage() as stage:
        await stage.post("a", NewDelivery("gone", Form.WHOLE, Lane.CORE))
        await turns()
        assert stage.queue.states("gone") == ["ready"]


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
    """A spool that cannot settle does not hold up a stop beyond its grace."""
    async with a_stage() as stage:
        await stage.post_all("a")
        stage.queue.failing = SpoolUnavailable("disk")
        stage.dispatcher.offer([stage.queue.delivery(0)])
        await turns()
        async with asyncio.timeout(5):
            await stage.dispatcher.stop(0)


async def test_core_idle_follows_the_core_lane_alone() -> None:
    """Cores under way, being settled or due count; details do not; a closed destination cannot be drained."""
    async with a_stage() as stage:
        assert stage.dispatcher.core_idle()
        gate = Gate()
        stage.uploader.answer = gate
        await stage.post("d", LONE_DETAIL)
        await turns()
        assert stage.dispatcher.core_idle()
        await stage.post("a")
        assert not stage.dispatcher.core_idle()
        await turns()
        draining = asyncio.create_task(stage.dispatcher.drain_core())
        await turns()
        assert not draining.done()
        stage.queue.gate.clear()
        gate.open()
        await turns()
        assert not stage.dispatcher.core_idle()
        stage.queue.gate.set()
        await asyncio.wait_for(draining, 5)
        assert stage.dispatcher.core_idle()


async def test_status_names_every_destination() -> None:
    """Each configured destination is reported with its type, whether it takes deliveries, and why not."""
    async with a_stage() as stage:
        endpoint, other = stage.dispatcher.status()
        assert (endpoint.name, endpoint.type, endpoint.up, endpoint.reason) == ("endpoint", "http", True, "")
        assert (other.name, other.type, other.configured, other.retry_at) == ("other", "file", True, None)


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


class InstantQueue:
    """A queue whose spool is always empty and settles at once: what is left is the dispatcher's own cost."""

    def __init__(self) -> None:
        self.settled = 0
        self.done = asyncio.Event()
        self.expected = 0

    async def due(self, *_: object, **__: object) -> object:
        from spool.records import Due

        return Due((), None)

    async def held_tokens(self, _destination: str) -> tuple[int | None, ...]:
        return ()

    async def settle(self, _delivery: Delivery, _settlement: object) -> tuple[Delivery, ...]:
        self.settled += 1
        if self.settled == self.expected:
            self.done.set()
        return ()


@pytest.mark.slow
async def test_thousands_of_small_deliveries_a_second() -> None:
    """The dispatcher's own cost allows 3,000 small deliveries a second on one core, with room to spare."""

    class Trivial:
        async def deliver(self, _delivery: Delivery) -> Outcome:
            return Delivered()

        async def close(self) -> None:
            pass

    memory = MemoryQueue(lambda: 0)
    deliveries: list[Delivery] = []
    for call in names(HIGH_WATER):
        await memory.accept(a_post(call))
    deliveries = [entry.delivery for entry in memory.entries.values()]
    queue = InstantQueue()
    plan = DestinationPlan(Trivial(), POLICY, {Lane.CORE: 16, Lane.DETAIL: 1})
    dispatcher = Dispatcher(queue, {"endpoint": plan}, lambda: 0, lambda: 0.5, Observed(), FakeTime(0))  # type: ignore[arg-type]  # two of its calls are never made
    dispatcher.start()
    await turns()
    best = 0.0
    for _ in range(3):
        best = max(best, await _rate(queue, dispatcher, deliveries))
    await dispatcher.stop(0)
    assert best > 3000, f"{best:.0f} deliveries a second"


async def _rate(queue: InstantQueue, dispatcher: Dispatcher, deliveries: Iterable[Delivery]) -> float:
    many = list(deliveries)
    queue.expected = queue.settled + len(many)
    queue.done.clear()
    started = wall.perf_counter()
    dispatcher.offer(many)
    await asyncio.wait_for(queue.done.wait(), 30)
    return len(many) / (wall.perf_counter() - started)
