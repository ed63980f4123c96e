"""Operators' orders: paging through dead letters, replaying them in the order of their calls, giving deliveries up."""

import os
from pathlib import Path

import pytest

from spool.admin import commands
from spool.records import (
    DeadLetter,
    Delivered,
    Delivery,
    DeliveryKey,
    DeliveryState,
    Form,
    Hold,
    Lane,
    NewDelivery,
    RetryAt,
)
from spool.stats import OpenDelivery
from spool.store import Spool
from tests.spool.spool_parts import (
    BUCKET,
    CORE,
    DETAIL,
    ENDPOINT,
    HOUR,
    NOTICE,
    NOW,
    OBJECT,
    Clock,
    a_record,
    dead,
    discard,
    due,
    maintained,
    opened,
    replay,
    rows,
    split_fragments,
    states,
    traced,
)

READY, WAITING, HELD, DEAD, DELIVERED, DISCARDED = (
    DeliveryState.READY,
    DeliveryState.WAITING,
    DeliveryState.HELD,
    DeliveryState.DEAD,
    DeliveryState.DELIVERED,
    DeliveryState.DISCARDED,
)


async def buried(spool: Spool, call_id: str, *deliveries: NewDelivery) -> Delivery:
    accepted = await spool.accept(a_record(call_id, *deliveries, fragments=split_fragments()))
    await spool.settle(accepted.ready[0], DeadLetter("400"))
    return accepted.ready[0]


def key(delivery: Delivery, form: Form, destination: str = ENDPOINT) -> DeliveryKey:
    return DeliveryKey(delivery.record.record_id, destination, form)


async def test_pages_of_dead_letters_are_in_commit_order_and_whole(spool: Spool) -> None:
    """Paging shows each dead letter once, with its record and reason, over all destinations or of one."""
    for number in range(5):
        accepted = await spool.accept(a_record(f"c{number}", CORE, DETAIL, OBJECT, fragments=split_fragments()))
        for delivery in accepted.ready:
            await spool.settle(delivery, DeadLetter(f"reason {number}"))
    seen: list[OpenDelivery] = []
    after = None
    while page := await dead(spool, None, limit=3, after=after):
        assert len(page) <= 3
        seen += page
        after = page[-1].key
    assert [(letter.record.call_id, letter.delivery.destination) for letter in seen] == [
        (f"c{number}", destination) for number in range(5) for destination in (BUCKET, ENDPOINT)
    ]
    assert [letter.delivery.error for letter in seen[::2]] == [f"reason {number}" for number in range(5)]
    of_one = await dead(spool, ENDPOINT, limit=100)
    assert [letter.key for letter in of_one] == [letter.key for letter in seen if letter.key.destination == ENDPOINT]
    assert await dead(spool, "unknown", limit=100) == ()


async def test_dead_letters_of_both_lanes_are_shown(spool: Spool) -> None:
    """Several dead letters of one record are on the page, also where it is cut between them."""
    letter = await buried(spool, "c", CORE, OBJECT)
    (upload,) = await due(spool, Lane.DETAIL, destination=BUCKET)
    await spool.settle(upload, DeadLetter("403"))
    first = await dead(spool, None, limit=1)
    second = await dead(spool, None, limit=1, after=first[0].key)
    assert [first[0].key, second[0].key] == [key(letter, Form.DETAIL, BUCKET), key(letter, Form.CORE)]
    assert await dead(spool, None, limit=1, after=second[0].key) == ()


async def test_a_replayed_letter_is_as_if_never_tried(spool: Spool, clock: Clock) -> None:
    """It is due at once under its old idempotency key, with all its attempts before it."""
    accepted = await spool.accept(a_record("c"))
    await spool.settle(accepted.ready[0], RetryAt(NOW, "500"))
    await spool.settle(accepted.ready[0], DeadLetter("400"))
    clock.now += HOUR
    (replayed,) = await replay(spool, [accepted.ready[0].key])
    assert replayed.idempotency_key == accepted.ready[0].idempotency_key
    assert (replayed.attempts, replayed.first_failed_at, replayed.due_at) == (0, None, NOW + HOUR)
    assert await due(spool, now=clock.now) == [replayed]
    (shown,) = await traced(spool, "c")
    assert (shown.state, shown.error, shown.settled_at) == (READY, None, None)
    assert await dead(spool, None, limit=10) == ()


async def test_a_replayed_core_takes_its_detail_along(spool: Spool) -> None:
    """The detail that was held with its core waits for it again, and follows it."""
    core = await buried(spool, "c", CORE, DETAIL)
    assert await states(spool, "c") == [DEAD, HELD]
    (replayed,) = await replay(spool, [core.key])
    assert await states(spool, "c") == [READY, WAITING]
    (detail,) = await spool.settle(replayed, Delivered())
    assert detail.form is Form.DETAIL


