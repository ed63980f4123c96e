"""The dispatcher: what is due is sent once, in order, with bounded memory and bounded concurrency."""

from spool.records import Form, Lane, NewDelivery
from tests.uploaders.dispatcher_stage import (
    CORE,
    DETAIL,
    LONE_DETAIL,
    WHOLE,
    Gate,
    a_stage,
    names,
)
from tests.uploaders.fake_time import FakeTime, turns, turns_until
from tests.uploaders.memory_queue import MemoryQueue, a_post
from uploaders.base import Delivered, Refused, RetryLater
from uploaders.dispatch.lane import HIGH_WATER, PAGE


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
        await turns_until(lambda: len(stage.uploader.calls) >= len(calls))
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
        await stage.queue.make_due("endpoint", now=stage.time.now)
        await stage.post_all(*names(HIGH_WATER))
        assert stage.uploader.calls.count("a") == 1
        stage.queue.gate.set()
        await turns_until(lambda: len(stage.uploader.calls) > HIGH_WATER)
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


async def test_deliveries_of_unknown_destinations_are_left_alone() -> None:
    """What is owed to a destination that is no longer configured stays in the spool."""
    async with a_stage() as stage:
        await stage.post("a", NewDelivery("gone", Form.WHOLE, Lane.CORE))
        await turns()
        assert stage.queue.states("gone") == ["ready"]


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
        stage.queue.gate.clear()
        gate.open()
        await turns()
        assert not stage.dispatcher.core_idle()
        stage.queue.gate.set()
        await turns()
        assert stage.dispatcher.core_idle()


async def test_status_names_every_destination() -> None:
    """Each configured destination is reported with its type, whether it takes deliveries, and why not."""
    async with a_stage() as stage:
        endpoint, other = stage.dispatcher.status()
        assert (endpoint.name, endpoint.type, endpoint.up, endpoint.reason) == ("endpoint", "http", True, "")
        assert (other.name, other.type, other.configured, other.retry_at) == ("other", "file", True, None)
