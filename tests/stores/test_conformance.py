"""What every store does: one suite for all of them, on real databases."""

import asyncio
import json
import random
import resource
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import zstandard
from msgspec.structs import replace

from spool.records import AGENT_LOST
from tests.budget import budgeted
from tests.stores.calls import RULE, detail_of, document_of, numbered, part_of, random_parts, span_of
from tests.stores.conftest import CLICKHOUSE
from tests.stores.engines import Engine
from uploaders.stores.completion import CallRow, CallState, add_part, expire, fields_of
from uploaders.stores.parts import Part, PartKind, key_text, shown_as_of
from uploaders.stores.schema import migrations_of
from uploaders.stores.spans import read_spans
from uploaders.stores.store import (
    CallPath,
    CallQuery,
    CallSummary,
    CallsWanted,
    Detail,
    OldCalls,
    PartRefused,
    SchemaTooNew,
    Span,
    Store,
    StoredCall,
    Swept,
    Written,
)

MINUTE = 60_000
VALUES = {
    "NUL": rb'"a\u0000b"',
    "lone surrogates": rb'["\ud800", "\udfff\ud800"]',
    "beyond any float": b"1e400",
    "25 digits": b"1234567890123456789012345",
    "digits kept": b"1.10",
    "duplicate keys": b'{"k": 1, "k": 2}',
    "blanks": b"[ 1 ,\t2\n]",
    "characters": '"h\u00e9llo \U0001f600"'.encode(),
}


async def call_of(store: Store, call_id: str = "c1", project: str = "") -> StoredCall:
    found = await store.call(project, call_id)
    assert found is not None
    return found


async def summary_of(store: Store, call_id: str = "c1") -> CallSummary:
    return (await call_of(store, call_id)).summary


def documents(call: StoredCall, kind: PartKind) -> list[bytes]:
    return [part.document for part in call.parts if part.kind is kind and part.shown]


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_documents_come_out_as_they_went_in(store: Store, value: bytes) -> None:
    """Every value that JSON text can hold is unchanged, byte for byte, in a document and in a detail."""
    text = b'{"call_id":"c1",  "value": ' + value + b"}"
    end, detail = part_of(PartKind.END, document=text), part_of(PartKind.DETAIL, document=text)
    await store.write([end, part_of(PartKind.UPDATE, document=text)])
    await store.write_detail(detail, detail_of(text))
    call = await call_of(store)
    assert documents(call, PartKind.END) == [text]
    assert documents(call, PartKind.UPDATE) == [text]
    assert await document_of(store.detail("", "c1")) == text


@pytest.mark.parametrize("call_id", ["a\0b", "a\ud800b", "ä😀", "x" * 2_000, "'; drop table calls_complete; --", ""])
async def test_any_call_id_names_its_call(store: Store, call_id: str) -> None:
    """An id with characters that no database takes is found by itself, and by no other id."""
    await store.write([part_of(PartKind.CALL, call_id), part_of(PartKind.CALL, "another")])
    assert (await call_of(store, call_id)).summary.call_id == key_text(call_id)
    assert await store.call("", call_id + "\ufffd") is None


@pytest.mark.parametrize("first", [PartKind.START, PartKind.END])
async def test_start_and_end_complete_a_call_in_any_order(store: Store, first: PartKind) -> None:
    """The second of both completes it, in one row, with what both say."""
    parts = {
        PartKind.START: part_of(PartKind.START, customer_number="+1", call_started_at=1_764_320_400),
        PartKind.END: part_of(PartKind.END, call_ended_at=1_764_320_460, call_ended_reason="hangup"),
    }
    assert await store.write([parts.pop(first)]) == Written({first: 1})
    assert (await summary_of(store)).state is (CallState.OPEN if first is PartKind.START else CallState.ENDED)
    (last,) = parts.values()
    assert await store.write([last]) == Written({last.kind: 1}, completed=1)
    call = await summary_of(store)
    assert (call.state, call.late, call.error) == (CallState.COMPLETE, False, None)
    assert (call.fields.customer_number, call.fields.duration_seconds) == ("+1", 60)
    assert call.completed_at is not None


async def test_both_parts_in_one_batch_complete_the_call_once(store: Store, engine: Engine) -> None:
    """Parts of one call in one batch become one row, and one completion."""
    both = [part_of(PartKind.START), part_of(PartKind.END)]
    written = await store.write(both)
    assert written == Written({PartKind.START: 1, PartKind.END: 1}, completed=1)
    assert sum(written.waits.values()) == 1
    assert engine.rows("select count(*) from calls_complete where completed_at is not null") == [(1,)]


