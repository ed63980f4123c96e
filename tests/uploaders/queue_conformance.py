"""What every `Queue` must do: functions that take a fixture `queue`, to be imported into a test module beside it.

    from tests.uploaders.queue_conformance import *  # and a fixture `queue` that gives an empty AcceptingQueue

The queue's clock must read `NOW` or earlier, and stand still or run in real time: due times here lie far from now.
"""

from itertools import count
from typing import Protocol

from spool.records import (
    Accepted,
    BreakerSnapshot,
    BreakerUpdate,
    DeadLetter,
    Delivered,
    Delivery,
    Form,
    Fragment,
    Hold,
    Lane,
    NewDelivery,
    NewRecord,
    Redirect,
    RetryAt,
)
from uploaders.base import Queue

ENDPOINT, BUCKET = "endpoint", "bucket"
"""The destinations that the queue must know."""

NOW = 1_750_000_000_000
FAR = NOW + 3_600_000

_digests = count(1)


class AcceptingQueue(Queue, Protocol):
    """A queue that records can be put into."""

    async def accept(self, new: NewRecord) -> Accepted: ...


def a_post(call_id: str, *deliveries: NewDelivery, token: str | None = None) -> NewRecord:
    body = b'"call_id": "' + call_id.encode() + b'"'
    fragments = {Fragment.BASE: [body], Fragment.DERIVED: [b'"d":1'], Fragment.REST: [b'"r":1']}
    digest = next(_digests).to_bytes(32, "big")
    return NewRecord(call_id, "agent", "call_ended", None, digest, len(body) + 10, token, fragments, deliveries)


WHOLE = NewDelivery(ENDPOINT, Form.WHOLE, Lane.CORE)
CORE = NewDelivery(ENDPOINT, Form.CORE, Lane.CORE)
DETAIL = NewDelivery(ENDPOINT, Form.DETAIL, Lane.DETAIL)
OBJECT = NewDelivery(BUCKET, Form.DETAIL, Lane.DETAIL, ordered=False)
NOTICE = NewDelivery(ENDPOINT, Form.NOTICE, Lane.CORE, after=BUCKET)


async def due(queue: Queue, lane: Lane = Lane.CORE, *, destination: str = ENDPOINT, now: int = NOW) -> list[Delivery]:
    return list((await queue.due(destination, lane, now=now, limit=100)).deliveries)


def named(deliveries: list[Delivery] | tuple[Delivery, ...]) -> list[tuple[str, Form]]:
    return [(delivery.record.call_id, delivery.form) for delivery in deliveries]


async def test_due_is_in_commit_order_and_limited(queue: AcceptingQueue) -> None:
    """A page holds the oldest deliveries, at most `limit`, each of this destination and lane."""
    for number in range(5):
        await queue.accept(a_post(f"c{number}", CORE, DETAIL, OBJECT))
    page = await queue.due(ENDPOINT, Lane.CORE, now=NOW, limit=3)
    assert named(page.deliveries) == [(f"c{number}", Form.CORE) for number in range(3)]
    assert len(await due(queue)) == 5


async def test_what_was_accepted_is_told_as_ready(queue: AcceptingQueue) -> None:
    """`accept` returns exactly those of its deliveries that are due."""
    accepted = await queue.accept(a_post("c", CORE, DETAIL, OBJECT, NOTICE))
    assert sorted(named(accepted.ready)) == [("c", Form.CORE), ("c", Form.DETAIL)]
    assert {delivery.destination for delivery in accepted.ready} == {ENDPOINT, BUCKET}
    assert [delivery.key for delivery in await due(queue)] == [accepted.ready[0].key]


async def test_due_names_a_delivery_until_it_is_settled(queue: AcceptingQueue) -> None:
    """Being asked for changes nothing: claims are not the queue's."""
    await queue.accept(a_post("c", WHOLE))
    assert await due(queue) == await due(queue)
    (delivery,) = await due(queue)
    assert await queue.settle(delivery, Delivered()) == ()
    assert await due(queue) == []
    page = await queue.due(ENDPOINT, Lane.CORE, now=NOW, limit=10)
    assert page.next_due_at is None


