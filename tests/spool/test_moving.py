"""Orders that move what has not ended: due now, to another destination, with another token."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spool.admin import commands
from spool.queue.maintenance import unaccounted
from spool.records import DeadLetter, Delivered, Delivery, DeliveryKey, DeliveryState, Form, Hold, Lane, RetryAt
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
    due,
    opened,
    rows,
    split_fragments,
    states,
    traced,
)

READY, WAITING, HELD, DEAD = (DeliveryState.READY, DeliveryState.WAITING, DeliveryState.HELD, DeliveryState.DEAD)
OTHER = "other"
ALL = frozenset(Form)


@pytest.fixture
async def spool(tmp_path: Path, clock: Clock) -> AsyncIterator[Spool]:
    async with opened(tmp_path, clock=clock, destinations=(ENDPOINT, BUCKET, OTHER)) as opened_spool:
        yield opened_spool
        await balanced(opened_spool)


async def balanced(spool: Spool) -> None:
    """The books balance for every destination, and agree with what a recount of the deliveries finds."""
    assert all(counts.unaccounted == 0 for counts in spool.stats().lanes.values())
    assert unaccounted(await spool.reader.recount()) == 0


async def split(spool: Spool, call_id: str = "c", token: str | None = None) -> list[DeliveryKey]:
    """A record with core and detail; the keys of both."""
    accepted = await spool.accept(a_record(call_id, CORE, DETAIL, fragments=split_fragments(), token=token))
    record_id = int(accepted.uid.rpartition("-")[2])
    return [DeliveryKey(record_id, ENDPOINT, form) for form in (Form.CORE, Form.DETAIL)]


async def moved_to(spool: Spool, keys: list[DeliveryKey], to: str = OTHER) -> int:
    """Reroute; how many were moved."""
    return (await spool.admin.reroute(keys, to, forms=ALL, ordered=True)).moved


async def where(spool: Spool, call_id: str = "c") -> list[tuple[str, str, DeliveryState]]:
    """Each delivery of a call: destination, form, state."""
    return [(one.destination, one.form.value, one.state) for one in await traced(spool, call_id)]


async def test_what_was_to_be_tried_later_is_due_now(spool: Spool, clock: Clock) -> None:
    """A retry changes the time alone: attempts stay counted, and what is due or waits is passed over."""
    accepted = await spool.accept(a_record("c", CORE, DETAIL, fragments=split_fragments()))
    await spool.settle(accepted.ready[0], RetryAt(NOW + HOUR, "500"))
    detail = DeliveryKey(accepted.ready[0].record.record_id, ENDPOINT, Form.DETAIL)
    done = await spool.admin.retry([accepted.ready[0].key, detail])
    assert (done.moved, [(one.due_at, one.attempts) for one in done.ready]) == (1, [(NOW, 1)])
    assert await states(spool, "c") == [READY, WAITING]
    assert (await spool.admin.retry([accepted.ready[0].key])).moved == 0


async def test_what_is_rerouted_is_owed_elsewhere_under_its_key(spool: Spool) -> None:
    """Core and detail move together, in their order, as if never tried, and nothing counts as given up."""
    core, detail = await split(spool)
    (first,) = await due(spool)
    await spool.settle(first, RetryAt(NOW, "500"))
    assert await moved_to(spool, [core]) == 2
    assert await where(spool) == [(OTHER, "core", READY), (OTHER, "detail", WAITING)]
    (moved,) = await due(spool, destination=OTHER)
    assert (moved.idempotency_key, moved.attempts) == (first.idempotency_key, 0)
    assert [one.form for one in await spool.settle(moved, Delivered())] == [Form.DETAIL]
    lanes = spool.stats().lanes
    assert (lanes[ENDPOINT, Lane.CORE].owed, lanes[ENDPOINT, Lane.DETAIL].owed) == (0, 0)
    assert (lanes[OTHER, Lane.CORE].owed, lanes[OTHER, Lane.CORE].delivered) == (1, 1)
    assert await moved_to(spool, [detail]) == 0


@pytest.mark.parametrize("named", [Form.CORE, Form.DETAIL])
async def test_a_dead_core_and_its_held_detail_go_together(spool: Spool, named: Form) -> None:
    """Whichever of them is named, a dead core is ready at its new place, and its detail waits for it there."""
    core, _ = await split(spool)
    await spool.settle((await due(spool))[0], DeadLetter("400"))
    assert await states(spool, "c") == [DEAD, HELD]
    assert await moved_to(spool, [DeliveryKey(core.record_id, ENDPOINT, named)]) == 2
    assert await where(spool) == [(OTHER, "core", READY), (OTHER, "detail", WAITING)]
    assert await due(spool) == []


async def test_what_waited_behind_it_is_freed(spool: Spool) -> None:
    """At the place that was left the next record of the call has its turn; at the new one calls keep their order."""
    first, second, third = [(await spool.accept(a_record("c"))).uid for _ in range(3)]
    assert await states(spool, "c") == [READY, WAITING, WAITING]
    record_ids = [int(uid.rpartition("-")[2]) for uid in (first, second, third)]
    keys = [DeliveryKey(record_id, ENDPOINT, Form.WHOLE) for record_id in record_ids]
    done = await spool.admin.reroute(keys[:2], OTHER, forms=ALL, ordered=True)
    assert [one.key for one in done.ready] == [DeliveryKey(record_ids[0], OTHER, Form.WHOLE), keys[2]]
    assert await states(spool, "c") == [READY, WAITING, READY]


async def test_a_bucket_gives_no_order(spool: Spool) -> None:
    """What goes to a destination without an order is ready at once, detail and later records too."""
    keys = await split(spool) + await split(spool)
    done = await spool.admin.reroute(keys, BUCKET, forms=ALL, ordered=False)
    assert (done.moved, len(await due(spool, destination=BUCKET))) == (4, 2)
    assert await states(spool, "c") == [READY] * 4


async def test_a_notice_follows_its_object(spool: Spool) -> None:
    """A notice waits for its object wherever that is moved to, and tells of that place."""
    await spool.accept(a_record("c", CORE, OBJECT, NOTICE, fragments=split_fragments()))
    (core,) = await due(spool)
    await spool.settle(core, Delivered())
    (upload,) = await due(spool, Lane.DETAIL, destination=BUCKET)
    assert await moved_to(spool, [upload.key]) == 1
    (moved,) = await due(spool, Lane.DETAIL, destination=OTHER)
    (notice,) = await spool.settle(moved, Delivered("s3://there/it"))
    assert (notice.form, notice.location) == (Form.NOTICE, "s3://there/it")


@pytest.mark.parametrize(
    ("forms", "to"),
    [
        pytest.param(ALL, ENDPOINT, id="where it is"),
        pytest.param(ALL - {Form.DETAIL}, OTHER, id="takes no details"),
    ],
)
async def test_what_cannot_be_moved_stays(spool: Spool, forms: frozenset[Form], to: str) -> None:
    """A record's deliveries move together or not at all."""
    keys = await split(spool)
    assert (await spool.admin.reroute(keys, to, forms=forms, ordered=True)).moved == 0
    assert await where(spool) == [(ENDPOINT, "core", READY), (ENDPOINT, "detail", WAITING)]