async def test_a_call_log_without_events_waits_for_no_start(store: Store) -> None:
    """All of a call in one document is complete at once."""
    await store.write([part_of(PartKind.CALL)])
    assert (await summary_of(store)).state is CallState.COMPLETE


async def test_duplicates_change_nothing(store: Store, engine: Engine) -> None:
    """Writing parts again, alone or twice in one batch, leaves parts, rows, frames and spans as they were."""
    parts = [part_of(PartKind.START), part_of(PartKind.END), part_of(PartKind.UPDATE)]
    detail, text = part_of(PartKind.DETAIL, document=b'{"d":1}'), b'{"d":1}'
    await store.write([*parts, *parts])
    await store.write_detail(detail, detail_of(text, [span_of(0)]))
    before = await call_of(store)
    assert await store.write(parts) == Written()
    assert await store.write_detail(detail, detail_of(text, [span_of(0)], step=3)) == Written()
    assert await call_of(store) == before
    assert await document_of(store.detail("", "c1")) == text
    for table, count in {"call_parts": 4, "calls_complete": 1, "call_details": 1, "spans": 1}.items():
        assert engine.rows(f"select count(*) from {table}") == [(count,)]


async def test_projects_share_nothing(store: Store) -> None:
    """The same call id in two projects is two calls."""
    await store.write([part_of(PartKind.START, project="a"), part_of(PartKind.END, project="b")])
    assert (await call_of(store, project="a")).summary.state is CallState.OPEN
    assert (await call_of(store, project="b")).summary.state is CallState.ENDED
    assert await store.call("", "c1") is None
    assert [call.project for call in await store.calls(CallQuery(project="b"))] == ["b"]


@pytest.mark.parametrize("order", [("end", "detail"), ("detail", "end"), ("detail", "start", "end")])
async def test_a_detail_may_come_before_its_call(store: Store, order: tuple[str, ...]) -> None:
    """A detail waits for nothing and loses nothing, and is no start or end of its call."""
    text = b'{"call_id":"c1","telemetry_data":{}}'
    for step in order:
        if step == "detail":
            await store.write_detail(part_of(PartKind.DETAIL, document=text), detail_of(text, [span_of(0), span_of(1)]))
        else:
            await store.write([part_of(PartKind[step.upper()])])
    call = await summary_of(store)
    assert call.has_detail
    assert call.state is (CallState.COMPLETE if "start" in order else CallState.ENDED)
    assert await document_of(store.detail("", "c1")) == text


async def test_a_newer_detail_replaces_what_is_shown(store: Store, engine: Engine) -> None:
    """Of two details the one accepted last is shown, with its spans alone, whichever is written first."""
    old, new = b'{"detail":"old"}', b'{"detail":"new"}'
    for text, at in ((new, 2), (old, 1)):
        spans = [span_of(number, name=text.decode()) for number in range(at)]
        await store.write_detail(part_of(PartKind.DETAIL, accepted_at=at, document=text), detail_of(text, spans))
    assert await document_of(store.detail("", "c1")) == new
    assert engine.rows("select seq, name from spans order by seq") == [(0, new.decode()), (1, new.decode())]
    assert len((await call_of(store)).parts) == 2


@pytest.mark.parametrize("path", CallPath)
async def test_a_part_is_shown_as_one_of_its_kind(store: Store, path: CallPath) -> None:
    """An end that came with telemetry, and a newer one without: the second is shown, with the detail of the first."""
    older, newer = (part_of(PartKind.END, accepted_at=at, number=at) for at in (1, 2))
    await store.write([older, newer])
    detail = replace(older, kind=PartKind.DETAIL, document=b"")
    await store.write_detail(detail, detail_of(older.document))
    call = await store.call("", "c1", path)
    assert call is not None
    assert documents(call, PartKind.END) == [newer.document]
    assert [part.digest for part in call.parts if part.shown] == [older.digest, newer.digest]