async def test_a_postponed_delivery_is_due_at_its_time(queue: AcceptingQueue) -> None:
    """`RetryAt` names the next time, counts the attempt, and keeps when the first one failed."""
    await queue.accept(a_post("c", WHOLE))
    (delivery,) = await due(queue)
    assert (delivery.attempts, delivery.first_failed_at) == (0, None)
    assert await queue.settle(delivery, RetryAt(FAR, "500")) == ()
    page = await queue.due(ENDPOINT, Lane.CORE, now=NOW, limit=10)
    assert (page.deliveries, page.next_due_at) == ((), FAR)
    (again,) = await due(queue, now=FAR)
    assert (again.attempts, again.key) == (1, delivery.key)
    assert again.first_failed_at is not None
    await queue.settle(again, RetryAt(FAR + 1000, "500"))
    (third,) = await due(queue, now=FAR + 1000)
    assert (third.attempts, third.first_failed_at) == (2, again.first_failed_at)


async def test_an_uncounted_attempt_leaves_no_trace_but_its_time(queue: AcceptingQueue) -> None:
    """An attempt that says nothing about the record does not count against it."""
    await queue.accept(a_post("c", WHOLE))
    (delivery,) = await due(queue)
    await queue.settle(delivery, RetryAt(FAR, "429", counted=False))
    assert await due(queue) == []
    (again,) = await due(queue, now=FAR)
    assert (again.attempts, again.first_failed_at) == (0, None)


async def test_what_waits_for_its_destination_can_be_made_due(queue: AcceptingQueue) -> None:
    """`make_due` ends the waiting of one destination's deliveries in both lanes, and of no other's."""
    await queue.accept(a_post("a", WHOLE))
    await queue.accept(a_post("b", OBJECT))
    for destination, lane in ((ENDPOINT, Lane.CORE), (BUCKET, Lane.DETAIL)):
        (delivery,) = await due(queue, lane, destination=destination)
        await queue.settle(delivery, RetryAt(FAR, "503", counted=False, for_destination=True))
    await queue.make_due(ENDPOINT, now=NOW)
    assert named(await due(queue)) == [("a", Form.WHOLE)]
    assert await due(queue, Lane.DETAIL, destination=BUCKET) == []


async def test_what_was_deferred_for_a_reason_of_its_own_keeps_its_time(queue: AcceptingQueue) -> None:
    """`make_due` leaves that alone; a later deferral decides, not an earlier one."""
    for call_id in ("own", "own after all", "the destination's after all"):
        await queue.accept(a_post(call_id, WHOLE))
    for delivery, reasons in zip(await due(queue), ([False], [True, False], [False, True]), strict=True):
        for for_destination in reasons:
            await queue.settle(delivery, RetryAt(FAR, "503", for_destination=for_destination))
    await queue.make_due(ENDPOINT, now=NOW)
    assert named(await due(queue)) == [("the destination's after all", Form.WHOLE)]
    assert len(await due(queue, now=FAR)) == 3


async def test_cores_of_a_call_go_one_after_the_other(queue: AcceptingQueue) -> None:
    """The second core of a call is freed by the end of the first; other calls do not wait."""
    for call_id in ("c", "c", "other"):
        await queue.accept(a_post(call_id, WHOLE))
    first, other = await due(queue)
    assert named([first, other]) == [("c", Form.WHOLE), ("other", Form.WHOLE)]
    assert await queue.settle(first, RetryAt(FAR, "500")) == ()
    assert named(await due(queue)) == [("other", Form.WHOLE)]
    (first,) = [delivery for delivery in await due(queue, now=FAR) if delivery.key == first.key]
    freed = await queue.settle(first, Delivered())
    assert named(freed) == [("c", Form.WHOLE)]
    assert freed[0].record.record_id > first.record.record_id


async def test_a_detail_waits_for_its_core_and_earlier_details(queue: AcceptingQueue) -> None:
    """A detail is freed by its own core and the earlier details of its call."""
    await queue.accept(a_post("c", CORE, DETAIL))
    await queue.accept(a_post("c", CORE, DETAIL))
    (core,) = await due(queue)
    assert await due(queue, Lane.DETAIL) == []
    freed = await queue.settle(core, Delivered())
    assert sorted(named(freed)) == [("c", Form.CORE), ("c", Form.DETAIL)]
    (second_core,) = await due(queue)
    assert await queue.settle(second_core, Delivered()) == ()
    (first_detail,) = await due(queue, Lane.DETAIL)
    assert first_detail.record.record_id == core.record.record_id
    assert named(await queue.settle(first_detail, Delivered())) == [("c", Form.DETAIL)]


async def test_a_core_never_waits_for_a_detail(queue: AcceptingQueue) -> None:
    """However long a detail takes, the next core of its call goes at once."""
    await queue.accept(a_post("c", CORE, DETAIL))
    (core,) = await due(queue)
    await queue.settle(core, Delivered())
    accepted = await queue.accept(a_post("c", WHOLE))
    assert named(accepted.ready) == [("c", Form.WHOLE)]


