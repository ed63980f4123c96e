"""Promise 4 in tables: which delivery of a call may be sent after what happened to those before it."""

from dataclasses import dataclass
from functools import partial

import pytest

from spool.db.transaction import Transaction
from spool.queue.ordering import unblock_stuck
from spool.records import (
    DeadLetter,
    Delivered,
    Delivery,
    DeliveryState,
    Form,
    Hold,
    Lane,
    NewDelivery,
    RetryAt,
    Settlement,
)
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
    WHOLE,
    a_record,
    due,
    split_fragments,
    without_maintenance,
    write,
)

LARGE_WHOLE = NewDelivery(ENDPOINT, Form.WHOLE, Lane.DETAIL)
ALONE_CORE = NewDelivery(BUCKET, Form.CORE, Lane.CORE, ordered=False)
OTHER = NewDelivery("other", Form.WHOLE, Lane.CORE)

DONE, FAILED, AGAIN, HELD = Delivered(), DeadLetter("400"), RetryAt(NOW + HOUR, "500"), Hold("401", None)

Step = tuple[str, Settlement]
"""What happens to a delivery, named by its record's number and its form: "0 core"."""


@dataclass(frozen=True)
class Scenario:
    """`records` of one call are accepted, `steps` happen; then exactly `ready` may be sent."""

    rule: str
    records: tuple[tuple[NewDelivery, ...], ...]
    steps: tuple[Step, ...]
    ready: set[str]
    held: frozenset[str] = frozenset()


