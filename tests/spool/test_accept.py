"""Accepting: what is durable when it returns, what is refused, and what a cancelled or closing caller leaves."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from spool.db.transaction import Transaction
from spool.errors import NotStorable, SpoolUnavailable
from spool.queue import ingest
from spool.records import Delivered, DeliveryState, Form, Fragment, Lane, NewDelivery
from spool.store import Spool
from tests.spool.spool_parts import (
    BUCKET,
    CORE,
    DETAIL,
    ENDPOINT,
    NOTICE,
    OBJECT,
    WHOLE,
    Clock,
    a_record,
    due,
    maintained,
    opened,
    rows,
    split_fragments,
    states,
    write,
)

GIANT = 12 << 20
"""Incompressible, this many bytes come in as three batches."""


async def test_what_was_accepted_is_there_after_a_reopen(tmp_path: Path) -> None:
    """An accepted record is due with the same identity and payload when the spool is opened again."""
    async with opened(tmp_path) as spool:
        accepted = await spool.accept(a_record("c", body=b"0123456789", token="secret"))
    async with opened(tmp_path) as spool:
        (delivery,) = await due(spool)
        assert delivery == accepted.ready[0]
        assert delivery.idempotency_key == f"{accepted.uid}-whole"
        assert await spool.token(delivery.record.token_id or 0) == "secret"


async def test_accepted_tells_what_was_stored(spool: Spool) -> None:
    """`Accepted` names the digest and sizes of what lies in the spool, and what may be sent."""
    new = a_record("c", CORE, DETAIL, fragments=split_fragments(b"x" * 1000))
    accepted = await spool.accept(new)
    assert (accepted.digest, accepted.raw_bytes, accepted.duplicate, accepted.superseded) == (
        new.digest,
        new.raw_bytes,
        False,
        False,
    )
    assert accepted.stored_bytes == accepted.ready[0].record.stored_bytes > 0
    assert accepted.two_phase
    assert [delivery.form for delivery in accepted.ready] == [Form.CORE]


async def test_what_may_be_sent_is_announced_even_when_nobody_waits(spool: Spool) -> None:
    """A record whose sender went away meanwhile is committed and announced like any other."""
    announced: asyncio.Queue[str] = asyncio.Queue()
    spool.listener = lambda ready: announced.put_nowait(ready[0].record.call_id)
    posting = asyncio.create_task(spool.accept(a_record("gone")))
    await asyncio.sleep(0)
    posting.cancel()
    assert await asyncio.wait_for(announced.get(), 30) == "gone"
    assert [delivery.record.call_id for delivery in await due(spool)] == ["gone"]


async def test_a_superseded_record_is_a_receipt_without_payload(spool: Spool, tmp_path: Path) -> None:
    """A start that comes in after its end is recorded, owed to nobody, and keeps neither payload nor token."""
    await spool.accept(a_record("c", event="call_ended"))
    late = await spool.accept(a_record("c", event="call_started", superseded_by="call_ended", token="late"))
    assert (late.superseded, late.ready) == (True, ())
    ended, started = await spool.trace("c")
    assert (ended.superseded, started.superseded) == (False, True)
    assert started.settled_at is not None
    assert started.deliveries == ()
    assert rows(tmp_path, "SELECT count(*) FROM chunks") == [(1,)]
    assert rows(tmp_path, "SELECT count(*) FROM tokens") == [(0,)]


async def test_a_superseded_record_is_owed_to_whoever_keeps_every_event(spool: Spool) -> None:
    """A late start goes to a store, which completes its call with it, and to nobody where the last write wins."""
    kept = NewDelivery(BUCKET, Form.WHOLE, Lane.CORE, ordered=False, last_write_wins=False)
    await spool.accept(a_record("c", event="call_ended"))
    late = await spool.accept(a_record("c", WHOLE, kept, event="call_started", superseded_by="call_ended"))
    assert late.superseded
    assert [delivery.destination for delivery in late.ready] == [BUCKET]
    _, started = await spool.trace("c")
    assert not started.superseded
    new = a_record("c", WHOLE, kept, event="call_started", superseded_by="call_ended")
    nobody = await spool.accept(replace(new, superseded_everywhere=True))
    assert nobody.ready == ()


async def test_a_start_before_its_end_is_not_superseded(spool: Spool) -> None:
    """Only an end that was accepted before makes a start superfluous."""
    first = await spool.accept(a_record("c", event="call_started", superseded_by="call_ended"))
    other = await spool.accept(a_record("d", event="call_started", superseded_by="call_ended"))
    assert not first.superseded
    assert not other.superseded


async def test_a_superseded_giant_leaves_no_chunks(spool: Spool, tmp_path: Path) -> None:
    """The parts of a payload that were written before it turned out to be superseded are deleted."""
    await spool.accept(a_record("c"))
    late = await spool.accept(a_record("c", event="call_started", superseded_by="call_ended", body=os.urandom(GIANT)))
    assert late.superseded
    await maintained(spool)
    assert rows(tmp_path, "SELECT count(*) FROM chunks") == [(1,)]
    assert rows(tmp_path, "SELECT count(*) FROM orphan_chunks") == [(0,)]


async def test_a_record_without_deliveries_is_a_receipt_at_once(spool: Spool, tmp_path: Path) -> None:
    """What is owed to nobody keeps no payload."""
    await spool.accept(replace(a_record("c"), deliveries=()))
    (record,) = await spool.trace("c")
    assert record.settled_at is not None
    assert rows(tmp_path, "SELECT count(*) FROM chunks") == [(0,)]


async def test_an_empty_payload_is_delivered_like_any_other(spool: Spool) -> None:
    """A record without a single byte ends without touching the chunks of the next one."""
    for call_id, body in (("empty", b""), ("also", b""), ("full", os.urandom(3 << 20))):
        await spool.accept(a_record(call_id, body=body))
    for delivery in await due(spool):
        await spool.settle(delivery, Delivered())
    await maintained(spool)
    assert [await states(spool, call_id) for call_id in ("empty", "also", "full")] == [[DeliveryState.DELIVERED]] * 3


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"call_id": "lone \ud800 surrogate"}, id="call id"),
        pytest.param({"token": "lone \ud800 surrogate"}, id="token"),
        pytest.param({"event": "lone \ud800 surrogate"}, id="event"),
    ],
)
async def test_text_that_cannot_be_stored_fails_alone(spool: Spool, clock: Clock, fields: dict[str, str]) -> None:
    """A lone surrogate is told as NotStorable to its own post, while those of the same commit go in."""
    records = [a_record("before"), replace(a_record(), **fields), a_record("after")]
    posts = [spool.accept(record) for record in records]
    before, wrong, after = await asyncio.gather(*posts, return_exceptions=True)
    assert isinstance(wrong, NotStorable)
    assert "surrogate" in str(wrong)
    assert not isinstance(before, BaseException)
    assert not isinstance(after, BaseException)
    assert spool.stats().failure is None
    assert len(await due(spool)) == 2
    assert spool.stats().lanes[ENDPOINT, Lane.CORE].owed == 2


async def test_a_nul_in_a_call_id_is_a_character_like_others(spool: Spool) -> None:
    """Ids that differ only behind a NUL are different calls, and each is found by its own."""
    one, two = "a\0one", "a\0two"
    await spool.accept(a_record(one))
    assert (await spool.accept(a_record(two))).ready
    assert [record.record.call_id for record in await spool.trace(one)] == [one]
    assert await spool.trace("a") == ()
    assert await spool.trace("\ud800") == ()


async def test_numbers_beyond_64_bits_are_not_storable(spool: Spool) -> None:
    """A number that SQLite has no room for fails its own operation only."""
    with pytest.raises(NotStorable, match="64 bits"):
        await spool.register_upload(b"k", "key", "c", None, 1 << 64)
    assert (await spool.accept(a_record())).ready


async def test_a_giant_comes_in_by_batches_and_is_whole(spool: Spool, tmp_path: Path) -> None:
    """A payload larger than a transaction may be is registered as orphaned until its record is there."""
    body = os.urandom(GIANT)
    accepted = await spool.accept(a_record("c", body=body))
    assert rows(tmp_path, "SELECT count(*) FROM orphan_chunks") == [(0,)]
    assert accepted.ready[0].record.fragments[Fragment.BODY].chunks == 12
    assert rows(tmp_path, "SELECT count(*) FROM chunks") == [(12,)]


async def test_small_posts_are_committed_between_the_batches_of_a_giant(spool: Spool) -> None:
    """Promise 5: a small post does not wait for the end of a large payload."""
    giant = asyncio.create_task(spool.accept(a_record("giant", body=os.urandom(GIANT))))
    small = 0
    while not giant.done():
        await spool.accept(a_record(f"small-{small}"))
        small += 1
    await giant
    assert small > 3


def _held_up(monkeypatch: pytest.MonkeyPatch, reached: Callable[[], object]) -> None:
    """Say when the second batch of a giant is being written."""
    original = ingest.write_orphans

    def write(transaction: Transaction, *, register: bool, **batch: Any) -> None:
        original(transaction, register=register, **batch)
        if not register:
            reached()

    monkeypatch.setattr(ingest, "write_orphans", write)


async def test_cancelling_a_giant_leaves_nothing(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that goes away in the middle leaves no chunk, no promise to the quota, and no half record."""
    loop, reached = asyncio.get_running_loop(), asyncio.Event()
    _held_up(monkeypatch, lambda: loop.call_soon_threadsafe(reached.set))
    body = bytearray(os.urandom(GIANT))
    accepting = asyncio.create_task(spool.accept(a_record("c", fragments={Fragment.BODY: [body]})))
    await asyncio.wait_for(reached.wait(), 30)
    accepting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await accepting
    body.clear()  # nobody looks at the caller's buffer any more, or this raises BufferError
    await maintained(spool)
    assert rows(tmp_path, "SELECT (SELECT count(*) FROM chunks), (SELECT count(*) FROM orphan_chunks)") == [(0, 0)]
    assert await spool.trace("c") == ()
    assert spool._quota._reserved == 0
    assert spool._orphans._incoming == set()