async def test_spans_hold_whatever_a_sender_calls_them(store: Store, engine: Engine) -> None:
    """Each column of a span is stored, missing ones as null."""
    full = Span(0, "t", "s", "p", "span 0", "llm", 1 << 62, 5, 2, error=True)
    await store.write_detail(part_of(PartKind.DETAIL, document=b"{}"), detail_of(b"{}", [full, span_of(1, name=None)]))
    columns = "trace_id, span_id, parent_span_id, name, operation, start_ns, duration_ns, status, error"
    first, second = engine.rows(f"select {columns} from spans order by seq")
    assert first == ("t", "s", "p", "span 0", "llm", 1 << 62, 5, 2, True)
    assert second == (None,) * 8 + (False,)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_spans_and_details_as_json_are_unchanged(store: Store, engine: Engine, value: bytes) -> None:
    """Where a store is to keep them, SQL reads both byte for byte as they were posted; otherwise they are not there."""
    text = b'{"telemetry_data": {"session_traces": [{"name":  ' + value + b"}]}}"
    (span,) = read_spans(text, bodies=True)
    detail = part_of(PartKind.DETAIL, document=text)
    await store.write_detail(detail, detail_of(text, [span], whole=True))
    await store.write_detail(part_of(PartKind.DETAIL, "c2", document=text), detail_of(text, [span_of(0)]))
    kept = [("c1", '{"name":  ' + value.decode() + "}"), ("c2", None)]
    cast = {"uploaders.stores.postgres": "::text"}.get(engine.package, "")
    assert engine.rows(f"select call_id, body{cast} from spans order by call_id") == kept
    assert engine.rows(f"select call_id, document{cast} from detail_documents") == [("c1", text.decode())]


async def test_a_call_without_detail_has_no_frames(store: Store) -> None:
    """Asking for what is not there gives nothing, and no error."""
    await store.write([part_of(PartKind.END)])
    assert [frame async for frame in store.detail("", "c1")] == []
    assert [frame async for frame in store.detail("", "unknown")] == []
    assert await store.call("", "unknown") is None


async def test_an_interrupted_detail_leaves_nothing_to_see(store: Store, second: Store, engine: Engine) -> None:
    """A detail whose frames break off is not there; the same detail afterwards is, whole."""
    text = random.Random(1).randbytes(9 << 20).hex().encode()
    part = part_of(PartKind.DETAIL, document=text)

    async def broken() -> AsyncIterator[bytes]:
        async for number, frame in numbered(detail_of(text).frames):
            if number == 15:
                raise OSError("the spool's disk")
            yield frame

    with pytest.raises(OSError, match="disk"):
        await store.write_detail(part, Detail(broken()))
    assert [frame async for frame in second.detail("", "c1")] == []
    assert await second.call("", "c1") is None
    await store.write_detail(part, detail_of(text))
    assert await document_of(second.detail("", "c1")) == text
    engine.advance(25 * 60 * MINUTE)
    await store.sweep()
    held = sum(row[0] for row in engine.rows("select count(*) from call_details"))
    assert held == 18


async def test_deadlines_and_late_partners(store: Store, engine: Engine) -> None:
    """Orphan after `timeout`, error record after `open_timeout`; a late partner repairs both, marked as late."""
    await store.write([part_of(PartKind.START, "open"), part_of(PartKind.END, "orphan"), part_of(PartKind.CALL, "all")])
    engine.advance(RULE.timeout - 1_000)
    assert await store.sweep() == Swept()
    engine.advance(2_000)
    assert await store.sweep() == Swept(orphans=1)
    assert (await summary_of(store, "orphan")).state is CallState.ORPHAN
    assert (await summary_of(store, "orphan")).error
    assert (await summary_of(store, "open")).state is CallState.OPEN
    engine.advance(RULE.open_timeout)
    assert await store.sweep() == Swept(timed_out=1)
    assert (await summary_of(store, "open")).state is CallState.TIMED_OUT
    late = await store.write([part_of(PartKind.END, "open"), part_of(PartKind.START, "orphan")])
    assert late == Written({PartKind.END: 1, PartKind.START: 1}, late=2)
    for call_id in ("open", "orphan"):
        call = await summary_of(store, call_id)
        assert (call.state, call.late, call.error) == (CallState.COMPLETE, True, None)
    engine.advance(10 * RULE.open_timeout)
    assert await store.sweep() == Swept()


async def test_the_clocks_of_senders_move_no_deadline(store: Store, engine: Engine) -> None:
    """A sidecar whose clock is years ahead, or behind, has its calls given up when the others are: by the clock of the
    database, from when the part was received."""
    year = 365 * 86_400_000
    await store.write([part_of(PartKind.END, f"c{at}", at) for at in (1, 1_800_000_000_000 + 50 * year)])
    engine.advance(RULE.timeout - 1_000)
    assert await store.sweep() == Swept()
    engine.advance(2_000)
    assert await store.sweep() == Swept(orphans=2)