async def test_a_core_never_waits_for_the_notice_of_an_object(queue: AcceptingQueue) -> None:
    """A notice waits for its object, but the next core of the call does not wait for the notice."""
    await queue.accept(a_post("c", CORE, OBJECT, NOTICE))
    (core,) = await due(queue)
    await queue.settle(core, Delivered())
    accepted = await queue.accept(a_post("c", WHOLE))
    assert named(accepted.ready) == [("c", Form.WHOLE)]


async def test_a_dead_core_frees_the_next_and_holds_its_detail(queue: AcceptingQueue) -> None:
    """A dead letter blocks nobody, but its own detail does not go without it."""
    await queue.accept(a_post("c", CORE, DETAIL))
    await queue.accept(a_post("c", CORE, DETAIL))
    (core,) = await due(queue)
    freed = await queue.settle(core, DeadLetter("400"))
    assert named(freed) == [("c", Form.CORE)]
    assert await due(queue, Lane.DETAIL) == []
    assert named(await queue.settle(freed[0], Delivered())) == [("c", Form.DETAIL)]
    assert await queue.held_tokens(ENDPOINT) == ()


async def test_a_notice_waits_for_its_object_and_its_core(queue: AcceptingQueue) -> None:
    """A notice is freed by the later of the two, and knows where the object lies."""
    await queue.accept(a_post("c", CORE, OBJECT, NOTICE))
    (core,) = await due(queue)
    (upload,) = await due(queue, Lane.DETAIL, destination=BUCKET)
    assert await queue.settle(upload, Delivered("s3://bucket/key")) == ()
    freed = await queue.settle(core, Delivered())
    assert named(freed) == [("c", Form.NOTICE)]
    assert freed[0].location == "s3://bucket/key"
    assert [delivery.location for delivery in await due(queue)] == ["s3://bucket/key"]


async def test_objects_wait_for_nothing(queue: AcceptingQueue) -> None:
    """Deliveries that are not ordered are all due at once."""
    for _ in range(3):
        await queue.accept(a_post("c", OBJECT))
    assert len(await due(queue, Lane.DETAIL, destination=BUCKET)) == 3


async def test_a_held_delivery_is_freed_by_its_token_alone(queue: AcceptingQueue) -> None:
    """`release` frees what `Hold` set aside for the same token, the oldest first, and nothing else."""
    for number, token in enumerate(("one", "one", "two", None)):
        await queue.accept(a_post(f"c{number}", WHOLE, token=token))
    deliveries = await due(queue)
    for delivery in deliveries:
        assert await queue.settle(delivery, Hold("401", delivery.record.token_id)) == ()
    assert await due(queue) == []
    one, _, two, none = [delivery.record.token_id for delivery in deliveries]
    assert none is None
    assert set(await queue.held_tokens(ENDPOINT)) == {one, two, None}
    assert await queue.held_tokens(BUCKET) == ()
    assert named(await queue.release(ENDPOINT, one, limit=1)) == [("c0", Form.WHOLE)]
    assert named(await queue.release(ENDPOINT, two)) == [("c2", Form.WHOLE)]
    assert await queue.release(ENDPOINT, two) == ()
    assert named(await due(queue)) == [("c0", Form.WHOLE), ("c2", Form.WHOLE)]
    assert set(await queue.held_tokens(ENDPOINT)) == {one, None}
    await queue.release(ENDPOINT, one)
    await queue.release(ENDPOINT, None)
    assert len(await due(queue)) == 4
    assert await queue.held_tokens(ENDPOINT) == ()


async def test_a_held_core_keeps_its_place(queue: AcceptingQueue) -> None:
    """What waits for a held delivery of its call goes on waiting: held is not dead."""
    await queue.accept(a_post("c", CORE, DETAIL, token="t"))
    await queue.accept(a_post("c", WHOLE, token="t"))
    (core,) = await due(queue)
    await queue.settle(core, Hold("401", core.record.token_id))
    assert await due(queue) == []
    (freed,) = await queue.release(ENDPOINT, core.record.token_id)
    assert sorted(named(await queue.settle(freed, Delivered()))) == [("c", Form.DETAIL), ("c", Form.WHOLE)]


async def test_settling_twice_changes_nothing(queue: AcceptingQueue) -> None:
    """An operator may have been faster: settling what has ended is harmless."""
    await queue.accept(a_post("c", WHOLE))
    (delivery,) = await due(queue)
    await queue.settle(delivery, Delivered())
    assert await queue.settle(delivery, RetryAt(NOW, "500")) == ()
    assert await queue.settle(delivery, DeadLetter("400")) == ()
    assert await due(queue, now=FAR) == []


