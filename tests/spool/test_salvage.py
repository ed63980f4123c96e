"""Salvage and adoption: what another database holds comes into this one, once, with its keys, order and tokens."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spool.db.connection import PAGE_SIZE
from spool.db.sql import UNASSIGNED
from spool.directory import DATABASE_NAME, IMPORTED_NAME, quarantined
from spool.errors import CorruptDatabase, CorruptPayload, SchemaTooNew, SpoolFull, SpoolLocked, UnsuitableDirectory
from spool.fsck import Severity, check
from spool.live_calls import HeardCall, NewTurn
from spool.records import DeliveryState, Form, Fragment, Lane, NewDelivery, NewSpans, OwnedCall
from spool.salvage.model import Outcome, Tally
from spool.salvage.service import Task
from tests.spool.salvaged_spools import bring, content, fill, filled_aside, open_deliveries, totals
from tests.spool.spool_parts import (
    ENDPOINT,
    HOUR,
    NOW,
    WHOLE,
    Clock,
    a_record,
    change,
    due,
    opened,
    payload,
    states,
)


def errors(directory: Path) -> list[str]:
    return [f"{one.kind}: {one.text}" for one in check(directory) if one.severity is Severity.ERROR]


async def test_a_sound_database_comes_over_whole(tmp_path: Path) -> None:
    """Every open delivery keeps its key, its state and its payload; what was delivered is not owed again."""
    known, owed = await filled_aside(tmp_path / "old")
    async with opened(tmp_path / "new") as spool:
        tally = await bring(spool, tmp_path / "old")
        assert tally.outcomes == {Outcome.IMPORTED: len(known)}
        assert await open_deliveries(spool) == owed
        for call, fragments in known.items():
            for fragment, expected in fragments.items():
                assert await content(spool, call, fragment) == expected
        assert spool.stats().unaccounted == 0
        (first, *_) = [delivery for delivery in await due(spool) if delivery.record.call_id == "call-4"]
        assert await spool.token(first.record.token_id or 0) == "t0"
    assert errors(tmp_path / "new") == []


async def test_the_gateways_that_a_record_came_through_come_along(tmp_path: Path) -> None:
    """They belong to what is owed: without them it would be sent back to where it came from."""
    via = "1.1 callspool-00000001"
    async with opened(tmp_path / "old") as spool:
        await spool.accept(a_record("passed on", via=via))
        await spool.accept(a_record("posted"))
    async with opened(tmp_path / "new") as spool:
        await bring(spool, tmp_path / "old")
        assert [one.record.via for call in ("passed on", "posted") for one in await spool.trace(call)] == [via, None]
        assert [one.record.via for one in await due(spool)] == [via, None]


async def test_what_belongs_to_nobody_stays_held(tmp_path: Path) -> None:
    """Until it is assigned: it would be sent to each tenant's own destination, whose ever call it is."""
    own = NewDelivery("own", Form.WHOLE, Lane.CORE, held=True)
    destinations = (ENDPOINT, "own")
    async with opened(tmp_path / "old", destinations=destinations) as spool:
        await spool.accept(a_record("call", WHOLE, own, tenant=UNASSIGNED))
    async with opened(tmp_path / "new", destinations=destinations) as spool:
        await bring(spool, tmp_path / "old")
        assert [one.destination for one in await due(spool)] == [ENDPOINT]
        assert await due(spool, destination="own") == []
        assert await states(spool) == [DeliveryState.READY, DeliveryState.HELD]
        assert await spool.admin.assign("agent", "acme", frozenset({"own"})) == 1
        assert len(await due(spool, destination="own")) == 1
    assert errors(tmp_path / "new") == []


