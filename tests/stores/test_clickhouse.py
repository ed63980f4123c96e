"""What the ClickHouse store does besides what every store does, and some of that: the suite is in the proof."""

import json
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from bench.clickhouse_server import ClickHouseServer
from tests.stores.calls import RULE, detail_of, document_of, part_of, span_of
from tests.stores.engines import ClickHouseEngine
from uploaders.stores.completion import CallState
from uploaders.stores.parts import Part, PartKind
from uploaders.stores.store import (
    CallPath,
    CallQuery,
    CallsWanted,
    PartRefused,
    StoreRefused,
    StoreUnavailable,
    Swept,
    Written,
)

pytest.importorskip("clickhouse_connect")

from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError  # see above

from uploaders.stores.clickhouse import sql
from uploaders.stores.clickhouse.client import translate
from uploaders.stores.clickhouse.store import ABANDONED_AFTER, REPAIR_EVERY, REPAIR_SINCE, ClickHouseStore

EXACT = b'{"call_id":"c1","n":1e400,"s":"\\ud800\\u0000","k":1,"k":2,"big":1234567890123456789012345}'


@pytest.fixture
def engine(clickhouse_server: ClickHouseServer) -> ClickHouseEngine:
    return ClickHouseEngine(clickhouse_server, f"test_{uuid.uuid4().hex}")


@pytest.fixture
async def store(engine: ClickHouseEngine) -> AsyncIterator[ClickHouseStore]:
    made = engine.store()
    yield made
    await made.close()


async def test_a_call_from_its_parts_to_its_detail(store: ClickHouseStore, engine: ClickHouseEngine) -> None:
    """Pairing, duplicates, values, sweeps, lists and details, one after the other on one database."""
    start, end = (
        part_of(PartKind.START, agent_id="a", call_started_at=1_764_320_400),
        part_of(PartKind.END, document=EXACT),
    )
    assert await store.write([end]) == Written({PartKind.END: 1})
    assert await store.write([start, end]) == Written({PartKind.START: 1}, completed=1)
    assert await store.write([start, end]) == Written()
    assert await store.write_detail(part_of(PartKind.DETAIL, document=EXACT), detail_of(EXACT, [span_of(0)], 7)) == (
        Written({PartKind.DETAIL: 1})
    )
    call = await store.call("", "c1")
    assert call is not None
    assert call.summary.state is CallState.COMPLETE
    assert [part.document for part in call.parts if part.kind is PartKind.END] == [EXACT]
    assert await document_of(store.detail("", "c1")) == EXACT
    assert engine.rows("select name from spans") == [("span",)]
    await store.write([part_of(PartKind.END, "orphan")])
    engine.advance(RULE.timeout + 1)
    assert await store.sweep() == Swept(orphans=1)
    lists = [await store.calls(CallQuery(), path) for path in CallPath]
    assert [[(call.call_id, call.state) for call in each] for each in lists] == [
        [("orphan", CallState.ORPHAN), ("c1", CallState.COMPLETE)]
    ] * 2
    assert [call.call_id for call in await store.calls(CallQuery(agent_id="a"))] == ["c1"]
    assert await store.check() == ()


async def test_a_view_of_maxima_shows_the_newest_part_in_any_order(
    store: ClickHouseStore, engine: ClickHouseEngine
) -> None:
    """Parts in some orders, each twice, in one block or in several: calls_merged shows the part of the highest rank."""
    await store.open()
    chance = random.Random(5)
    for number in range(4):
        ends = [part_of(PartKind.END, f"c{number}", accepted_at=at, number=at) for at in range(3)]
        size = 6 if number % 2 else 1
        shuffled = ends * 2 if number == 1 else chance.sample(ends * 2, 6)
        for start in range(0, 6, size):
            await store._insert(shuffled[start : start + size])
    shown = engine.rows("select call_id, max(end_part).1 from calls_merged group by call_id")
    assert dict(shown) == {f"c{number}": 2 for number in range(4)}