async def test_a_sweep_is_bounded(store: Store, engine: Engine) -> None:
    """At most `limit` calls are given up in one transaction, the oldest first; two sweepers share the rest."""
    await store.write([part_of(PartKind.END, f"c{number}") for number in range(7)])
    engine.advance(RULE.timeout + 1_000)
    assert [await store.sweep(limit=3) for _ in range(4)] == [Swept(0, 3), Swept(0, 3), Swept(0, 1), Swept()]


async def test_two_writers_at_once_complete_every_call(store: Store, second: Store, engine: Engine) -> None:
    """The start through one process and the end through another, at the same moment, find each other every time."""
    await asyncio.gather(store.open(), second.open())
    ids = [f"c{number}" for number in range(100)]
    chance = random.Random(7)

    async def send(to: Store, kind: PartKind) -> Written:
        parts = [part_of(kind, call_id) for call_id in ids]
        chance.shuffle(parts)
        done = await asyncio.gather(*[to.write(parts[start : start + 10]) for start in range(0, len(parts), 10)])
        return Written(completed=sum(written.completed for written in done))

    written = await asyncio.gather(send(store, PartKind.START), send(second, PartKind.END))
    completed = sum(each.completed for each in written)
    assert completed == len(ids) or (completed > len(ids) and not engine.transactional)
    assert engine.rows("select state, count(*) from calls_complete group by state") == [(CallState.COMPLETE, len(ids))]


async def test_the_same_parts_through_two_writers_are_written_once(store: Store, second: Store, engine: Engine) -> None:
    """Redelivery to another process at the same moment makes no second part, and no second completion."""
    await asyncio.gather(store.open(), second.open())
    text = json.dumps({"turns": ["x" * 100] * 1_000}).encode()
    for number in range(10):
        call_id = f"c{number}"
        parts = [part_of(PartKind.START, call_id), part_of(PartKind.END, call_id)]
        detail = part_of(PartKind.DETAIL, call_id, document=text)
        done = await asyncio.gather(
            store.write(parts), second.write(parts[::-1]),
            store.write_detail(detail, detail_of(text)), second.write_detail(detail, detail_of(text, step=1_000)),
        )  # fmt: skip
        completed = sum(written.completed for written in done)
        assert completed == 1 or (completed > 1 and not engine.transactional)
        assert await document_of(store.detail("", call_id)) == text
    assert engine.rows("select count(*) from call_parts") == [(30,)]


async def test_lists_show_the_newest_first_and_what_is_asked_for(store: Store) -> None:
    """By time, agent, number, state and the beginning of the id; no more than the limit."""
    first = 1_764_320_400
    await store.write(
        [
            part_of(PartKind.CALL, "a", agent_id="x", call_started_at=first, customer_number="+1"),
            part_of(PartKind.START, "b", agent_id="y", call_started_at=first + 60),
            part_of(PartKind.CALL, "c", agent_id="x", call_started_at=first + 120, transcript_json=[{}, {}, {}]),
        ]
    )

    async def listed(query: CallQuery) -> list[str]:
        return [call.call_id for call in await store.calls(query)]

    assert await listed(CallQuery()) == ["c", "b", "a"]
    assert await listed(CallQuery(limit=2)) == ["c", "b"]
    assert await listed(CallQuery(agent_id="x")) == ["c", "a"]
    assert await listed(CallQuery(customer_number="+1")) == ["a"]
    assert await listed(CallQuery(state=CallState.OPEN)) == ["b"]
    assert await listed(CallQuery(id_prefix="b")) == ["b"]
    assert await listed(CallQuery(id_prefix="%")) == []
    assert await listed(CallQuery(id_prefix="a", agent_id="y")) == []
    assert await listed(CallQuery(since=(first + 60) * 1000)) == ["c", "b"]
    assert await listed(CallQuery(until=(first + 60) * 1000)) == ["a"]
    assert (await store.calls(CallQuery(limit=1)))[0].fields.summary == {"turns": 3}