async def test_a_replayed_object_takes_its_notice_along(spool: Spool) -> None:
    """A notice that was held with its object waits for it again."""
    await spool.accept(a_record("c", CORE, OBJECT, NOTICE, fragments=split_fragments()))
    (core,) = await due(spool)
    (upload,) = await due(spool, Lane.DETAIL, destination=BUCKET)
    await spool.settle(core, Delivered())
    await spool.settle(upload, DeadLetter("403"))
    (replayed,) = await replay(spool, [upload.key])
    (notice,) = await spool.settle(replayed, Delivered("s3://there"))
    assert (notice.form, notice.location) == (Form.NOTICE, "s3://there")


async def test_a_replayed_detail_is_held_while_its_core_is_dead(spool: Spool) -> None:
    """A detail does not go without its core, whatever the operator asks for; it goes on with the core."""
    core = await buried(spool, "c", CORE, DETAIL)
    detail = key(core, Form.DETAIL)
    (replayed,) = await replay(spool, [core.key])
    (ready,) = await spool.settle(replayed, Delivered())
    await spool.settle(ready, DeadLetter("413"))
    core_again = await buried(spool, "d", CORE, DETAIL)
    assert await replay(spool, [key(core_again, Form.DETAIL)]) == ()
    assert await states(spool, "d") == [DEAD, HELD]
    assert [one.form for one in await replay(spool, [detail])] == [Form.DETAIL]


async def test_core_and_detail_can_be_replayed_in_one_order(spool: Spool) -> None:
    """In whatever order the keys are given, the core is due and the detail waits for it."""
    accepted = await spool.accept(a_record("c", CORE, OBJECT, NOTICE, fragments=split_fragments()))
    for delivery in accepted.ready:
        await spool.settle(delivery, DeadLetter("400"))
    keys = [delivery.key for delivery in accepted.ready]
    for order in (keys, keys[::-1]):
        assert {one.key for one in await replay(spool, order)} == set(keys)
        for delivery in accepted.ready:
            await spool.settle(delivery, DeadLetter("400"))


async def test_a_replayed_letter_waits_its_turn(spool: Spool) -> None:
    """Behind an earlier delivery of its call that is still queued, a replayed one waits."""
    first = await spool.accept(a_record("c"))
    second = await spool.accept(a_record("c"))
    await spool.settle(first.ready[0], DeadLetter("400"))
    assert second.ready == ()
    (ready,) = await due(spool)
    await spool.settle(ready, DeadLetter("400"))
    await replay(spool, [first.ready[0].key])
    assert await replay(spool, [ready.key]) == ()
    assert await states(spool, "c") == [READY, WAITING]


async def test_what_is_no_dead_letter_is_passed_over(spool: Spool) -> None:
    """Keys of deliveries that are queued, done or unknown change nothing."""
    accepted = await spool.accept(a_record("c"))
    unknown = [DeliveryKey(999, ENDPOINT, Form.WHOLE), DeliveryKey(1, "nobody", Form.WHOLE)]
    assert await replay(spool, [accepted.ready[0].key, *unknown]) == ()
    await spool.settle(accepted.ready[0], Delivered())
    assert await replay(spool, [accepted.ready[0].key]) == ()
    assert await discard(spool, [accepted.ready[0].key, *unknown]) == ()
    assert spool.stats().lanes[ENDPOINT, Lane.CORE].delivered == 1
    assert await replay(spool, []) == ()


async def test_a_replayed_letter_that_was_delivered_meanwhile_is_done(spool: Spool) -> None:
    """A late confirmation ends a delivery that an order put back into the queue, waiting or not."""
    first = await buried(spool, "c", CORE)
    second = await buried(spool, "c", CORE)
    await replay(spool, [first.key, second.key])
    assert await states(spool, "c") == [READY, WAITING]
    await spool.settle(second, Delivered())
    await spool.settle(first, Delivered())
    assert await states(spool, "c") == [DELIVERED, DELIVERED]


@pytest.mark.parametrize(
    ("settlement", "before"),
    [
        pytest.param(None, READY, id="ready"),
        pytest.param(RetryAt(NOW + HOUR, "500"), READY, id="postponed"),
        pytest.param(Hold("401", None), HELD, id="held"),
        pytest.param(DeadLetter("400"), DEAD, id="dead"),
    ],
)
async def test_any_delivery_that_has_not_ended_can_be_given_up(
    spool: Spool, tmp_path: Path, settlement: RetryAt | Hold | DeadLetter | None, before: DeliveryState
) -> None:
    """A discarded delivery ends its record like a delivered one, counts as discarded, and keeps its reason."""
    accepted = await spool.accept(a_record("c", token="secret"))
    if settlement is not None:
        await spool.settle(accepted.ready[0], settlement)
    assert await states(spool, "c") == [before]
    assert await discard(spool, [accepted.ready[0].key]) == ()
    (record,) = await spool.trace("c")
    assert record.settled_at is not None
    assert record.deliveries[0].state is DISCARDED
    assert record.deliveries[0].error == (settlement.error if settlement else None)
    assert rows(tmp_path, "SELECT (SELECT count(*) FROM chunks), (SELECT count(*) FROM tokens)") == [(0, 0)]
    counts = spool.stats().lanes[ENDPOINT, Lane.CORE]
    assert (counts.owed, counts.discarded, counts.queued_bytes, counts.unaccounted) == (1, 1, 0, 0)


