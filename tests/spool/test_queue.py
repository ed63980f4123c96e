"""The queue: pages of what is due, what a settlement writes, holding and releasing, waking."""

import asyncio
from pathlib import Path

import pytest

from spool import store
from spool.queue.reader import CLOCK_TOLERANCE
from spool.records import DeadLetter, Delivered, DeliveryState, Form, Hold, Lane, RetryAt
from spool.store import Spool
from tests.spool.spool_parts import (
    CORE,
    DETAIL,
    ENDPOINT,
    HOUR,
    NOW,
    Clock,
    a_record,
    due,
    opened,
    rows,
    split_fragments,
    states,
    traced,
)


async def test_pages_are_in_commit_order_and_full_ones_say_that_more_may_be_due(spool: Spool) -> None:
    """A full page says to ask again at once, a part page when the next delivery is due."""
    for number in range(5):
        await spool.accept(a_record(f"c{number}"))
    page = await spool.due(ENDPOINT, Lane.CORE, now=NOW, limit=3)
    assert [one.record.call_id for one in page.deliveries] == ["c0", "c1", "c2"]
    assert page.next_due_at == NOW
    page = await spool.due(ENDPOINT, Lane.CORE, now=NOW, limit=10)
    assert len(page.deliveries) == 5
    assert page.next_due_at is None


async def test_the_next_due_time_is_the_earliest(spool: Spool) -> None:
    """With nothing due, the page says when to ask again."""
    for number in range(3):
        accepted = await spool.accept(a_record(f"c{number}"))
        await spool.settle(accepted.ready[0], RetryAt(NOW + (3 - number) * HOUR, "500"))
    page = await spool.due(ENDPOINT, Lane.CORE, now=NOW, limit=10)
    assert (page.deliveries, page.next_due_at) == ((), NOW + HOUR)
    assert [one.record.call_id for one in await due(spool, now=NOW + 2 * HOUR)] == ["c1", "c2"]


@pytest.mark.parametrize("ahead", [CLOCK_TOLERANCE + 1, HOUR, 24 * HOUR, 1000 * HOUR])
async def test_a_clock_that_ran_ahead_strands_nothing(spool: Spool, clock: Clock, ahead: int) -> None:
    """What was accepted or deferred by a clock that ran ahead is due as soon as the clock is right."""
    clock.now += ahead
    accepted = await spool.accept(a_record("a"))
    await spool.accept(a_record("b"))
    await spool.settle(accepted.ready[0], RetryAt(clock.now + HOUR, "500"))
    clock.now -= ahead
    assert len(await due(spool)) == 2


@pytest.mark.parametrize("wait", [1, 23 * HOUR, 24 * HOUR + 1, 25 * HOUR, 24 * 365 * HOUR])
async def test_a_delivery_is_deferred_for_as_long_as_it_was_told(spool: Spool, clock: Clock, wait: int) -> None:
    """However long that is: a `Retry-After` of days, or a maximum that the operator set."""
    accepted = await spool.accept(a_record())
    await spool.settle(accepted.ready[0], RetryAt(NOW + wait, "503"))
    for clock.now in (NOW, NOW + wait - 1):
        page = await spool.due(ENDPOINT, Lane.CORE, now=clock.now, limit=10)
        assert (page.deliveries, page.next_due_at) == ((), NOW + wait)
    assert len(await due(spool, now=NOW + wait)) == 1


async def test_attempts_and_their_times_survive_a_restart(tmp_path: Path, clock: Clock) -> None:
    """How often and since when a delivery failed is on disk."""
    async with opened(tmp_path, clock=clock) as spool:
        accepted = await spool.accept(a_record())
        await spool.settle(accepted.ready[0], RetryAt(NOW + HOUR, "first"))
        clock.now += HOUR
        await spool.settle(accepted.ready[0], RetryAt(NOW + 2 * HOUR, "second"))
    async with opened(tmp_path) as spool:
        (delivery,) = await due(spool, now=NOW + 2 * HOUR)
        assert (delivery.attempts, delivery.due_at, delivery.first_failed_at) == (2, NOW + 2 * HOUR, NOW)
        assert [one.error for one in await traced(spool)] == ["second"]