SCENARIOS = [
    Scenario("the first core goes at once", ((CORE, DETAIL),), (), {"0 core"}),
    Scenario("a detail follows its core", ((CORE, DETAIL),), (("0 core", DONE),), {"0 detail"}),
    Scenario("a detail waits while its core is retried", ((CORE, DETAIL),), (("0 core", AGAIN),), {"0 core"}),
    Scenario("a detail waits while its core is held for a token", ((CORE, DETAIL),), (("0 core", HELD),), set()),
    Scenario(
        "a detail is held with its dead core", ((CORE, DETAIL),), (("0 core", FAILED),), set(), frozenset({"0 detail"})
    ),
    Scenario("core waits for core", ((WHOLE,), (WHOLE,), (WHOLE,)), (), {"0 whole"}),
    Scenario("one end frees one core", ((WHOLE,), (WHOLE,), (WHOLE,)), (("0 whole", DONE),), {"1 whole"}),
    Scenario("a retried core keeps its place", ((WHOLE,), (WHOLE,)), (("0 whole", AGAIN),), {"0 whole"}),
    Scenario("a core held for a token keeps its place", ((WHOLE,), (WHOLE,)), (("0 whole", HELD),), set()),
    Scenario("a dead core frees the next", ((WHOLE,), (WHOLE,)), (("0 whole", FAILED),), {"1 whole"}),
    Scenario(
        "a core does not wait for a detail",
        ((CORE, DETAIL), (CORE, DETAIL)),
        (("0 core", DONE),),
        {"0 detail", "1 core"},
    ),
    Scenario(
        "a detail waits for the details before it",
        ((CORE, DETAIL), (CORE, DETAIL)),
        (("0 core", DONE), ("1 core", DONE)),
        {"0 detail"},
    ),
    Scenario(
        "a detail waits while an earlier one is retried",
        ((CORE, DETAIL), (CORE, DETAIL)),
        (("0 core", DONE), ("1 core", DONE), ("0 detail", AGAIN)),
        {"0 detail"},
    ),
    Scenario(
        "a dead detail frees the next",
        ((CORE, DETAIL), (CORE, DETAIL)),
        (("0 core", DONE), ("1 core", DONE), ("0 detail", FAILED)),
        {"1 detail"},
    ),
    Scenario(
        "a detail held with its dead core blocks no later detail",
        ((CORE, DETAIL), (CORE, DETAIL)),
        (("0 core", FAILED), ("1 core", DONE)),
        {"1 detail"},
        frozenset({"0 detail"}),
    ),
    Scenario(
        "a large whole is no core: the next core does not wait", ((LARGE_WHOLE,), (WHOLE,)), (), {"0 whole", "1 whole"}
    ),
    Scenario("a large whole waits like a detail", ((LARGE_WHOLE,), (LARGE_WHOLE,)), (), {"0 whole"}),
    Scenario("objects wait for nothing", ((OBJECT,), (OBJECT,), (OBJECT,)), (), {"0 detail", "1 detail", "2 detail"}),
    Scenario(
        "a bucket alone takes all in any order",
        ((ALONE_CORE, OBJECT), (ALONE_CORE, OBJECT)),
        (("1 detail", DONE),),
        {"0 core", "0 detail", "1 core"},
    ),
    Scenario(
        "a bucket's dead core holds no object",
        ((ALONE_CORE, OBJECT),),
        (("0 core", FAILED),),
        {"0 detail"},
    ),
    Scenario("a notice waits for both", ((CORE, OBJECT, NOTICE),), (), {"0 core", "0 detail"}),
    Scenario("a notice waits for its object", ((CORE, OBJECT, NOTICE),), (("0 core", DONE),), {"0 detail"}),
    Scenario("a notice waits for its core", ((CORE, OBJECT, NOTICE),), (("0 detail", DONE),), {"0 core"}),
    Scenario(
        "a notice follows both",
        ((CORE, OBJECT, NOTICE),),
        (("0 detail", DONE), ("0 core", DONE)),
        {"0 notice"},
    ),
    Scenario(
        "a notice is held with its dead object",
        ((CORE, OBJECT, NOTICE),),
        (("0 core", DONE), ("0 detail", FAILED)),
        set(),
        frozenset({"0 notice"}),
    ),
    Scenario(
        "a notice is held with its dead core",
        ((CORE, OBJECT, NOTICE),),
        (("0 core", FAILED), ("0 detail", DONE)),
        set(),
        frozenset({"0 notice"}),
    ),
    Scenario(
        "a core does not wait for a notice that waits for its object",
        ((CORE, OBJECT, NOTICE), (WHOLE,)),
        (("0 core", DONE),),
        {"0 detail", "1 whole"},
    ),
    Scenario(
        "a core does not wait for a notice that is due",
        ((CORE, OBJECT, NOTICE), (WHOLE,)),
        (("0 core", DONE), ("0 detail", DONE)),
        {"0 notice", "1 whole"},
    ),
    Scenario(
        "destinations do not wait for each other",
        ((WHOLE, OTHER), (WHOLE, OTHER)),
        (("0 other", DONE),),
        {"0 whole", "1 other"},
    ),
    Scenario(
        "a core that was dead and is found delivered lets its detail go",
        ((CORE, DETAIL),),
        (("0 core", FAILED), ("0 core", DONE)),
        {"0 detail"},
    ),
    Scenario(
        "a detail that was found delivered before its turn is done",
        ((CORE, DETAIL), (CORE, DETAIL)),
        (("0 detail", DONE), ("0 core", DONE), ("1 core", DONE)),
        {"1 detail"},
    ),
    Scenario(
        "what waits cannot be postponed", ((WHOLE,), (WHOLE,)), (("1 whole", AGAIN), ("0 whole", DONE)), {"1 whole"}
    ),
    Scenario(
        "what waits cannot be buried", ((WHOLE,), (WHOLE,)), (("1 whole", FAILED), ("0 whole", DONE)), {"1 whole"}
    ),
    Scenario("what waits cannot be held", ((WHOLE,), (WHOLE,)), (("1 whole", HELD), ("0 whole", DONE)), {"1 whole"}),
    Scenario(
        "what is dead is not retried by a late attempt", ((WHOLE,),), (("0 whole", FAILED), ("0 whole", AGAIN)), set()
    ),
    Scenario(
        "what is dead is not held by a late attempt", ((WHOLE,),), (("0 whole", FAILED), ("0 whole", HELD)), set()
    ),
    Scenario(
        "what is held is not retried by a late attempt", ((WHOLE,),), (("0 whole", HELD), ("0 whole", AGAIN)), set()
    ),
]


def name_of(delivery: Delivery, first_id: int) -> str:
    form = "other" if delivery.destination == "other" else str(delivery.form)
    return f"{delivery.record.record_id - first_id} {form}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.rule)
