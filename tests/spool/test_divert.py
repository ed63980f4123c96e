"""What a destination refuses goes on elsewhere in one transaction; nothing is owed twice, and nothing is forgotten."""

from itertools import product
from pathlib import Path

import pytest

from spool.queue.maintenance import unaccounted
from spool.records import (
    DeadLetter,
    Delivered,
    Delivery,
    DeliveryKey,
    DeliveryState,
    Form,
    Lane,
    NewDelivery,
    Redirect,
    RetryAt,
)
from spool.stats import LaneCounts
from spool.store import Spool
from tests.spool.spool_parts import (
    BUCKET,
    CORE,
    DETAIL,
    ENDPOINT,
    NOTICE,
    NOW,
    OBJECT,
    WHOLE,
    Clock,
    a_record,
    dead,
    discard,
    due,
    opened,
    replay,
    split_fragments,
    states,
    traced,
)

REDUCED = NewDelivery(ENDPOINT, Form.REDUCED, Lane.DETAIL)
UPLOAD = NewDelivery(ENDPOINT, Form.WHOLE, Lane.DETAIL)

TO_REDUCED = Redirect("413", (REDUCED,), keep=True)
TO_UPLOAD = Redirect("413", (UPLOAD,), keep=False)
TO_BUCKET = Redirect("413", (OBJECT, NOTICE), keep=False)

READY, WAITING, HELD, DEAD, DELIVERED = (
    DeliveryState.READY,
    DeliveryState.WAITING,
    DeliveryState.HELD,
    DeliveryState.DEAD,
    DeliveryState.DELIVERED,
)


async def a_detail(spool: Spool, *others: NewDelivery, call_id: str = "call") -> Delivery:
    """A detail that may be sent, its core delivered."""
    await spool.accept(a_record(call_id, CORE, DETAIL, *others, fragments=split_fragments()))
    (core,) = [one for one in await due(spool) if one.record.call_id == call_id]
    await spool.settle(core, Delivered())
    return [one for one in await due(spool, Lane.DETAIL) if one.record.call_id == call_id][-1]


async def by_form(spool: Spool, call_id: str = "call") -> dict[tuple[str, Form], DeliveryState]:
    return {(one.destination, one.form): one.state for one in await traced(spool, call_id)}


async def assert_accounted(spool: Spool) -> None:
    """By the counters themselves, and by counting what is there."""
    assert {counts.unaccounted for counts in spool.stats().lanes.values()} <= {0}
    assert unaccounted(await spool.reader.recount()) == 0


def counts(spool: Spool, lane: Lane = Lane.DETAIL, destination: str = ENDPOINT) -> LaneCounts:
    return spool.stats().lanes[destination, lane]


async def test_the_refused_detail_is_kept_and_a_reduced_one_owed(spool: Spool) -> None:
    """With `keep` the refused delivery becomes a dead letter with its reason, and the new one may be sent at once."""
    detail = await a_detail(spool)
    (reduced,) = await spool.settle(detail, TO_REDUCED)
    assert (reduced.form, reduced.lane, reduced.attempts) == (Form.REDUCED, Lane.DETAIL, 0)
    assert reduced.idempotency_key != detail.idempotency_key
    assert await by_form(spool) == {
        (ENDPOINT, Form.CORE): DELIVERED, (ENDPOINT, Form.DETAIL): DEAD, (ENDPOINT, Form.REDUCED): READY,
    }  # fmt: skip
    (letter,) = await dead(spool, ENDPOINT, limit=9)
    assert (letter.delivery.form, letter.delivery.error) == (Form.DETAIL, "413")
    await spool.settle(reduced, Delivered())
    assert counts(spool) == LaneCounts(owed=2, dead=1, delivered=1)
    await assert_accounted(spool)


async def test_the_payload_stays_while_the_full_detail_is_a_dead_letter(spool: Spool) -> None:
    """After the reduced detail was delivered the full one can be sent again; it ends the record."""
    detail = await a_detail(spool)
    (reduced,) = await spool.settle(detail, TO_REDUCED)
    await spool.settle(reduced, Delivered())
    (again,) = await replay(spool, [detail.key])
    assert [frame async for frame in spool.frames(again.record, next(iter(again.record.fragments)))]
    await spool.settle(again, Delivered())
    (record,) = await spool.trace("call")
    assert record.settled_at is not None
    await assert_accounted(spool)