async def test_a_delivered_record_is_a_receipt(spool: Spool, clock: Clock, tmp_path: Path) -> None:
    """After its last delivery ended, ids, digest and times of a record stay, and no payload."""
    accepted = await spool.accept(a_record(token="secret"))
    clock.now += HOUR
    await spool.settle(accepted.ready[0], Delivered())
    (record,) = await spool.trace("call")
    assert (record.record.uid, record.settled_at) == (accepted.uid, NOW + HOUR)
    assert record.record.token_id is None
    assert record.deliveries[0].settled_at == NOW + HOUR
    assert rows(tmp_path, "SELECT count(*) FROM chunks") == [(0,)]


async def test_a_record_keeps_its_payload_until_its_last_delivery_ended(spool: Spool, tmp_path: Path) -> None:
    """A dead letter keeps the payload that the delivered core needs no more."""
    await spool.accept(a_record("call", CORE, DETAIL, fragments=split_fragments(), token="secret"))
    (core,) = await due(spool)
    (detail,) = await spool.settle(core, Delivered())
    await spool.settle(detail, DeadLetter("too large"))
    (record,) = await spool.trace("call")
    assert record.settled_at is None
    assert [(one.state, one.error) for one in record.deliveries] == [
        (DeliveryState.DELIVERED, None),
        (DeliveryState.DEAD, "too large"),
    ]
    assert rows(tmp_path, "SELECT count(*) FROM chunks") == [(3,)]
    assert rows(tmp_path, "SELECT uses FROM tokens") == [(1,)]


async def test_settling_what_is_a_receipt_no_more_is_harmless(spool: Spool, clock: Clock) -> None:
    """An attempt may end after even the receipt was deleted."""
    accepted = await spool.accept(a_record())
    await spool.settle(accepted.ready[0], Delivered())
    clock.now += 48 * HOUR
    await spool._maintenance.round()
    assert await spool.trace("call") == ()
    assert await spool.settle(accepted.ready[0], Delivered()) == ()
    assert spool.stats().lanes[ENDPOINT, Lane.CORE].delivered == 1


async def test_deliveries_to_a_destination_that_is_configured_no_more_stay_owed(tmp_path: Path) -> None:
    """What was owed to a destination that the configuration lost is counted, due and settled like before."""
    async with opened(tmp_path, destinations=["old"]) as spool:
        await spool.accept(a_record("c", type(CORE)("old", Form.WHOLE, Lane.CORE)))
    async with opened(tmp_path, destinations=[ENDPOINT]) as spool:
        assert spool.stats().lanes["old", Lane.CORE].ready == 1
        (delivery,) = await due(spool, destination="old")
        await spool.settle(delivery, Delivered())
        assert await states(spool, "c") == [DeliveryState.DELIVERED]


async def test_names_keep_their_ids_through_restarts(tmp_path: Path) -> None:
    """A destination that comes back later finds what it was owed, whatever was added meanwhile."""
    async with opened(tmp_path, destinations=["b"]) as spool:
        await spool.accept(a_record("c", type(CORE)("b", Form.WHOLE, Lane.CORE)))
    async with opened(tmp_path, destinations=["a"]):
        pass
    async with opened(tmp_path, destinations=["a", "b"]) as spool:
        assert len(await due(spool, destination="b")) == 1
        assert await due(spool, destination="a") == []