async def test_an_erased_call_does_not_come_back(tmp_path: Path) -> None:
    """What was erased here stays so, whatever another database has of it: records, spans and turns. The rest comes."""
    async with opened(tmp_path / "old") as spool:
        for call_id in ("erased", "kept"):
            await spool.accept(a_record(call_id))
            trace_id = call_id.encode().ljust(16)
            await spool.traces.add([NewSpans(trace_id, b"spans", 1, f"{call_id}-spans", "agent")], None, "key:1")
            turns = (NewTurn("#0", 0, b"{}"),)
            await spool.live.hear(HeardCall(f"{call_id}-live", "key:1", turns=turns), None)
    async with opened(tmp_path / "new") as spool:
        erased = [OwnedCall(call_id) for call_id in ("erased", "erased-spans", "erased-live")]
        await spool.erasures.order(erased)
        await spool.erasures.finish(erased)
        for dry_run in (True, False):
            tally = await bring(spool, tmp_path / "old", dry_run=dry_run)
            assert tally.outcomes == {Outcome.IMPORTED: 1, Outcome.ERASED: 1}
            assert (tally.spans, tally.turns) == (1, 1)
        assert tally.complete
        assert [one.record.call_id for one in await due(spool)] == ["kept"]
        assert [trace.call_id for trace in await spool.traces.open()] == ["kept-spans"]
        assert [call.call_id for call in spool.live.calls.values()] == ["kept-live"]


async def test_a_repetition_brings_nothing_twice(tmp_path: Path) -> None:
    """A salvage that was interrupted goes on; one that was finished is marked, and says so."""
    known, owed = await filled_aside(tmp_path / "old")
    async with opened(tmp_path / "new", max_bytes=2_000_000) as spool:
        with pytest.raises(SpoolFull):
            await bring(spool, tmp_path / "old")
        assert totals(spool).owed > 0
    async with opened(tmp_path / "new") as spool:
        tally = await bring(spool, tmp_path / "old")
        assert tally.outcomes[Outcome.THERE] > 0
        assert tally.outcomes[Outcome.THERE] + tally.outcomes[Outcome.IMPORTED] == len(known)
        assert await open_deliveries(spool) == owed
        tally = await bring(spool, tmp_path / "old")
        assert tally.outcomes == {Outcome.THERE: len(known)}


async def test_a_dry_run_brings_nothing(tmp_path: Path) -> None:
    """It counts what would be brought, and changes neither database."""
    known, owed = await filled_aside(tmp_path / "old")
    before = (tmp_path / "old" / DATABASE_NAME).read_bytes()
    async with opened(tmp_path / "new") as spool:
        tally = await bring(spool, tmp_path / "old", dry_run=True)
        assert tally.outcomes == {Outcome.IMPORTED: len(known)}
        assert sum(count for state, count in tally.deliveries.items() if not state.ended) == len(owed)
        assert totals(spool).owed == 0
        await bring(spool, tmp_path / "old")
    assert (tmp_path / "old" / DATABASE_NAME).read_bytes() == before


async def test_what_was_posted_again_or_is_late_is_not_brought(tmp_path: Path) -> None:
    """A record that the agent repeated is a duplicate; the start of a call that has ended since is superseded."""
    async with opened(tmp_path / "old") as spool:
        await spool.accept(a_record("again", digest=b"same" * 8))
        await spool.accept(a_record("late", event="call_started"))
    async with opened(tmp_path / "new") as spool:
        await spool.accept(a_record("again", digest=b"same" * 8))
        await spool.accept(a_record("late", event="call_ended"))
        tally = await bring(spool, tmp_path / "old")
        assert tally.outcomes == {Outcome.DUPLICATE: 1, Outcome.SUPERSEDED: 1}
        assert totals(spool).owed == 2


async def test_the_order_of_a_call_goes_on(tmp_path: Path) -> None:
    """What was brought waits behind what this spool accepted before, and what comes later waits behind it."""
    async with opened(tmp_path / "old") as spool:
        for number in range(3):
            await spool.accept(a_record("call", body=b"%d" % number))
    async with opened(tmp_path / "new") as spool:
        await bring(spool, tmp_path / "old")
        await spool.accept(a_record("call", body=b"3"))
        assert len(await due(spool)) == 1
        records = await spool.trace("call")
        assert [record.deliveries[0].state for record in records] == [DeliveryState.READY] + [DeliveryState.WAITING] * 3


