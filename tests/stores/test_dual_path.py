"""The old path, the new path, and the backfill of the second from the first, on every engine."""

import random
from contextlib import aclosing
from dataclasses import replace
from datetime import date

import pytest

from tests.stores.calls import RULE, detail_of, part_of, random_parts
from tests.stores.engines import Engine
from uploaders.stores.completion import CallRow, CallState, ReceivedPart, add_part, expire, merge
from uploaders.stores.parts import Part, PartKind
from uploaders.stores.store import (
    BackfillDay,
    BackfillStatus,
    CallPath,
    CallQuery,
    CallSummary,
    Parity,
    Store,
    StoreUnavailable,
    Written,
)

DAY = 24 * 3600 * 1000
BOTH = (CallPath.COMPLETE, CallPath.MERGED)


async def written(store: Store, parts: list[Part]) -> None:
    """Write parts in a few batches, and the details among them one by one."""
    for batch in (parts[start : start + 8] for start in range(0, len(parts), 8)):
        await store.write([part for part in batch if part.kind is not PartKind.DETAIL])
        for part in batch:
            if part.kind is PartKind.DETAIL:
                await store.write_detail(part, detail_of(b'{"d":1}'))


async def backfilled(store: Store, day: date | None, page_rows: int = 5, pages: int | None = None) -> list[BackfillDay]:
    """What a backfill of a day gave; no more than so many pages of it."""
    assert day is not None
    found: list[BackfillDay] = []
    async with aclosing(store.backfill(day, page_rows)) as progress:
        async for each in progress:
            found.append(each)
            if len(found) == pages:
                break
    return found


def settled(call: CallSummary) -> tuple[object, ...]:
    """What both paths must say alike."""
    return (call.call_id, call.state, call.fields, call.conflicts, call.has_detail, call.error)


@pytest.mark.parametrize("seed", range(2))
async def test_both_paths_show_the_same_calls(store: Store, engine: Engine, seed: int) -> None:
    """Made of its parts when it is asked for, a call is what it was made of them when they came: in lists and alone."""
    await written(store, random_parts(random.Random(seed), calls=8, count=48))
    lists = [[settled(call) for call in await store.calls(CallQuery(), path)] for path in BOTH]
    assert sorted(map(repr, lists[0])) == sorted(map(repr, lists[1]))
    for call_id in {call.call_id for call in await store.calls(CallQuery())}:
        complete, merged = [await store.call("", call_id, path) for path in BOTH]
        assert complete is not None
        assert merged is not None
        assert complete.parts == merged.parts
        assert settled(complete.summary) == settled(merged.summary)


async def test_the_old_path_gives_up_calls_by_itself(engine: Engine) -> None:
    """Without sweeps, by the times at which the parts were received; what is late is said to be."""
    store = engine.store(pairs=False)
    await store.write([part_of(PartKind.END, "orphan"), part_of(PartKind.END, "late"), part_of(PartKind.START, "open")])
    engine.age(RULE.timeout + 1_000)
    await store.write([part_of(PartKind.START, "late")])
    calls = {call.call_id: call for call in await store.calls(CallQuery(), CallPath.MERGED)}
    assert (calls["orphan"].state, calls["open"].state) == (CallState.ORPHAN, CallState.OPEN)
    assert (calls["late"].state, calls["late"].late) == (CallState.COMPLETE, True)
    assert calls["orphan"].error == "its start did not come in time"
    orphans = await store.calls(CallQuery(state=CallState.ORPHAN), CallPath.MERGED)
    assert [call.call_id for call in orphans] == ["orphan"]
    alone = await store.call("", "late", CallPath.MERGED)
    assert alone is not None
    assert alone.summary == calls["late"]
    await store.close()