async def test_a_detail_that_failed_in_the_middle_gets_its_spans(
    store: ClickHouseStore, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part, which makes it a duplicate, comes last; a newer detail replaces spans where it is shown."""
    insert, part = store._server.insert, part_of(PartKind.DETAIL, accepted_at=2, document=EXACT)
    await store.open()

    async def fail(table: str, *rest: Any) -> None:
        if table == "spans":
            monkeypatch.setattr(store._server, "insert", insert)
            raise StoreUnavailable("ClickHouse: Code: 252")
        await insert(table, *rest)

    monkeypatch.setattr(store._server, "insert", fail)
    with pytest.raises(StoreUnavailable):
        await store.write_detail(part, detail_of(EXACT, [span_of(0)]))
    for _ in range(2):
        await store.write_detail(part, detail_of(EXACT, [span_of(0)]))
    assert engine.rows("select name from spans") == [("span",)]
    for at, names in ((1, ["span"]), (3, ["a", "b"])):
        other = part_of(PartKind.DETAIL, accepted_at=at, document=b'{"at":%d}' % at)
        await store.write_detail(other, detail_of(b"{}", [span_of(0, "a"), span_of(1, "b")]))
        assert engine.rows("select name from spans order by seq") == [(name,) for name in names]
    assert await store.check() == ()


@pytest.mark.parametrize("earlier", [False, True])
async def test_of_details_that_come_at_once_the_shown_one_has_its_spans(
    engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    """Also where another one comes and ends between the spans of the newest and its part."""
    first, second = engine.store(), engine.store()
    parts = [part_of(PartKind.DETAIL, accepted_at=at, document=b'{"at":%d}' % at) for at in (1, 2, 3)]
    details = [detail_of(b"{}", [span_of(seq, str(at)) for seq in range(4 - at)]) for at in (1, 2, 3)]
    if earlier:
        await second.write_detail(parts[0], details[0])
    insert = first._insert

    async def after_the_other(*arguments: Any) -> None:
        await second.write_detail(parts[1], details[1])
        await insert(*arguments)

    monkeypatch.setattr(first, "_insert", after_the_other)
    await first.write_detail(parts[2], details[2])
    assert engine.rows("select name from spans") == [("3",)]
    for store in (first, second):
        await store.close()


async def test_rows_made_anew_during_an_erasure_go_with_it(
    store: ClickHouseStore, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep, a repair or a backfill between any two steps brings nothing back that no later order would find."""
    await store.write([part_of(PartKind.START), part_of(PartKind.END)])
    keys = {"projects": [""], "call_ids": ["c1"], "now": store._clock(), "since": 0}
    run = store._server.run

    async def run_and_repair(statement: str, *values: Any) -> None:
        await run(statement, *values)
        if statement.startswith("ALTER"):
            await run(sql.put_rows(sql.OF_KEYS, RULE), keys)
            await run(sql.PUT_COMPLETIONS, keys)

    monkeypatch.setattr(store._server, "run", run_and_repair)
    assert await store.delete([("", "c1")]) == 2
    for table in ("call_parts", "calls_merged", "calls_complete", "completions"):
        assert engine.rows(f"select count() from {table}") == [(0,)], table


async def test_what_was_erased_can_be_written_again(store: ClickHouseStore) -> None:
    """In the very same batch, too: ClickHouse remembers the last inserts, and must not take it for one of these."""
    batch = [part_of(PartKind.START), part_of(PartKind.END)]
    for _ in range(2):
        assert (await store.write(batch)).completed == 1
        assert [call.call_id for call in await store.calls(CallQuery())] == ["c1"]
        assert await store.delete([("", "c1")]) == 2


async def test_what_a_writer_left_behind_is_repaired(store: ClickHouseStore, engine: ClickHouseEngine) -> None:
    """It died between parts and row: a sweep makes the row, and the same batch again completes the call."""
    await store.open()
    await store._insert([part_of(PartKind.START), part_of(PartKind.END)])
    assert engine.rows("select count() from calls_complete") == [(0,)]
    await store.sweep()
    assert engine.rows("select state from calls_complete") == [(CallState.COMPLETE,)]
    assert await store.write([part_of(PartKind.START), part_of(PartKind.END)]) == Written()


async def test_more_than_a_sweep_repairs_is_repaired_by_the_next(
    store: ClickHouseStore, engine: ClickHouseEngine
) -> None:
    """Also where it is from before the last hour, as after a night without a gateway."""
    await store.open()
    await store._insert([part_of(PartKind.CALL, f"c{number}") for number in range(5)])
    engine.advance(2 * REPAIR_SINCE)
    for _ in range(3):
        await store.sweep(2)
        engine.advance(REPAIR_EVERY)
    assert engine.rows("select count() from calls_complete") == [(5,)]


async def test_what_is_old_is_not_read_for_repairs(store: ClickHouseStore, engine: ClickHouseEngine) -> None:
    """Every minute: of calls of which nothing came lately neither parts nor rows are put together."""
    await store.write([part_of(PartKind.START, f"c{number}") for number in range(300)])
    engine.advance(2 * REPAIR_SINCE)
    await store.write([part_of(PartKind.START, "new")])
    limited = f"{sql.BEHIND} SETTINGS max_rows_to_group_by = 100, group_by_overflow_mode = 'throw'"
    assert await store._server.rows(limited, {"since": engine.now - REPAIR_SINCE, "limit": 9}) == []


async def test_a_row_of_somebody_who_knew_less_does_not_win(store: ClickHouseStore, engine: ClickHouseEngine) -> None:
    """Written later, of fewer parts: the row of more parts stays, whatever the clocks say."""
    await store.write([part_of(PartKind.START), part_of(PartKind.END)])
    engine.change(
        f"insert into calls_complete (project, call_id, state, version) select '', 'c1', {CallState.TIMED_OUT:d}, 8 + 1"
    )
    (call,) = await store.calls(CallQuery())
    assert call.state is CallState.COMPLETE


async def test_an_answer_that_is_lost_costs_nothing(
    store: ClickHouseStore, engine: ClickHouseEngine, clickhouse_server: ClickHouseServer
) -> None:
    """An insert failed, or its answer was lost: written again, by the client or by us, each part is there once."""
    await store.open()
    batch = [part_of(PartKind.START), part_of(PartKind.END)]
    clickhouse_server.fail(500, "Code: 252. DB::Exception: Too many parts (300). (TOO_MANY_PARTS)")
    with pytest.raises(StoreUnavailable, match="252"):
        await store.write(batch)
    clickhouse_server.fail(0, after=True)
    with suppress(StoreUnavailable):
        await store._insert(batch)
    await store.write(batch)
    assert engine.rows("select count() from call_parts") == [(2,)]
    assert [call.state for call in await store.calls(CallQuery())] == [CallState.COMPLETE]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (252, StoreUnavailable),  # too many parts
        (241, StoreUnavailable),  # memory limit
        (159, StoreUnavailable),  # timeout exceeded
        (202, StoreUnavailable),  # too many simultaneous queries
        (243, StoreUnavailable),  # not enough space
        (60, StoreRefused),  # unknown table
        (47, StoreRefused),  # unknown identifier
        (81, StoreRefused),  # unknown database
        (497, StoreRefused),  # access denied
        (516, StoreRefused),  # wrong password
        (117, PartRefused),  # incorrect data
        (131, PartRefused),  # too large string
    ],
)
def test_each_error_is_the_value_s_the_moment_s_or_the_set_up_s(code: int, kind: type[Exception]) -> None:
    """What is retried, what refuses one part, and what waits for somebody to change something."""
    assert type(translate(DatabaseError("secret\nrow", code=code))) is kind
    assert "row" not in str(translate(DatabaseError("secret\nrow", code=code)))