async def test_records_beside_a_damaged_page_come_over(tmp_path: Path) -> None:
    """Whatever single page is overwritten: nothing wrong is brought, and only what lay on that page is missing."""
    known, _ = await filled_aside(tmp_path / "old")
    database = tmp_path / "old" / DATABASE_NAME
    whole = database.read_bytes()
    pages = len(whole) // PAGE_SIZE
    for page in (*range(1, min(pages, 30), 4), *range(30, pages, 60)):
        spoiled = bytearray(whole)
        spoiled[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = os.urandom(PAGE_SIZE)
        database.write_bytes(spoiled)
        async with opened(tmp_path / f"new-{page}") as spool:
            tally = await bring(spool, tmp_path / "old")
            (tmp_path / "old" / "imported.json").unlink()
            there = len([record for call in known for record in await spool.trace(call)])
            assert there == tally.outcomes[Outcome.IMPORTED] + tally.outcomes[Outcome.DAMAGED]
            for call, fragments in known.items():
                for record in await spool.trace(call):
                    assert not record.record.damaged
                    for fragment, expected in fragments.items():
                        try:
                            assert await content(spool, call, fragment) == expected
                        except CorruptPayload:
                            assert tally.outcomes[Outcome.DAMAGED]


async def test_what_is_damaged_of_a_record_is_told_and_the_rest_of_it_delivered(tmp_path: Path) -> None:
    """A record without one of its chunks comes over: its core can be read, its detail cannot."""
    async with opened(tmp_path / "old") as spool:
        await fill(spool)
    change(
        tmp_path / "old",
        "DELETE FROM chunks WHERE chunk_id = (SELECT first_chunk + 2 FROM records WHERE record_id = 4)",
    )
    change(tmp_path / "old", "UPDATE records SET agent_id = 'agenu' WHERE record_id = 5")
    change(
        tmp_path / "old",
        "UPDATE tokens SET value = 'x' WHERE token_id = (SELECT token_id FROM records WHERE record_id = 6)",
    )
    async with opened(tmp_path / "new") as spool:
        tally = await bring(spool, tmp_path / "old")
        assert (tally.outcomes[Outcome.DAMAGED], tally.outcomes[Outcome.UNREADABLE]) == (1, 1)
        assert [(one.record_id, one.call_id) for one in tally.unreadable] == [(5, "call-4")]
        assert tally.without_token > 0
        assert await content(spool, "call-3", Fragment.BASE) == b'"base": 1'
        with pytest.raises(CorruptPayload):
            await content(spool, "call-3", Fragment.REST)


async def test_where_it_is_not_known_what_was_delivered_an_operator_decides(tmp_path: Path) -> None:
    """A record whose deliveries are gone from table and index becomes dead letters, which keep the payload."""
    async with opened(tmp_path / "old") as spool:
        await spool.accept(a_record("c", body=b"kept"))
    change(tmp_path / "old", "DELETE FROM deliveries")
    async with opened(tmp_path / "new") as spool:
        await bring(spool, tmp_path / "old")
        (record,) = await spool.trace("c")
        assert {(one.form, one.state) for one in record.deliveries} == {(Form.WHOLE, DeliveryState.DEAD)}
        assert await content(spool, "c", Fragment.BODY) == b"kept"


async def test_adopting_takes_all_and_leaves_a_directory_to_begin_anew(tmp_path: Path) -> None:
    """Dead letters come too; a gateway that starts there afterwards has nothing to deliver a second time."""
    _, owed = await filled_aside(tmp_path / "old")
    async with opened(tmp_path / "new") as spool:
        await spool.accept(a_record("call-0", body=b"mine"))
        await bring(spool, tmp_path / "old", adopt=True)
        mine = [key for key in await open_deliveries(spool) if key not in owed]
        assert len(mine) == 1
        assert DeliveryState.DEAD in (await open_deliveries(spool)).values()
        with pytest.raises(UnsuitableDirectory, match="adopted before"):
            await bring(spool, tmp_path / "old", adopt=True)
    async with opened(tmp_path / "old") as spool:
        assert totals(spool).owed == 0
        assert [one.imported for one in spool.stats().quarantined] == [True]


async def test_a_living_gateway_is_not_adopted(tmp_path: Path) -> None:
    """Its directory is locked; neither spool is changed."""
    async with opened(tmp_path / "old") as living, opened(tmp_path / "new") as spool:
        await living.accept(a_record("c"))
        with pytest.raises(SpoolLocked):
            await bring(spool, tmp_path / "old", adopt=True)
        assert totals(spool).owed == 0


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path: path.write_bytes(b"no database" * 5000), CorruptDatabase),
        (lambda path: path.unlink(), UnsuitableDirectory),
        (lambda path: change(path.parent, "PRAGMA user_version = 900"), SchemaTooNew),
    ],
    ids=["no database", "nothing", "newer"],
)
async def test_what_cannot_be_read_at_all_is_told(
    tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception]
) -> None:
    """The error says which directory it is about, and nothing is marked as done."""
    await filled_aside(tmp_path / "old")
    spoil(tmp_path / "old" / DATABASE_NAME)
    async with opened(tmp_path / "new") as spool:
        with pytest.raises(error):
            await bring(spool, tmp_path / "old")
        assert not (tmp_path / "old" / "imported.json").exists()