async def test_giving_up_frees_successors(spool: Spool) -> None:
    """What waited for a discarded delivery is told as freed."""
    accepted = await spool.accept(a_record("c"))
    await spool.accept(a_record("c"))
    freed = await discard(spool, [accepted.ready[0].key])
    assert [one.key for one in freed] == [one.key for one in await due(spool)]
    assert len(freed) == 1


async def test_a_waiting_delivery_can_be_given_up(spool: Spool) -> None:
    """A detail that waits may go before its core, which is delivered alone."""
    accepted = await spool.accept(a_record("c", CORE, DETAIL, fragments=split_fragments()))
    assert await discard(spool, [key(accepted.ready[0], Form.DETAIL)]) == ()
    assert await spool.settle(accepted.ready[0], Delivered()) == ()
    assert await states(spool, "c") == [DELIVERED, DISCARDED]
    assert (await spool.trace("c"))[0].settled_at is not None


async def test_core_and_detail_given_up_together_free_nothing(spool: Spool) -> None:
    """A detail is not sent between the end of its core and its own."""
    core = await buried(spool, "c", CORE, DETAIL)
    assert await discard(spool, [core.key, key(core, Form.DETAIL)]) == ()
    assert await states(spool, "c") == [DISCARDED, DISCARDED]


async def test_a_core_given_up_alone_frees_its_detail(spool: Spool) -> None:
    """An order is carried out as it was given."""
    core = await buried(spool, "c", CORE, DETAIL)
    assert [one.form for one in await discard(spool, [core.key])] == [Form.DETAIL]


async def test_the_payload_of_a_giant_goes_in_the_background(spool: Spool, tmp_path: Path) -> None:
    """A discarded giant's chunks are deleted by maintenance, in steps."""
    accepted = await spool.accept(a_record("c", body=os.urandom(12 << 20)))
    await discard(spool, [accepted.ready[0].key])
    await maintained(spool)
    assert rows(tmp_path, "SELECT (SELECT count(*) FROM chunks), (SELECT count(*) FROM orphan_chunks)") == [(0, 0)]


async def test_large_orders_go_by_steps(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order about many deliveries is written in several transactions; repeated keys count once."""
    monkeypatch.setattr(commands, "KEYS_PER_STEP", 3)
    letters = [await buried(spool, f"c{number}", CORE) for number in range(8)]
    keys = [one.key for one in letters]
    assert len(commands.steps(keys + keys)) == 3
    assert len(await replay(spool, keys + keys)) == 8
    await discard(spool, keys)
    assert spool.stats().lanes[ENDPOINT, Lane.CORE].discarded == 8


def test_a_record_is_ordered_about_in_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step ends between a core and its detail: given up a step earlier, the core would let it be sent."""
    monkeypatch.setattr(commands, "KEYS_PER_STEP", 3)
    keys = [DeliveryKey(number, ENDPOINT, form) for number in range(4) for form in (Form.DETAIL, Form.CORE)]
    assert [[key.record_id for key in step] for step in commands.steps(keys)] == [[0, 0, 1, 1], [2, 2, 3, 3]]


async def test_the_reasons_of_dead_letters_are_counted(spool: Spool) -> None:
    """The figures tell why there are dead letters, and forget what was given up."""
    letters = [await buried(spool, f"c{number}", CORE) for number in range(3)]
    (other,) = (await spool.accept(a_record("d"))).ready
    await spool.settle(other, DeadLetter("413"))
    await maintained(spool)
    assert spool.stats().dead_reasons == {(ENDPOINT, Lane.CORE): {"400": 3, "413": 1}}
    await discard(spool, [letter.key for letter in letters])
    await maintained(spool)
    assert spool.stats().dead_reasons == {(ENDPOINT, Lane.CORE): {"413": 1}}
    await discard(spool, [other.key])
    assert spool.stats().dead_reasons == {}


async def test_orders_survive_a_restart(tmp_path: Path) -> None:
    """What an order did is durable when it returns."""
    async with opened(tmp_path) as spool:
        one, two = await buried(spool, "one", CORE), await buried(spool, "two", CORE)
        await replay(spool, [one.key])
        await discard(spool, [two.key])
    async with opened(tmp_path) as spool:
        assert await states(spool, "one") == [READY]
        assert await states(spool, "two") == [DISCARDED]