def test_a_server_that_does_not_answer_may_come() -> None:
    """Nothing listens, or a connection breaks."""
    for error in (OperationalError("no route"), ConnectionResetError(), TimeoutError()):
        assert type(translate(error)) is StoreUnavailable


async def test_complete_calls_are_announced(engine: ClickHouseEngine) -> None:
    """Once each, also after a writer died between the row of a call and its outbox: the batch that is written again
    brings it there. What was announced stays so whoever writes its parts again, and is not announced for an old call
    of which an update comes, or for those of a time without a subscriber."""
    silent, store = engine.store(), engine.store(announces=True)
    parts = [part_of(PartKind.START, "a"), part_of(PartKind.END, "a")]
    await silent.write(parts)
    assert await store.claim_completions("me", 10) == []
    await store.write(parts)
    assert await store.claim_completions("me", 10) == [("", "a")]
    assert await store.claim_completions("other", 10) == []
    await store.forget_completions([("", "a")])
    await store.write([*parts, part_of(PartKind.END, "a", 9, later=True)])
    assert await store.claim_completions("me", 10) == []
    await silent.write([part_of(PartKind.CALL, "old")])
    engine.advance(8 * 86_400_000)
    await store.write([part_of(PartKind.UPDATE, "old")])
    assert await store.claim_completions("me", 10) == []
    assert await store.delete([("", "a")]) == 3
    assert engine.rows("select count() from completions") == [(0,)]
    await silent.close()
    await store.close()