async def test_an_upload_takes_the_place_of_a_detail(spool: Spool) -> None:
    """Without `keep` the refused delivery is owed no more, and the new one alone is."""
    detail = await a_detail(spool)
    (upload,) = await spool.settle(detail, TO_UPLOAD)
    assert await by_form(spool) == {(ENDPOINT, Form.CORE): DELIVERED, (ENDPOINT, Form.WHOLE): READY}
    assert counts(spool) == LaneCounts(owed=1, ready=1, queued_bytes=detail.record.bytes_of(Form.WHOLE))
    await assert_accounted(spool)
    await spool.settle(upload, Delivered())
    (record,) = await spool.trace("call")
    assert record.settled_at is not None
    assert counts(spool) == LaneCounts(owed=1, delivered=1)


async def test_a_whole_goes_on_in_the_other_lane(spool: Spool) -> None:
    """A whole keeps its key but not its lane; settling it a second time in the old lane does nothing."""
    accepted = await spool.accept(a_record("call", WHOLE))
    (whole,) = accepted.ready
    (upload,) = await spool.settle(whole, TO_UPLOAD)
    assert (upload.key, upload.lane) == (whole.key, Lane.DETAIL)
    assert await spool.settle(whole, TO_UPLOAD) == ()
    assert await due(spool, Lane.DETAIL) == [upload]
    assert counts(spool, Lane.CORE) == LaneCounts()
    await assert_accounted(spool)


async def test_an_object_is_owed_to_the_bucket_and_a_notice_waits_for_it(spool: Spool) -> None:
    """The detail moves from the endpoint's account to the bucket's; the notice is sent after the object, not before."""
    detail = await a_detail(spool)
    (in_bucket,) = await spool.settle(detail, TO_BUCKET)
    assert (in_bucket.destination, in_bucket.form) == (BUCKET, Form.DETAIL)
    assert (await by_form(spool))[ENDPOINT, Form.NOTICE] is WAITING
    assert counts(spool) == LaneCounts()
    await assert_accounted(spool)
    (notice,) = await spool.settle(in_bucket, Delivered("s3://bucket/key"))
    assert (notice.form, notice.location) == (Form.NOTICE, "s3://bucket/key")


@pytest.mark.parametrize(
    ("ending", "expected"), [(Delivered("s3://bucket/key"), READY), (DeadLetter("no such bucket"), HELD)]
)
async def test_an_object_that_is_owed_already_is_not_owed_twice(
    spool: Spool, ending: Delivered | DeadLetter, expected: DeliveryState
) -> None:
    """Where the bucket has the detail by other means only the notice is added, placed by how that object ended."""
    detail = await a_detail(spool, OBJECT)
    (in_bucket,) = await due(spool, Lane.DETAIL, destination=BUCKET)
    await spool.settle(in_bucket, ending)
    ready = await spool.settle(detail, TO_BUCKET)
    assert [one.location for one in ready] == (["s3://bucket/key"] if expected is READY else [])
    assert (await by_form(spool))[ENDPOINT, Form.NOTICE] is expected
    assert counts(spool, destination=BUCKET).owed == 1
    assert await spool.held_tokens(ENDPOINT) == ()
    await assert_accounted(spool)


@pytest.mark.parametrize(("divert", "times"), list(product((TO_REDUCED, TO_UPLOAD, TO_BUCKET), (2, 3))))
async def test_diverting_again_does_nothing(spool: Spool, divert: Redirect, times: int) -> None:
    """An attempt whose end is written more than once diverts once."""
    detail = await a_detail(spool)
    first = await spool.settle(detail, divert)
    once = await by_form(spool)
    for _ in range(times - 1):
        assert await spool.settle(detail, divert) == ()
    assert first
    assert await by_form(spool) == once
    await assert_accounted(spool)


async def test_a_dead_letter_refused_again_diverts_no_second_time(spool: Spool) -> None:
    """A full detail that is sent again and refused again is a dead letter again; the reduced one stays as it was."""
    detail = await a_detail(spool)
    (reduced,) = await spool.settle(detail, TO_REDUCED)
    await spool.settle(reduced, Delivered())
    (again,) = await replay(spool, [detail.key])
    assert await spool.settle(again, TO_REDUCED) == ()
    assert await by_form(spool) == {
        (ENDPOINT, Form.CORE): DELIVERED, (ENDPOINT, Form.DETAIL): DEAD, (ENDPOINT, Form.REDUCED): DELIVERED,
    }  # fmt: skip
    await assert_accounted(spool)