@pytest.mark.parametrize("path", CallPath)
async def test_a_list_goes_on_behind_the_last_call_that_was_shown(store: Store, path: CallPath) -> None:
    """By pages of any size each call is listed once, also those that began, or were first heard of, at one moment."""
    first = 1_764_320_400
    batch = [part_of(PartKind.CALL, f"unknown-{number}") for number in range(7)]
    batch += [part_of(PartKind.CALL, f"at-once-{number}", call_started_at=first) for number in range(7)]
    batch += [part_of(PartKind.CALL, f"late-{number}", call_started_at=first + number) for number in range(3)]
    await store.write(batch)
    everything = [call.call_id for call in await store.calls(CallQuery(), path)]
    assert len(everything) == 17
    listed: list[CallSummary] = []
    while page := await store.calls(
        CallQuery(limit=3, after=(listed[-1].place, listed[-1].call_id) if listed else None), path
    ):
        listed += page
    assert [call.call_id for call in listed] == everything


async def test_what_is_asked_for_may_have_any_characters(store: Store) -> None:
    """Those that no database takes are found as they were stored; they are no error of the store."""
    odd = "a\0b\ud800"
    await store.write([part_of(PartKind.CALL, "c1", agent_id=odd, customer_number=odd)])
    for query in (CallQuery(agent_id=odd), CallQuery(customer_number=odd), CallQuery(id_prefix="c")):
        assert [call.call_id for call in await store.calls(query.as_stored())] == ["c1"]
    for query in (CallQuery(project=odd), CallQuery(id_prefix=odd), CallQuery(limit=9, after=(0, odd))):
        assert await store.calls(query.as_stored()) == []
    assert await store.find_calls(CallsWanted(agent_id=odd)) == [("", "c1")]


async def test_a_time_that_fits_into_no_column_refuses_its_part(store: Store) -> None:
    """It is the value's fault, and no error of the program that wrote it."""
    with pytest.raises(PartRefused):
        await store.write([part_of(PartKind.CALL, "bad", accepted_at=1 << 65)])
    assert (await store.write([part_of(PartKind.CALL, "good")])).new


async def test_a_store_keeps_all_through_a_restart(engine: Engine) -> None:
    """Another process finds what was written, and goes on where this one stopped."""
    first, again = engine.store(), engine.store()
    await first.write([part_of(PartKind.START)])
    await first.close()
    assert await again.write([part_of(PartKind.END)]) == Written({PartKind.END: 1}, completed=1)
    status = await again.status()
    assert status.calls == {CallState.COMPLETE: 1}
    assert status.schema_version == max(migrations_of(engine.package))
    await again.close()


async def test_a_newer_schema_is_refused(store: Store, second: Store, engine: Engine) -> None:
    """What a newer callspool migrated is left alone, and the error says what to do."""
    await store.open()
    engine.set_schema_version(99)
    with pytest.raises(SchemaTooNew, match="version 99"):
        await second.write([part_of(PartKind.START)])
    assert engine.rows("select count(*) from call_parts") == [(0,)]


async def test_many_may_open_a_new_store_at_once(engine: Engine) -> None:
    """The first of several processes makes the schema; none of them fails."""
    stores = [engine.store() for _ in range(4)]
    await asyncio.gather(*[each.open() for each in stores])
    await asyncio.gather(*[each.write([part_of(PartKind.CALL, f"c{n}")]) for n, each in enumerate(stores)])
    assert engine.rows("select count(*) from calls_complete") == [(4,)]
    for each in stores:
        await each.close()


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [64, pytest.param(300, marks=pytest.mark.prove)])
async def test_a_huge_detail_takes_little_memory(store: Store, megabytes: int) -> None:
    """In and out it passes frame by frame; the process grows by far less than the detail."""
    await store.write([part_of(PartKind.END)])
    frame = zstandard.ZstdCompressor(level=1).compress(random.Random(1).randbytes(1 << 20))

    async def frames() -> AsyncIterator[bytes]:
        for _ in range(megabytes):
            yield frame

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await store.write_detail(part_of(PartKind.DETAIL, document=b"large"), Detail(frames()))
    sizes = [len(each) async for each in store.detail("", "c1")]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert sizes == [len(frame)] * megabytes
    assert grown < 32 << 20