async def test_releasing_goes_by_steps_and_core_lane_first(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of many is written in several transactions; nothing of it is left held."""
    monkeypatch.setattr(store, "ROWS_PER_STEP", 4)
    large = type(CORE)(ENDPOINT, Form.WHOLE, Lane.DETAIL)
    for number in range(10):
        accepted = await spool.accept(a_record(f"c{number}", large if number % 2 else CORE))
        await spool.settle(accepted.ready[0], Hold("401", None))
    assert await spool.held_tokens(ENDPOINT) == (None,)
    first = await spool.release(ENDPOINT, None, limit=1)
    assert [one.record.call_id for one in first] == ["c0"]
    first = await spool.release(ENDPOINT, None)
    assert [one.record.call_id for one in first] == ["c2", "c4", "c6", "c8"]
    assert await spool.held_tokens(ENDPOINT) == ()
    assert len(await due(spool)) + len(await due(spool, Lane.DETAIL)) == 10
    counts = spool.stats().lanes[ENDPOINT, Lane.CORE]
    assert (counts.held, counts.ready) == (0, 5)


async def test_releasing_nothing_is_nothing(spool: Spool) -> None:
    """A limit of none, and a token for which nothing is held, free nothing."""
    assert await spool.release(ENDPOINT, 7) == ()
    assert await spool.release(ENDPOINT, None, limit=0) == ()


async def test_waking_goes_by_steps(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination that answers again has everything due, also when that is many transactions' worth."""
    monkeypatch.setattr(store, "ROWS_PER_STEP", 4)
    for number in range(11):
        accepted = await spool.accept(a_record(f"c{number}"))
        await spool.settle(accepted.ready[0], RetryAt(NOW + HOUR, "503", counted=False, for_destination=True))
    assert await due(spool) == []
    await spool.make_due(ENDPOINT, now=NOW)
    assert len(await due(spool)) == 11


async def test_what_is_held_says_since_when_the_oldest_waits(spool: Spool, clock: Clock) -> None:
    """The age of a backlog is that of its oldest record, held ones included; an empty lane has none."""
    accepted = await spool.accept(a_record("old"))
    await spool.settle(accepted.ready[0], Hold("401", None))
    clock.now += HOUR
    accepted = await spool.accept(a_record("new"))
    await spool._maintenance.round()
    assert spool.stats().oldest_pending == {(ENDPOINT, Lane.CORE): NOW}
    await spool.release(ENDPOINT, None)
    for delivery in await due(spool, now=clock.now):
        await spool.settle(delivery, Delivered())
    assert spool.stats().oldest_pending == {}


async def test_what_people_see_of_a_call_is_in_commit_order(spool: Spool) -> None:
    """The trace shows the newest 256 records of a call, the oldest of these first."""
    for _ in range(257):
        await spool.accept(a_record("same"))
    shown = [record.record.record_id for record in await spool.trace("same")]
    assert len(shown) == 256
    assert shown == sorted(shown)
    assert shown[-1] == 257


async def test_what_is_settled_is_not_due_any_more_whatever_is_counted_meanwhile(spool: Spool) -> None:
    """A recount beside the queue shows nobody an old state: no delivery is handed out after it was settled."""
    await asyncio.gather(*(spool.accept(a_record(f"c{number}")) for number in range(400)))

    async def count() -> None:
        while True:
            await spool.reader.recount()

    counting = asyncio.create_task(count())
    seen: list[str] = []
    while page := await due(spool, limit=5):
        seen += [one.record.call_id for one in page]
        await asyncio.gather(*(spool.settle(one, Delivered()) for one in page))
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)
    assert seen == [f"c{number}" for number in range(400)]


async def test_call_ids_that_may_have_been_meant(spool: Spool) -> None:
    """The nearest ids that begin alike, whether too little was typed or something wrong; none for another beginning."""
    for call_id in ("room-alpha-1", "room-beta-2", "other"):
        await spool.accept(a_record(call_id))
    assert await spool.similar_call_ids("room-alpha") == ("room-alpha-1",)
    assert await spool.similar_call_ids("room-beta-3") == ("room-beta-2",)
    assert await spool.similar_call_ids("nothing-like-it") == ()