async def test_nothing_is_owed_twice(spool: Spool) -> None:
    """Where the other destination was owed the same form, even if it had it already, nothing moves."""
    keys = await split(spool)
    assert await moved_to(spool, keys, BUCKET) == 2
    again = await spool.accept(a_record("d", CORE, OBJECT, fragments=split_fragments()))
    record_id = again.ready[0].record.record_id
    upload = DeliveryKey(record_id, BUCKET, Form.DETAIL)
    assert await moved_to(spool, [upload], ENDPOINT) == 1
    assert await moved_to(spool, [DeliveryKey(record_id, ENDPOINT, Form.CORE)], BUCKET) == 2
    assert await moved_to(spool, [DeliveryKey(99, ENDPOINT, Form.CORE)]) == 0


async def test_what_was_under_way_is_not_settled_at_its_old_place(spool: Spool) -> None:
    """An attempt that ends after its delivery was moved away changes nothing, whatever came of it."""
    (core, _), (before,) = await split(spool), await due(spool)
    await moved_to(spool, [core])
    for settlement in (Delivered(), DeadLetter("400"), Hold("401", None), RetryAt(NOW + HOUR, "500")):
        assert await spool.settle(before, settlement) == ()
    assert await where(spool) == [(OTHER, "core", READY), (OTHER, "detail", WAITING)]


async def test_what_the_configuration_no_longer_has_can_be_moved_away(tmp_path: Path) -> None:
    """Deliveries of a destination that only the spool still knows find another one."""
    async with opened(tmp_path) as spool:
        keys = await split(spool)
    async with opened(tmp_path, destinations=(OTHER,)) as spool:
        assert await moved_to(spool, keys) == 2
        assert len(await due(spool, destination=OTHER)) == 1
        await balanced(spool)