@pytest.mark.parametrize("engine", ["sqlite", "postgres-18", "postgres-15", CLICKHOUSE], indirect=True)
@pytest.mark.parametrize("seed", range(5))
async def test_random_parts_and_crashes_agree_with_the_model(store: Store, engine: Engine, seed: int) -> None:
    """Whatever comes in whatever order, through writers that come and go: the rows are those of the pure rules."""
    if not engine.transactional and seed >= budgeted(small=2, full=5):
        pytest.skip("ClickHouse takes some seconds for each of these: five in the full proof")
    chance = random.Random(seed)
    model: dict[str, CallRow] = {}
    written: set[tuple[str, PartKind, bytes]] = set()
    now, writer = 0, store
    parts = random_parts(chance, calls=6, count=120)
    while parts:
        size = chance.randrange(1, 9)
        batch, parts = parts[:size], parts[size:]
        for part in [part for part in batch if part.kind is PartKind.DETAIL]:
            await writer.write_detail(part, detail_of(b'{"d":1}'))
            _add_to_model(model, written, [part], now)
        batch = [part for part in batch if part.kind is not PartKind.DETAIL]
        await writer.write(batch)
        _add_to_model(model, written, batch, now)
        if chance.random() < 0.3:  # the answer was lost, and it is written again
            await writer.write(batch[::-1])
        if chance.random() < 0.2:
            if writer is not store:
                await writer.close()
            writer = engine.store()
        if chance.random() < 0.4:
            passed = chance.choice([MINUTE, RULE.timeout + MINUTE, RULE.open_timeout + MINUTE])
            engine.advance(passed)
            now += passed
            await writer.sweep()
            model = {call_id: expire(row, now) for call_id, row in model.items()}
    assert {call.call_id: _known(call) for call in await store.calls(CallQuery())} == {
        call_id: _expected(row) for call_id, row in model.items()
    }
    assert engine.rows("select count(*) from call_parts") == [(len(written),)]
    if writer is not store:
        await writer.close()


def _add_to_model(
    model: dict[str, CallRow], written: set[tuple[str, PartKind, bytes]], batch: list[Part], now: int
) -> None:
    for part in batch:
        key = (part.call_id, part.kind, part.digest)
        if key not in written:
            written.add(key)
            model[part.call_id] = add_part(model.get(part.call_id), part, now, RULE)


def _known(call: CallSummary) -> tuple[object, ...]:
    return (call.state, call.late, call.fields, call.error, call.conflicts, call.has_detail)


def _expected(row: CallRow) -> tuple[object, ...]:
    fields = fields_of(row.start.head if row.start else None, row.end.head if row.end else None)
    return (row.state, row.late, fields, row.error, row.conflicts, row.detail is not None)


async def test_an_erased_call_is_gone_with_all_that_was_made_of_it(store: Store, engine: Engine) -> None:
    """Found by id, number or agent in every project; others stay, and doing it again does nothing."""
    for project, call_id, number in (("", "gone", "+1"), ("b", "gone", "+2"), ("", "stays", "+3")):
        agent, said = f"agent {number}", f"secret of {number}"
        await store.write(
            [
                part_of(kind, call_id, project=project, customer_number=number, agent_id=agent, transcript=said)
                for kind in (PartKind.START, PartKind.END)
            ]
        )
        text = json.dumps({"call_id": call_id, "secret": number}).encode()
        detail = replace(part_of(PartKind.DETAIL, call_id, document=text), project=project)
        await store.write_detail(detail, detail_of(text, [span_of(0)], whole=True))
    assert await store.find_calls(CallsWanted(("gone", "never"))) == [("", "gone"), ("b", "gone")]
    assert await store.find_numbers("%2") == [("b", "gone", "+2")]
    assert await store.find_calls(CallsWanted(agent_id="agent +1")) == [("", "gone")]
    assert await store.find_calls(CallsWanted()) == []
    keys = await store.find_calls(CallsWanted(("gone",)))
    assert (await store.delete(keys), await store.delete(keys)) == (6, 0)
    for table in ("call_parts", "calls_complete", "spans", "detail_documents"):
        assert engine.rows(f"select distinct call_id from {table}") == [("stays",)]
    assert engine.rows("select count(*) from call_details") == [(1,)]
    assert await document_of(store.detail("", "stays")) == b'{"call_id": "stays", "secret": "+3"}'
    assert await store.check() == ()