async def test_commits_behind_damage_in_the_log_are_not_lost(tmp_path: Path) -> None:
    """A log with a bad frame in its middle is moved aside with its database, and mended for reading."""
    async with opened(tmp_path) as spool:
        spool._writer.database._checkpointer.stop()
        for number in range(30):
            await spool.accept(a_record(f"call-{number}", body=os.urandom(9000)))
        bodies = {number: await payload(spool, (await due(spool))[number]) for number in range(30)}
        images = {name: (tmp_path / name).read_bytes() for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal")}
    log = bytearray(images[f"{DATABASE_NAME}-wal"])
    log[len(log) // 2] ^= 0x10
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    (crashed / DATABASE_NAME).write_bytes(images[DATABASE_NAME])
    (crashed / f"{DATABASE_NAME}-wal").write_bytes(log)
    async with opened(crashed) as spool:
        (aside,) = spool.stats().quarantined
        assert "log" in aside.reason
        tally = await bring(spool, aside.directory)
        assert sum(tally.outcomes.values()) == 30
        assert tally.outcomes[Outcome.IMPORTED] >= 29
        for delivery in await due(spool):
            number = int(delivery.record.call_id.split("-")[1])
            if not delivery.record.damaged:
                try:
                    assert await payload(spool, delivery) == bodies[number]
                except CorruptPayload:
                    assert tally.outcomes[Outcome.DAMAGED]
        assert [each.name for each in aside.directory.glob("mended-*")] == []
        unsound = await asyncio.to_thread(errors, crashed)
        assert len(unsound) == tally.outcomes[Outcome.DAMAGED]
        assert (await spool.due(ENDPOINT, Lane.CORE, now=10**15, limit=1)).deliveries


# Whose database it is, and what may be said of it -------------------------------------------------------------------


def _itself(own: Path, elsewhere: Path) -> Path:  # as the others
    return own


def _linked_directory(own: Path, elsewhere: Path) -> Path:
    elsewhere.symlink_to(own)
    return elsewhere


def _linked_database(own: Path, elsewhere: Path) -> Path:
    elsewhere.mkdir()
    (elsewhere / DATABASE_NAME).symlink_to(own / DATABASE_NAME)
    return elsewhere


def _second_name(own: Path, elsewhere: Path) -> Path:
    elsewhere.mkdir()
    os.link(own / DATABASE_NAME, elsewhere / DATABASE_NAME)
    return elsewhere


def _log_only(own: Path, elsewhere: Path) -> Path:
    elsewhere.mkdir()
    os.link(own / f"{DATABASE_NAME}-wal", elsewhere / f"{DATABASE_NAME}-wal")
    (elsewhere / DATABASE_NAME).write_bytes(b"")
    return elsewhere


LOOK = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT count(*) FROM records'); c.close()"


@pytest.mark.parametrize("dry_run", [True, False], ids=["dry run", "for real"])
@pytest.mark.parametrize("adopt", [False, True], ids=["salvage", "adopt"])
@pytest.mark.parametrize("path", [_itself, _linked_directory, _linked_database, _second_name, _log_only])
async def test_the_own_database_is_refused_and_stays_locked(
    tmp_path: Path, path: Callable[[Path, Path], Path], adopt: bool, dry_run: bool
) -> None:
    """Under whatever name; another process that looks at it afterwards still sees it in use, and leaves its log."""
    async with opened(tmp_path / "own") as spool:
        await spool.accept(a_record("before"))
        directory = path(tmp_path / "own", tmp_path / "elsewhere")
        with pytest.raises((UnsuitableDirectory, SpoolLocked)):
            await bring(spool, directory, adopt=adopt, dry_run=dry_run)
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", LOOK, str(tmp_path / "own" / DATABASE_NAME)])
        assert (tmp_path / "own" / f"{DATABASE_NAME}-wal").exists()
        await spool.accept(a_record("after"))
        assert spool.stats().failure is None


@pytest.mark.parametrize("dry_run", [True, False], ids=["dry run", "for real"])
async def test_a_living_gateways_queue_is_not_imported(tmp_path: Path, dry_run: bool) -> None:
    """It delivers that itself; and nothing in its directory is marked."""
    async with opened(tmp_path / "old") as living, opened(tmp_path / "new") as spool:
        await living.accept(a_record("c"))
        with pytest.raises(SpoolLocked):
            await bring(spool, tmp_path / "old", dry_run=dry_run)
        assert totals(spool).owed == 0
        assert not (tmp_path / "old" / IMPORTED_NAME).exists()


@pytest.mark.parametrize("adopt", [False, True], ids=["salvage", "adopt"])
async def test_what_came_after_a_mark_is_imported(tmp_path: Path, adopt: bool) -> None:
    """A mark says what was true when it was written: a repetition imports what the directory holds now."""
    async with opened(tmp_path / "new") as spool:
        for number in range(3):
            async with opened(tmp_path / "old") as old:
                await old.accept(a_record(f"call-{number}"))
            tally = await bring(spool, tmp_path / "old", adopt=adopt and number == 2)
            assert tally.outcomes[Outcome.IMPORTED] == 1
            assert tally.complete
        assert sorted(await open_deliveries(spool))[0] != ""
        assert totals(spool).owed == 3


async def test_nothing_is_needed_only_where_this_very_run_saw_it(tmp_path: Path) -> None:
    """With damage, with a lost token, or with a change while it was read, something is missing or may be."""
    async with opened(tmp_path / "old") as spool:
        await fill(spool)
    whole = (tmp_path / "old" / DATABASE_NAME).read_bytes()
    spoilt = {
        "sound": "SELECT 1",
        "a chunk": "DELETE FROM chunks WHERE chunk_id = (SELECT first_chunk + 2 FROM records WHERE record_id = 4)",
        "a record": "UPDATE records SET agent_id = 'agenu' WHERE record_id = 5",
        "a token": "UPDATE tokens SET value = 'x'",
    }
    for name, statement in spoilt.items():
        (tmp_path / "old" / DATABASE_NAME).write_bytes(whole)
        change(tmp_path / "old", statement)
        async with opened(tmp_path / name) as spool:
            for _ in range(2):  # when it is repeated, that is still so
                assert (await bring(spool, tmp_path / "old")).complete is (name == "sound"), name


async def test_a_change_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    """Then nothing is said to be complete, and the mark is not believed."""
    await filled_aside(tmp_path / "old")
    async with opened(tmp_path / "new") as spool:
        last = None
        async for step in spool.salvage.carry_out(Task(tmp_path / "old", False, False), {}):
            os.utime(tmp_path / "old" / DATABASE_NAME)
            last = step
        assert isinstance(last, Tally)
        assert not last.complete


@pytest.mark.parametrize(
    ("folder", "mark", "changed", "imported"),
    [
        ("aside-20260101T000000Z", "brought.json", False, True),
        ("aside-20260101T000000Z", "brought.json", True, False),
        ("aside-20260101T000000Z", None, False, False),
        ("quarantine-20260101T000000Z", "imported.json", False, False),
        ("elsewhere-20260101T000000Z", "brought.json", False, None),
    ],
)
def test_what_was_quarantined_before_is_recognised(
    tmp_path: Path, folder: str, mark: str | None, changed: bool, imported: bool | None
) -> None:
    """By its old name and its old mark, as long as nothing changed since; a mark that is none is not believed."""
    (tmp_path / folder).mkdir()
    (tmp_path / folder / DATABASE_NAME).write_bytes(b"old")
    if mark:
        (tmp_path / folder / mark).write_text("{}")
    os.utime(tmp_path / folder / DATABASE_NAME, ns=(1, time.time_ns() + 10**10 if changed else 1))
    assert [one.imported for one in quarantined(tmp_path)] == ([] if imported is None else [imported])


ROWS = [NewSpans(b"a" * 16, b"first", 2, "call-a", "agent"), NewSpans(b"b" * 16, b"other", 1)]
LATER = NewSpans(b"a" * 16, b"second" * 100, 3, ended=True)


async def with_spans(directory: Path) -> None:
    async with opened(directory) as spool:
        await spool.accept(a_record("posted"))
        await spool.traces.add(ROWS, "agents-key", "key:1")
        await spool.traces.add([LATER], "agents-key", "key:1")


@pytest.mark.parametrize("adopt", [False, True], ids=["salvaged", "adopted"])
async def test_the_spans_of_open_calls_come_over_once(tmp_path: Path, adopt: bool) -> None:
    """With what they say of their calls, their order and the sender's key; a repetition brings nothing again."""
    await with_spans(tmp_path / "old")
    told: list[tuple[bytes, str, int]] = []
    async with opened(tmp_path / "new") as spool:
        spool.traces.imported = lambda new, principal, closed: told.append((new.trace_id, principal, closed))
        assert (await bring(spool, tmp_path / "old", dry_run=True)).spans == 6
        assert await spool.traces.open() == []
        tally = await bring(spool, tmp_path / "old", adopt=adopt)
        assert (tally.spans, tally.lost_span_rows, tally.complete) == (6, 0, True)
        (directory,) = [each.directory for each in quarantined(tmp_path / "old")] if adopt else [tmp_path / "old"]
        assert (await bring(spool, directory)).spans == 0
        found = {trace.trace_id[:1]: trace for trace in await spool.traces.open()}
        one = found[b"a"]
        assert (one.call_id, one.agent_id, one.spans, one.raw_bytes) == ("call-a", "agent", 5, 5 + len(LATER.data))
        assert one.root_at is not None
        assert await spool.token(await spool.traces.token_id(b"a" * 16, "key:1") or 0) == "agents-key"
        assert [row.data async for row in spool.traces.rows(b"a" * 16, "key:1")] == [b"first", LATER.data]
    assert told == [(b"a" * 16, "key:1", 0), (b"b" * 16, "key:1", 0), (b"a" * 16, "key:1", 0)]
    assert errors(tmp_path / "new") == []


@pytest.mark.parametrize(
    ("statement", "spans"),
    [
        ("UPDATE trace_rows SET frame = zeroblob(20) WHERE row_id = 1", 4),
        ("UPDATE trace_rows SET crc32 = 0 WHERE row_id = 3", 3),
        ("DELETE FROM traces", 6),
        ("DELETE FROM tokens", 6),
    ],
)
async def test_spans_that_can_be_read_come_over_without_the_others(tmp_path: Path, statement: str, spans: int) -> None:
    """What is lost is counted, and keeps the directory; what is only not known is left out."""
    await with_spans(tmp_path / "old")
    change(tmp_path / "old", statement)
    async with opened(tmp_path / "new") as spool:
        tally = await bring(spool, tmp_path / "old")
        assert tally.spans == spans
        assert (tally.lost_span_rows, tally.complete) == ((0, True) if spans == 6 else (1, False))
        assert sum(trace.spans for trace in await spool.traces.open()) == spans


async def test_spans_after_their_call_log_come_over_as_late(tmp_path: Path) -> None:
    """A call log was made of the trace before: what is brought is an update of that call."""
    await with_spans(tmp_path / "old")
    change(tmp_path / "old", "UPDATE traces SET closed = 1 WHERE call_id = 'call-a'")
    async with opened(tmp_path / "new") as spool:
        await bring(spool, tmp_path / "old")
        assert {trace.call_id: trace.closed for trace in await spool.traces.open()} == {"call-a": 1, None: 0}


async def test_spans_stop_at_a_full_spool_and_go_on_in_a_repetition(tmp_path: Path) -> None:
    """Nothing is brought twice, and nothing is left behind."""
    async with opened(tmp_path / "old") as spool:
        for number in range(40):
            noise = os.urandom(200_000)
            await spool.traces.add([NewSpans(number.to_bytes(16, "big"), noise, 1)], None, "key:1")
    async with opened(tmp_path / "new", max_bytes=6 << 20) as spool:
        with pytest.raises(SpoolFull):
            await bring(spool, tmp_path / "old")
        first = {trace.trace_id for trace in await spool.traces.open()}
        assert 0 < len(first) < 40
    async with opened(tmp_path / "new", max_bytes=64 << 20) as spool:
        tally = await bring(spool, tmp_path / "old")
        assert tally.spans == 40 - len(first)
        assert {trace.spans for trace in await spool.traces.open()} == {1}
        assert len(await spool.traces.open()) == 40


SAID = HeardCall(
    "live",
    "key:1",
    "agent",
    b'"customer_number":"1"',
    5,
    (NewTurn("#0", 0, b'{"index":0}'), NewTurn("=x", None, b"{}")),
)


async def with_live_calls(directory: Path) -> None:
    async with opened(directory) as spool:
        await spool.live.hear(SAID, "agents-key")
        await spool.live.hear(HeardCall("silent", "key:1"), None)
        await spool.live.hear(HeardCall("ended", "key:1", turns=(NewTurn("#0", 0, b"{}"),)), None)


async def test_a_call_that_goes_on_here_was_heard_of_here(tmp_path: Path) -> None:
    """What another database has of it adds turns, and does not set back when its agent was heard of last."""
    key = ("live", "key:1")
    async with opened(tmp_path / "old") as spool:
        await spool.live.hear(HeardCall(*key, turns=(NewTurn("#0", 0, b"{}"),)), None)
    clock = Clock(NOW + HOUR)
    async with opened(tmp_path / "new", clock=clock) as spool:
        await spool.live.hear(HeardCall(*key), None)
        spool.live.calls[key].last_at += 1  # a sign of life that is not written yet
        await bring(spool, tmp_path / "old")
        call, stored = spool.live.calls[key], await spool.live.current(*key)
        assert stored is not None
        assert (call.first_at, call.last_at, call.turns) == (NOW, NOW + HOUR + 1, 1)
        assert (stored.first_at, stored.last_at) == (NOW, NOW + HOUR)


async def test_live_calls_come_over_once_with_their_turns(tmp_path: Path) -> None:
    """With what is known of them and the sender's key; not one that has ended here, nor a turn that is here already."""
    await with_live_calls(tmp_path / "old")
    async with opened(tmp_path / "new") as spool:
        await spool.accept(a_record("ended", event="call_ended", principal="key:1"))
        newer = NewTurn("#0", 0, b'{"index":0,"content":"newer"}')
        await spool.live.hear(HeardCall("live", "key:1", turns=(newer,)), None)
        told: list[str] = []
        spool.live.imported = lambda call: told.append(call.call_id)
        assert (await bring(spool, tmp_path / "old", dry_run=True)).turns == 4
        tally = await bring(spool, tmp_path / "old")
        assert (tally.turns, tally.lost_turns, tally.complete) == (2, 0, True), "one turn, and what the agent says"
        assert (await bring(spool, tmp_path / "old")).turns == 0
        assert set(told) == {"live", "silent"}
        call = spool.live.calls["live", "key:1"]
        assert (call.agent_id, call.started_at, call.turns, call.open) == ("agent", 5, 2, True)
        assert [turn async for turn in spool.live.turns("live", "key:1")] == [newer.data, b"{}"]
        assert await spool.live.about("live", "key:1") == SAID.about
        assert await spool.token(await spool.live.token_id("live", "key:1") or 0) == "agents-key"
    assert errors(tmp_path / "new") == []


async def test_a_call_that_was_lost_comes_over_as_lost(tmp_path: Path) -> None:
    """Its call log was made there: it is not made again, unless the agent goes on here."""
    await with_live_calls(tmp_path / "old")
    change(tmp_path / "old", "UPDATE live_calls SET open = 0 WHERE call_id = 'live'")
    async with opened(tmp_path / "new") as spool:
        await bring(spool, tmp_path / "old")
        assert {call.call_id: call.open for call in spool.live.calls.values()} == {
            "live": False, "silent": True, "ended": True,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "turns"),
    [
        ("UPDATE live_turns SET frame = zeroblob(20) WHERE turn = '#0' AND call_id = 'live'", 3),
        ("DELETE FROM live_calls", 4),
        ("DELETE FROM tokens", 4),
    ],
)
async def test_turns_that_can_be_read_come_over_without_the_others(tmp_path: Path, statement: str, turns: int) -> None:
    """What is lost is counted, and keeps the directory."""
    await with_live_calls(tmp_path / "old")
    change(tmp_path / "old", statement)
    async with opened(tmp_path / "new") as spool:
        tally = await bring(spool, tmp_path / "old")
        assert (tally.turns, tally.lost_turns, tally.complete) == (turns, 4 - turns, turns == 4)
    assert errors(tmp_path / "new") == []