async def test_a_store_that_does_not_pair_keeps_parts_alone(engine: Engine) -> None:
    """Only the old path sees its calls, details with their spans included; nothing in it is due."""
    store = engine.store(pairs=False)
    assert await store.write([part_of(PartKind.START), part_of(PartKind.END)]) == Written(
        {PartKind.START: 1, PartKind.END: 1}
    )
    await store.write_detail(part_of(PartKind.DETAIL, document=b"{}"), detail_of(b"{}"))
    assert await store.calls(CallQuery()) == []
    assert [call.state for call in await store.calls(CallQuery(), CallPath.MERGED)] == [CallState.COMPLETE]
    assert len([frame async for frame in store.detail("", "c1")]) == 1
    engine.advance(10 * RULE.open_timeout)
    assert (await store.sweep()).orphans == 0
    assert await store.check() == ()
    await store.close()


async def test_a_backfill_makes_the_rows_that_are_missing(engine: Engine) -> None:
    """Afterwards the new path shows what the old one does, and the day is completed; end-only calls are counted."""
    old, store = engine.store(pairs=False), engine.store()
    parts = random_parts(random.Random(4), calls=23, count=80)
    await written(old, parts)
    engine.age(2 * DAY)
    day = await store.oldest_day()
    progress = await backfilled(store, day)
    calls = {call.call_id: settled(call) for call in await store.calls(CallQuery())}
    assert calls == {call.call_id: settled(call) for call in await store.calls(CallQuery(), CallPath.MERGED)}
    assert (progress[-1].status, progress[-1].differing) == (BackfillStatus.COMPLETED, 0)
    assert progress[-1].calls == progress[-1].written == len(calls) > 20
    assert len(progress) == 6
    assert progress[-1].end_only == sum(state is CallState.ORPHAN for _, state, *_ in calls.values()) > 0
    assert await store.backfill_days() == [progress[-1]]
    assert await backfilled(store, day) == [progress[-1]]
    assert await store.check() == ()
    for each in (old, store):
        await each.close()


async def test_a_backfill_goes_on_where_it_stopped(engine: Engine) -> None:
    """At every page: another process finds the cursor where the rows are, and nothing is counted twice."""
    old = engine.store(pairs=False)
    await written(old, [part_of(PartKind.CALL, f"c{number:02}") for number in range(20)])
    engine.age(2 * DAY)
    day = await old.oldest_day()
    for page in range(1, 5):
        store = engine.store()
        (*_, progress) = await backfilled(store, day, page_rows=5, pages=1)
        assert (progress.calls, progress.written) == (5 * page, 5 * page)
        assert engine.rows("select count(*) from calls_complete") == [(5 * page,)]
        await store.close()
    (*_, ended) = await backfilled(old, day)
    assert (ended.status, ended.calls, ended.written) == (BackfillStatus.COMPLETED, 20, 20)
    await old.close()


async def test_a_backfill_repairs_a_row_that_began_without_its_start(engine: Engine) -> None:
    """A call that began on the old path and ended on the new one is whole afterwards; a right row is left alone."""
    old, store = engine.store(pairs=False), engine.store()
    await old.write([part_of(PartKind.START, "split"), part_of(PartKind.START, "right")])
    engine.age(2 * DAY)
    await store.write([part_of(PartKind.END, "split")])
    await store.write([part_of(PartKind.START, "whole"), part_of(PartKind.END, "whole")])
    day = await store.oldest_day()
    assert day is not None
    wrong = int(engine.transactional)  # ClickHouse makes every row of all parts that are there
    assert await store.parity(day) == Parity(calls=2, rows=1, differing=wrong, end_only=0)
    (*_, ended) = await backfilled(store, day)
    assert (ended.status, ended.written) == (BackfillStatus.COMPLETED, 1 + wrong)
    call = await store.call("", "split")
    assert call is not None
    assert (call.summary.state, call.summary.error) == (CallState.COMPLETE, None)
    assert (await store.status()).calls == {CallState.COMPLETE: 2, CallState.TIMED_OUT: 1}
    for each in (old, store):
        await each.close()