async def test_an_order_that_dies_between_steps_is_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that were durable stay; the same order then moves the rest, and the books balance throughout."""
    monkeypatch.setattr(commands, "KEYS_PER_STEP", 2)
    names = (ENDPOINT, OTHER)
    async with opened(tmp_path, destinations=names) as spool:
        keys = [key for number in range(4) for key in await split(spool, f"c{number}")]
        await spool.admin.reroute(commands.steps(keys)[0], OTHER, forms=ALL, ordered=True)
    async with opened(tmp_path, destinations=names) as spool:
        await balanced(spool)
        assert await moved_to(spool, keys) == 6
        assert len(await due(spool, destination=OTHER)) == 4
        await balanced(spool)


async def held(spool: Spool, call_id: str, token: str | None) -> Delivery:
    """A record whose core is held because its token was refused."""
    core, _ = await split(spool, call_id, token)
    delivery = next(one for one in await due(spool) if one.key == core)
    await spool.settle(delivery, Hold("401", delivery.record.token_id))
    return delivery


@pytest.mark.parametrize("old", ["refused", None])
async def test_another_token_frees_what_was_held_for_the_old_one(spool: Spool, tmp_path: Path, old: str | None) -> None:
    """The call log is sent with the new token at once, and the old one is gone; others of the old token stay held."""
    one, other = await held(spool, "c", old), await held(spool, "d", old)
    done = await spool.admin.replace_token([one.key], "good")
    (freed,) = done.ready
    assert (done.moved, freed.key, freed.due_at) == (1, one.key, NOW)
    assert await spool.token(freed.record.token_id or 0) == "good"
    assert (await states(spool, "c"), await states(spool, "d")) == ([READY, WAITING], [HELD, WAITING])
    await spool.admin.replace_token([other.key], "good")
    assert rows(tmp_path, "SELECT value, uses FROM tokens") == [("good", 2)]


async def test_a_dead_letter_with_another_token_stays_one(spool: Spool) -> None:
    """A new token changes what a dead letter is sent with, once it is replayed."""
    (core, _), (delivery,) = await split(spool, token="old"), await due(spool)
    await spool.settle(delivery, DeadLetter("gone"))
    done = await spool.admin.replace_token([core], "new")
    assert (done.moved, done.ready, await states(spool, "c")) == (1, (), [DEAD, HELD])
    (replayed,) = (await spool.admin.replay([core])).ready
    assert await spool.token(replayed.record.token_id or 0) == "new"


@pytest.mark.parametrize("settlement", [Hold("401", 1), DeadLetter("the record's own token is no longer stored")])
async def test_an_attempt_with_the_old_token_says_nothing_about_the_new_one(
    spool: Spool, settlement: Hold | DeadLetter
) -> None:
    """What was under way with the replaced token is tried again with the new one, whatever came of it."""
    (core, _), (before,) = await split(spool, token="old"), await due(spool)
    await spool.admin.replace_token([core], "new")
    (again,) = await spool.settle(before, settlement)
    assert (again.key, again.record.token_id != before.record.token_id) == (core, True)
    assert await states(spool, "c") == [READY, WAITING]


@pytest.mark.parametrize("old", ["old", None])
async def test_an_attempt_that_succeeds_with_the_old_token_leaves_no_token(
    spool: Spool, tmp_path: Path, old: str | None
) -> None:
    """What was under way with the replaced token and is delivered ends the record, and its new token with it."""
    (before,) = (await spool.accept(a_record("c", token=old))).ready
    await spool.accept(a_record("d", token="old"))
    await spool.admin.replace_token([before.key], "new")
    await spool.settle(before, Delivered())
    assert rows(tmp_path, "SELECT value, uses FROM tokens") == [("old", 1)]


async def test_what_has_ended_gets_no_token(spool: Spool, tmp_path: Path) -> None:
    """A receipt keeps no token, and none is stored for it."""
    (delivery,) = (await spool.accept(a_record("c", token="old"))).ready
    await spool.settle(delivery, Delivered())
    unknown = DeliveryKey(99, ENDPOINT, Form.CORE)
    assert (await spool.admin.replace_token([delivery.key, unknown], "new")).moved == 0
    assert rows(tmp_path, "SELECT count(*) FROM tokens") == [(0,)]