async def test_a_payload_whose_first_part_is_gone_is_refused(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should orphan chunks ever be deleted before their record came, that is an error and not a record with holes."""
    monkeypatch.setattr(spool._orphans, "_incoming", _Forgetful())
    loop, reached = asyncio.get_running_loop(), asyncio.Event()
    _held_up(monkeypatch, lambda: loop.call_soon_threadsafe(reached.set))
    accepting = asyncio.create_task(spool.accept(a_record("c", body=os.urandom(3 * GIANT))))
    await asyncio.wait_for(reached.wait(), 30)
    await spool._orphans.delete()
    with pytest.raises(SpoolUnavailable, match="deleted before"):
        await accepting
    assert await spool.trace("c") == ()


class _Forgetful(set[int]):
    def add(self, first_chunk: int) -> None:
        """Remember nothing."""


async def test_closing_while_posts_come_in_answers_every_one(tmp_path: Path) -> None:
    """Each post that is under way at the end is either durable or refused; none waits for ever."""
    async with opened(tmp_path) as spool:
        posts = [asyncio.ensure_future(spool.accept(a_record(f"s{number}"))) for number in range(50)]
        posts += [asyncio.ensure_future(spool.accept(a_record(f"g{n}", body=os.urandom(GIANT)))) for n in range(3)]
        await posts[0]
    results = await asyncio.wait_for(asyncio.gather(*posts, return_exceptions=True), 30)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, SpoolUnavailable) for error in refused)
    async with opened(tmp_path) as again:
        assert len(await due(again)) == len(results) - len(refused)
        await maintained(again)
        assert rows(tmp_path, "SELECT count(*) FROM orphan_chunks") == [(0,)]


async def test_a_closed_spool_refuses_everything(tmp_path: Path) -> None:
    """After `close` each way in says SpoolUnavailable, and closing again is harmless."""
    async with opened(tmp_path) as spool:
        accepted = await spool.accept(a_record())
    for asking in (
        spool.accept(a_record()),
        spool.accept(a_record(body=os.urandom(1 << 20))),
        spool.settle(accepted.ready[0], Delivered()),
        spool.due(ENDPOINT, Lane.CORE, now=0, limit=1),
        spool.trace("c"),
        spool.token(1),
    ):
        with pytest.raises(SpoolUnavailable, match="closed"):
            await asking
    await spool.close()


async def test_an_unknown_destination_fails_its_post_only(spool: Spool) -> None:
    """A delivery to a destination that the spool was not opened with is a mistake of that post."""
    posts = [
        spool.accept(a_record("fine")),
        spool.accept(a_record("wrong", type(CORE)("nobody", Form.CORE, Lane.CORE))),
    ]
    fine, wrong = await asyncio.gather(*posts, return_exceptions=True)
    assert isinstance(wrong, KeyError)
    assert not isinstance(fine, BaseException)


async def test_all_forms_of_a_record_are_owed(spool: Spool) -> None:
    """Each delivery of the plan is written with its own place in the order."""
    await spool.accept(a_record("c", CORE, DETAIL, OBJECT, NOTICE, fragments=split_fragments()))
    (record,) = await spool.trace("c")
    found = {(one.destination, one.form): one.state for one in record.deliveries}
    assert found == {
        (ENDPOINT, Form.CORE): DeliveryState.READY,
        (ENDPOINT, Form.DETAIL): DeliveryState.WAITING,
        (ENDPOINT, Form.NOTICE): DeliveryState.WAITING,
        (BUCKET, Form.DETAIL): DeliveryState.READY,
    }


async def test_a_failing_operation_of_a_transaction_is_told_as_it_is(spool: Spool) -> None:
    """What an operation raises reaches whoever submitted it, unchanged."""

    def fail(_transaction: Transaction) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await write(spool, fail)