async def test_the_order_of_a_call(scenario: Scenario, order_spool: Spool) -> None:
    """After these steps exactly these deliveries may be sent, and exactly these are held with a dead one."""
    known = await _accept_all(order_spool, scenario)
    freed = {name for name, delivery in known.items() if await _is_ready(order_spool, delivery)}
    for name, settlement in scenario.steps:
        told = await order_spool.settle(known[name], settlement)
        freed -= {name}
        freed |= {name_of(delivery, _first(known)) for delivery in told}
        if isinstance(settlement, RetryAt) and await _is_ready(order_spool, known[name]):
            freed.add(name)
    assert {name for name, delivery in known.items() if await _is_ready(order_spool, delivery)} == scenario.ready
    assert freed == scenario.ready, "what settling told is not what may be sent"
    assert await _held_with_a_dead_one(order_spool, known) == scenario.held
    await _books_are_right(order_spool)


async def _accept_all(spool: Spool, scenario: Scenario) -> dict[str, Delivery]:
    """All deliveries by name, those that wait too, as they will look when they are handed out."""
    known: dict[str, Delivery] = {}
    for number, planned in enumerate(scenario.records):
        await spool.accept(a_record("call", *planned, fragments=split_fragments()))
        record = (await spool.trace("call"))[-1].record
        for one in planned:
            delivery = Delivery(record, one.destination, one.form, one.lane, 0, NOW, None)
            known[name_of(delivery, record.record_id - number)] = delivery
    return known


def _first(known: dict[str, Delivery]) -> int:
    return min(delivery.record.record_id for delivery in known.values())


async def _is_ready(spool: Spool, delivery: Delivery) -> bool:
    ready = await due(spool, delivery.lane, destination=delivery.destination, now=NOW + 2 * HOUR)
    return delivery.key in {one.key for one in ready}


async def _held_with_a_dead_one(spool: Spool, known: dict[str, Delivery]) -> frozenset[str]:
    return frozenset(
        f"{record.record.record_id - _first(known)} {one.form}"
        for record in await spool.trace("call")
        for one in record.deliveries
        if one.state is DeliveryState.HELD and one.error == "held with a dead letter of its record"
    )


async def _books_are_right(spool: Spool) -> None:
    await spool._maintenance.round()
    assert spool.stats().unaccounted == 0


async def test_other_calls_never_wait(spool: Spool) -> None:
    """A call whose core is stuck delays no other call."""
    for call_id in ("a", "a", "b", "c"):
        await spool.accept(a_record(call_id))
    assert [delivery.record.call_id for delivery in await due(spool)] == ["a", "b", "c"]


async def test_a_notice_knows_where_the_object_of_its_detail_lies(spool: Spool) -> None:
    """With an object of the core and one of the detail, the notice tells of the detail's."""
    await spool.accept(a_record("c", CORE, ALONE_CORE, OBJECT, NOTICE, fragments=split_fragments()))
    for lane, destination, location in (
        (Lane.CORE, BUCKET, "s3://core"),
        (Lane.DETAIL, BUCKET, "s3://detail"),
        (Lane.CORE, ENDPOINT, None),
    ):
        (delivery,) = await due(spool, lane, destination=destination)
        freed = await spool.settle(delivery, Delivered(location))
    assert [(one.form, one.location) for one in freed] == [(Form.NOTICE, "s3://detail")]


async def test_a_call_with_thousands_of_waiting_records_is_freed_one_by_one(spool: Spool) -> None:
    """A call id that every call shares is slow to drain, but nothing of it is stuck."""
    for _ in range(300):
        await spool.accept(a_record("same"))
    delivered = 0
    while ready := await due(spool):
        assert len(ready) == 1
        await spool.settle(ready[0], Delivered())
        delivered += 1
    assert delivered == 300


async def test_what_is_stuck_is_freed_by_maintenance(spool: Spool) -> None:
    """A delivery that waits although nothing is ahead of it any more is found and becomes due."""
    await without_maintenance(spool)
    await spool.accept(a_record("c"))
    await spool.accept(a_record("c"))
    (first,) = await due(spool)

    def end_behind_the_back(transaction: Transaction) -> None:
        transaction.execute("UPDATE deliveries SET state = 4 WHERE record_id = ?", (first.record.record_id,))

    await write(spool, end_behind_the_back)
    assert await due(spool) == []
    assert await write(spool, partial(unblock_stuck, destination_id=1, lane=Lane.CORE)) == 1
    assert len(await due(spool)) == 1
    assert await write(spool, partial(unblock_stuck, destination_id=1, lane=Lane.CORE)) == 0