async def test_an_announcement_under_way_writes_no_erased_call_anew(
    engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Erased between the look for complete calls and their claim, or while it was announced; the same id of another
    project is claimed and announced by itself."""
    store = engine.store(announces=True)
    await store.write([part_of(PartKind.CALL, "a"), part_of(PartKind.CALL, "a", project="b")])
    rows = store._server.rows

    async def look_and_erase(statement: str, *values: Any) -> Any:
        found = await rows(statement, *values)
        if statement is sql.CLAIMABLE:
            await store.delete([("", "a")])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(store._server, "rows", look_and_erase)
        assert await store.claim_completions("me", 10) == [("b", "a")]
    await store.forget_completions([("", "a")])
    assert engine.rows("select project, told from completions final") == [("b", False)]
    await store.forget_completions([("b", "a")])
    assert await store.claim_completions("me", 10) == []
    await store.close()


@pytest.fixture
async def staged(store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch) -> Part:
    """The part of a detail whose writing ended before that part was there."""
    document = json.dumps({"secret": "x" * 100}).encode()
    part = part_of(PartKind.DETAIL, "c1", document=document)

    async def fail(*_: object) -> None:
        raise StoreUnavailable("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_insert", fail)
        with pytest.raises(StoreUnavailable, match="lost"):
            await store.write_detail(part, detail_of(document, [span_of(0)], whole=True))
    return part


STAGED = ("call_details", "detail_documents final", "spans final")


async def test_what_a_detail_left_that_never_came_is_erased_with_its_call(
    store: ClickHouseStore, engine: ClickHouseEngine, staged: Part
) -> None:
    """Though no part of the call is there."""
    assert [engine.rows(f"select count() from {table}") for table in STAGED] == [[(1,)]] * 3
    assert await store.find_calls(CallsWanted(("c1",))) == [("", "c1")]
    assert await store.delete([("", "c1")]) == 0
    assert [engine.rows(f"select count() from {table}") for table in STAGED] == [[(0,)]] * 3


@pytest.mark.parametrize("came", [False, True])
async def test_what_a_detail_left_that_never_came_is_cleared_after_a_day(
    store: ClickHouseStore, engine: ClickHouseEngine, staged: Part, came: bool
) -> None:
    """Frames, spans and document; where the same detail has come since, all that it needs stays."""
    if came:
        document = json.dumps({"secret": "x" * 100}).encode()
        await store.write_detail(staged, detail_of(document, [span_of(0)], whole=True))
    engine.advance(ABANDONED_AFTER)
    await store.sweep()
    assert [engine.rows(f"select count() from {table}") for table in STAGED] == [[(int(came),)]] * 3
    assert await store.check() == ()