@pytest.mark.parametrize("divert", [TO_REDUCED, TO_UPLOAD, TO_BUCKET])
async def test_what_an_operator_gave_up_is_not_diverted(spool: Spool, divert: Redirect) -> None:
    """An order during the attempt wins over its end."""
    detail = await a_detail(spool, NewDelivery(BUCKET, Form.CORE, Lane.CORE, ordered=False))
    await discard(spool, [detail.key])
    before = await by_form(spool)
    assert await spool.settle(detail, divert) == ()
    assert await by_form(spool) == before
    await assert_accounted(spool)


@pytest.mark.parametrize(("divert", "later"), [(TO_REDUCED, WAITING), (TO_UPLOAD, WAITING), (TO_BUCKET, READY)])
async def test_later_details_wait_for_what_goes_to_the_same_lane(
    spool: Spool, divert: Redirect, later: DeliveryState
) -> None:
    """What takes the place of a detail keeps its turn in the call; an object in a bucket keeps nobody waiting."""
    detail = await a_detail(spool)
    await spool.accept(a_record("call", DETAIL, fragments=split_fragments()))
    freed = await spool.settle(detail, divert)
    later_record = detail.record.record_id + 1
    assert [one.form for one in freed if one.record.record_id == later_record] == [Form.DETAIL] * (later is READY)
    assert (await states(spool))[-1] is later
    await assert_accounted(spool)


async def test_what_takes_its_place_waits_its_turn(spool: Spool) -> None:
    """A whole that moves into the detail lane waits for what was accepted earlier for the call."""
    first = await a_detail(spool)
    (whole,) = (await spool.accept(a_record("call", WHOLE))).ready
    assert await spool.settle(whole, TO_UPLOAD) == ()
    assert (await states(spool))[-1] is WAITING
    (upload,) = await spool.settle(first, Delivered())
    assert (upload.key, upload.lane) == (whole.key, Lane.DETAIL)
    await assert_accounted(spool)


async def test_a_reduced_detail_waits_for_its_core(spool: Spool) -> None:
    """Where details are always reduced, they wait for their own core and are held with a dead one, as full ones are."""
    (core,) = (await spool.accept(a_record("call", CORE, REDUCED, fragments=split_fragments()))).ready
    assert (await by_form(spool))[ENDPOINT, Form.REDUCED] is WAITING
    await spool.settle(core, DeadLetter("400"))
    assert (await by_form(spool))[ENDPOINT, Form.REDUCED] is HELD
    (again,) = await replay(spool, [core.key])
    (reduced,) = await spool.settle(again, Delivered())
    assert reduced.form is Form.REDUCED


@pytest.mark.parametrize("divert", [TO_REDUCED, TO_UPLOAD, TO_BUCKET])
async def test_a_diverted_delivery_survives_a_restart(tmp_path: Path, clock: Clock, divert: Redirect) -> None:
    """What was diverted is still so after the spool was opened anew, and keeps its record."""
    async with opened(tmp_path, clock=clock) as spool:
        detail = await a_detail(spool)
        await spool.settle(detail, divert)
        before = await by_form(spool)
    async with opened(tmp_path, clock=clock) as spool:
        assert await by_form(spool) == before
        places = [(ENDPOINT, Lane.DETAIL), (BUCKET, Lane.DETAIL)]
        (onward,) = [one for where, lane in places for one in await due(spool, lane, destination=where)]
        assert onward.record == detail.record
        await assert_accounted(spool)


async def test_a_postponed_delivery_can_be_diverted_at_its_next_attempt(spool: Spool) -> None:
    """Failed attempts before do not matter, and what goes on begins without any."""
    detail = await a_detail(spool)
    await spool.settle(detail, RetryAt(NOW, "500"))
    (detail,) = await due(spool, Lane.DETAIL)
    (upload,) = await spool.settle(detail, TO_UPLOAD)
    assert (detail.attempts, upload.attempts, upload.first_failed_at) == (1, 0, None)
    assert upload.key == DeliveryKey(detail.record.record_id, ENDPOINT, Form.WHOLE)