async def test_what_is_diverted_goes_on_in_its_new_form(queue: AcceptingQueue) -> None:
    """The deliveries that take another one's place are due in it, in their order, and each once."""
    await queue.accept(a_post("c", CORE, DETAIL))
    await queue.accept(a_post("c", CORE, DETAIL))
    for _ in range(2):
        (core,) = await due(queue)
        await queue.settle(core, Delivered())
    (detail,) = await due(queue, Lane.DETAIL)
    reduced = Redirect("413", (NewDelivery(ENDPOINT, Form.REDUCED, Lane.DETAIL),), keep=True)
    assert named(await queue.settle(detail, reduced)) == [("c", Form.REDUCED)]
    assert await queue.settle(detail, reduced) == ()
    (smaller,) = await due(queue, Lane.DETAIL)
    (second,) = await queue.settle(smaller, Delivered())
    assert second.record.record_id != detail.record.record_id


async def test_what_is_diverted_to_a_bucket_is_followed_by_its_notice(queue: AcceptingQueue) -> None:
    """A detail that goes on as an object is owed to its destination no more, but the notice of the object is."""
    await queue.accept(a_post("c", CORE, DETAIL))
    (core,) = await due(queue)
    (detail,) = await queue.settle(core, Delivered())
    (in_bucket,) = await queue.settle(detail, Redirect("413", (OBJECT, NOTICE), keep=False))
    assert (in_bucket.destination, in_bucket.form) == (BUCKET, Form.DETAIL)
    assert await due(queue) + await due(queue, Lane.DETAIL) == []
    (notice,) = await queue.settle(in_bucket, Delivered("s3://bucket/key"))
    assert (notice.form, notice.location) == (Form.NOTICE, "s3://bucket/key")


async def test_an_open_breaker_is_kept(queue: AcceptingQueue) -> None:
    """What was kept last about a destination is read, apart from that of others; closed is nothing."""
    first = BreakerSnapshot("backing_off", "HTTP 503", NOW, NOW + 5, 0)
    second = BreakerSnapshot("paused", 'it said "no"', NOW, FAR, 3)
    for breaker in (first, second):
        await queue.uploader_state.keep_breaker(ENDPOINT, breaker)
    assert await queue.uploader_state.read_breaker(ENDPOINT) == second
    assert await queue.uploader_state.read_breaker(BUCKET) is None
    await queue.uploader_state.keep_breaker(ENDPOINT, None)
    assert await queue.uploader_state.read_breaker(ENDPOINT) is None


async def test_a_breaker_is_written_with_a_settlement(queue: AcceptingQueue) -> None:
    """What a settlement says of its destination's breaker is kept with it; one that says nothing leaves it."""
    opened = BreakerSnapshot("backing_off", "HTTP 503", NOW, NOW + 5, 0)
    (first,) = (await queue.accept(a_post("a", WHOLE))).ready
    (second,) = (await queue.accept(a_post("b", WHOLE))).ready
    await queue.settle(first, RetryAt(FAR, "HTTP 503"), BreakerUpdate(opened))
    await queue.settle(second, RetryAt(FAR, "HTTP 503"))
    assert await queue.uploader_state.read_breaker(ENDPOINT) == opened
    await queue.settle(first, Delivered(), BreakerUpdate(None))
    assert await queue.uploader_state.read_breaker(ENDPOINT) is None


async def test_dead_letters_of_a_streak_come_back(queue: AcceptingQueue) -> None:
    """`revive` puts back what died since a time for a reason that is picked, of one destination, in its order."""
    for number in range(3):
        await queue.accept(a_post(f"c{number}", WHOLE))
    await queue.accept(a_post("object", OBJECT))
    for delivery, reason in zip(await due(queue), ("HTTP 404", "HTTP 413: too large", "HTTP 404"), strict=True):
        await queue.settle(delivery, DeadLetter(reason))
    (in_bucket,) = await due(queue, Lane.DETAIL, destination=BUCKET)
    await queue.settle(in_bucket, DeadLetter("HTTP 404"))
    assert await queue.revive(ENDPOINT, since=FAR * 2, refused=lambda _: True) == ()
    revived = await queue.revive(ENDPOINT, since=0, refused=lambda reason: "404" in reason)
    assert named(revived) == [("c0", Form.WHOLE), ("c2", Form.WHOLE)]
    assert [delivery.key for delivery in await due(queue, now=FAR)] == [delivery.key for delivery in revived]
    assert all((one.attempts, one.first_failed_at) == (0, None) for one in revived)
    assert await due(queue, Lane.DETAIL, destination=BUCKET, now=FAR) == []