async def test_more_calls_than_a_page_are_erased_for_good(store: Store, engine: Engine) -> None:
    """Those of one number in two projects, whose other calls of the same ids stay; no merge of rows, sweep or backfill
    brings them back, and what is posted again is new."""
    tables = ("call_parts", "calls_merged", "calls_complete")
    merges = [f"optimize table {table} final" for table in tables if engine.package == "uploaders.stores.clickhouse"]
    erased = [
        replace(part, project=project)
        for project in ("a", "b") for number in range(510)
        for part in (part_of(PartKind.START, f"c{number}", customer_number="+49 170 1234567"),
                     part_of(PartKind.END, f"c{number}", customer_number="(0170) 123-4567"))
    ]  # fmt: skip
    kept = [part_of(PartKind.CALL, f"c{number}", customer_number="+43 170 1234567") for number in range(20)]
    await store.write([*erased, *kept])
    found = await store.find_numbers("%1%2%3%4%5%6%7%")
    assert {(project, number) for project, _, number in found if project} == {
        (project, number) for project in ("a", "b") for number in ("+49 170 1234567", "(0170) 123-4567")
    }
    keys = sorted({(project, call_id) for project, call_id, _ in found if project})
    assert (len(keys), len({call_id for project, call_id, _ in found if not project})) == (1020, 20)
    assert await store.delete(keys) == 2040
    for statement in merges:
        engine.change(statement)
    await store.sweep()
    day = await store.oldest_day()
    assert day is not None
    assert [step async for step in store.backfill(day)][-1].calls == 20
    for path in CallPath:
        assert [await store.calls(CallQuery(project=project), path) for project in ("a", "b")] == [[], []]
        assert len(await store.calls(CallQuery(project=""), path)) == 20
    assert await store.find_numbers("%1%2%3%4%5%6%7%") == [each for each in found if not each.project]
    assert await store.check() == ()
    assert await store.write(erased[:2]) == Written({PartKind.START: 1, PartKind.END: 1}, completed=1)
    assert len(await store.calls(CallQuery(project="a"))) == 1


async def test_a_page_of_old_calls_is_erased_after_the_other(store: Store, engine: Engine) -> None:
    """As retention does: until there is none left, and what came since stays."""
    await store.write([part_of(PartKind.CALL, f"c{number}") for number in range(120)])
    engine.age(10 * MINUTE)
    await store.write([part_of(PartKind.CALL, "new")])
    pages = []
    while keys := await store.old_calls(OldCalls(keep=5 * MINUTE, limit=50)):
        assert await store.delete(keys) == len(keys)
        pages.append(len(keys))
    assert pages == [50, 50, 20]
    assert [call.call_id for call in await store.calls(CallQuery())] == ["new"]


@pytest.mark.parametrize("real_first", [False, True])
async def test_a_real_end_is_shown_in_place_of_one_that_says_that_the_agent_is_lost(
    store: Store, real_first: bool
) -> None:
    """Whichever comes first, and although the gateway that lost the agent said so after the other had the end."""
    heard_at = 1_764_320_400_000
    lost = part_of(
        PartKind.END, accepted_at=heard_at + MINUTE, call_ended_at=heard_at / 1000, call_ended_reason=AGENT_LOST
    )
    lost = replace(lost, accepted_at=shown_as_of(lost.kind, lost.head, lost.accepted_at))
    real = part_of(PartKind.END, accepted_at=heard_at + 1, call_ended_reason="completed")
    await store.write([part_of(PartKind.START, accepted_at=heard_at - MINUTE)])
    for part in (real, lost) if real_first else (lost, real):
        await store.write([part])
    summary = await summary_of(store)
    assert (summary.state, summary.fields.reason) == (CallState.COMPLETE, "completed")
    shown = [part.source_uid for part in (await call_of(store)).parts if part.shown and part.kind is PartKind.END]
    assert shown == [real.source_uid]


async def test_old_calls_are_those_of_which_nothing_came_for_long(store: Store, engine: Engine) -> None:
    """By their last part, for a project, for all but some, and at most so many."""
    for project, call_id in (("", "a"), ("b", "a"), ("c", "a"), ("", "late")):
        await store.write([replace(part_of(PartKind.START, call_id), project=project)])
    engine.age(10 * MINUTE)
    await store.write([part_of(PartKind.END, "late"), part_of(PartKind.CALL, "new")])

    async def old(**more: Any) -> list[tuple[str, str]]:
        return sorted(await store.old_calls(OldCalls(**{"keep": 5 * MINUTE, "limit": 10, **more})))

    assert await old() == [("", "a"), ("b", "a"), ("c", "a")]
    assert await old(project="b") == [("b", "a")]
    assert await old(all_but=("b", "c")) == [("", "a")]
    assert await old(keep=20 * MINUTE) == []
    assert len(await old(limit=2)) == 2