async def test_a_day_whose_paths_differ_is_not_completed(engine: Engine) -> None:
    """A row that shows another end than the parts say, or is gone: counted, and the next run repairs it."""
    store = engine.store()
    await store.write([part_of(PartKind.CALL, "a"), part_of(PartKind.CALL, "b"), part_of(PartKind.CALL, "c")])
    engine.age(2 * DAY)
    day = await store.oldest_day()
    assert day is not None
    async with aclosing(store.backfill(day, 10)) as pages:
        await anext(pages)
        engine.change("delete from calls_complete where call_id = 'a'")
        update = "update calls_complete set {} where {}"
        if not engine.transactional:
            update = "alter table calls_complete update {} where {} settings mutations_sync = 2"
        engine.change(update.format("end_digest = start_digest", "call_id = 'b'"))
        ended = await anext(pages)
    assert (ended.status, ended.differing) == (BackfillStatus.DIFFERING, 2)
    (*_, again) = await backfilled(store, day)
    assert (again.status, again.written, again.differing) == (BackfillStatus.COMPLETED, 2, 0)
    await store.close()


async def test_two_backfills_at_once_count_a_call_once(engine: Engine) -> None:
    """One of them is refused in a database with transactions; the other goes on to the end."""
    old, one, other = engine.store(pairs=False), engine.store(), engine.store()
    await old.write([part_of(PartKind.CALL, f"call-{number}") for number in range(6)])
    engine.age(2 * DAY)
    day = await old.oldest_day()
    assert day is not None
    refusals: list[str] = []
    async with aclosing(one.backfill(day, 2)) as first, aclosing(other.backfill(day, 2)) as second:
        await anext(first)
        steps = {0: first, 1: second}
        while steps:
            for number, pages in list(steps.items()):
                try:
                    if await anext(pages, None) is None:
                        del steps[number]
                except StoreUnavailable as error:
                    refusals.append(str(error))
                    del steps[number]
    (found,) = await old.backfill_days()
    assert (found.status, found.calls) == (BackfillStatus.COMPLETED, 6)
    assert found.written == 6 or not engine.transactional  # ClickHouse notes what the last one wrote
    assert [each.startswith("another backfill of this database") for each in refusals] == [True] * engine.transactional
    for each in (old, one, other):
        await each.close()


async def test_a_pause_is_heard_by_others(store: Store, second: Store) -> None:
    """It is asked for in the database, where every process sees it."""
    assert not await store.backfills_paused()
    await store.pause_backfills(pause=True)
    assert await second.backfills_paused()
    await second.pause_backfills(pause=False)
    assert not await store.backfills_paused()


async def test_a_small_write_is_timed(store: Store) -> None:
    """The probe of the commit latency takes some time, and changes no call."""
    assert 0 < await store.commit_seconds() < 5
    assert await store.calls(CallQuery()) == []


@pytest.mark.parametrize("seed", range(20))
def test_all_parts_at_once_make_what_they_made_one_by_one(seed: int) -> None:
    """`merge` agrees with `add_part` and `expire` on random histories, but for `late`."""
    chance = random.Random(seed)
    row: CallRow | None = None
    received: list[ReceivedPart] = []
    keys, now = set[tuple[PartKind, bytes]](), 0
    for part in random_parts(chance, calls=1, count=chance.randrange(1, 8)):
        now += chance.choice([0, 1_000, RULE.timeout, RULE.open_timeout])
        row = row and expire(row, now)
        if (part.kind, part.digest) not in keys:
            keys.add((part.kind, part.digest))
            row = add_part(row, part, now, RULE)
            received.append(ReceivedPart(part.kind, part.accepted_at, part.digest, part.head, now))
    assert row is not None
    chance.shuffle(received)
    merged = merge((row.project, row.call_id), received, now, RULE)
    assert replace(merged, late=False) == replace(expire(row, now), late=False)
