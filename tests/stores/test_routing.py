"""From which path a question about calls is answered."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from tests.stores.calls import part_of
from tests.stores.engines import SqliteEngine
from uploaders.stores.completion import CallState
from uploaders.stores.options import Reads
from uploaders.stores.parts import PartKind
from uploaders.stores.routing import EVERYTHING, CallReads, Routing, complete_since, path_of
from uploaders.stores.store import BackfillDay, BackfillStatus, CallPath, CallQuery, day_of, milliseconds_of

CUTOFF = date(2026, 11, 10)
DAY = 24 * 3600 * 1000
COMPLETED, RUNNING, DIFFERING = BackfillStatus.COMPLETED, BackfillStatus.RUNNING, BackfillStatus.DIFFERING


def at(day: int) -> int:
    """When a day of that November begins."""
    return milliseconds_of(date(2026, 11, day))[0]


def days(**statuses: BackfillStatus) -> list[BackfillDay]:
    return [
        BackfillDay(date(2026, 11, int(day[1:])), status, 0, 0, 0, 0, 0) for day, status in sorted(statuses.items())
    ]


@pytest.mark.parametrize(
    ("cutoff", "done", "oldest", "expected"),
    [
        (None, [], 1, EVERYTHING),  # no migration: it always had every call
        (CUTOFF, [], 1, at(10)),
        (CUTOFF, [], None, EVERYTHING),  # nothing there that it could lack
        (CUTOFF, [], 10, EVERYTHING),  # nothing older than the cutoff
        (CUTOFF, [], 12, EVERYTHING),
        (CUTOFF, days(d9=COMPLETED), 1, at(9)),
        (CUTOFF, days(d9=COMPLETED, d8=COMPLETED), 1, at(8)),
        (CUTOFF, days(d9=COMPLETED, d8=COMPLETED), 8, EVERYTHING),
        (CUTOFF, days(d9=RUNNING, d8=COMPLETED), 8, at(10)),  # a gap ends it
        (CUTOFF, days(d9=DIFFERING), 9, at(10)),
        (CUTOFF, days(d8=COMPLETED), 8, at(10)),
        (CUTOFF, days(d9=COMPLETED, d7=COMPLETED), 5, at(9)),
    ],
)
def test_the_new_path_reaches_back_as_far_as_days_are_completed(
    cutoff: date | None, done: list[BackfillDay], oldest: int | None, expected: int
) -> None:
    """From the cutoff backwards, without a gap; all the way where no part is older."""
    first = None if oldest is None else date(2026, 11, oldest)
    assert complete_since(cutoff, done, first) == expected


@pytest.mark.parametrize(
    ("reads", "projects", "project", "since", "complete", "path"),
    [
        (Reads.COMPLETE, "", "a", None, EVERYTHING, CallPath.COMPLETE),
        (Reads.COMPLETE, "", "a", None, at(10), CallPath.COMPLETE),
        (Reads.MERGED, "", "a", at(11), EVERYTHING, CallPath.MERGED),  # rolled back: one flag
        (Reads.MERGED, "a", "a", at(11), EVERYTHING, CallPath.MERGED),
        (Reads.ROUTED, "", "a", at(11), at(10), CallPath.COMPLETE),
        (Reads.ROUTED, "", "a", at(10), at(10), CallPath.COMPLETE),
        (Reads.ROUTED, "", "a", at(10) - 1, at(10), CallPath.MERGED),  # straddles: never served half
        (Reads.ROUTED, "", "a", at(9), at(10), CallPath.MERGED),
        (Reads.ROUTED, "", "a", None, at(10), CallPath.MERGED),  # begins with the first call
        (Reads.ROUTED, "", "a", None, EVERYTHING, CallPath.COMPLETE),
        (Reads.ROUTED, "", "", at(11), at(10), CallPath.COMPLETE),
        (Reads.ROUTED, "ab", "a", at(11), at(10), CallPath.COMPLETE),
        (Reads.ROUTED, "ab", "c", at(11), at(10), CallPath.MERGED),  # not this tenant's turn
        (Reads.ROUTED, "ab", "c", None, EVERYTHING, CallPath.MERGED),
    ],
)
def test_each_question_has_one_path(
    reads: Reads, projects: str, project: str, since: int | None, complete: int, path: CallPath
) -> None:
    """By flag, tenants and range: the new path only where it has every call of the range."""
    assert path_of(Routing(reads, CUTOFF, frozenset(projects)), project, since, complete) is path


class Heard:
    """What a routed store says for metrics."""

    def __init__(self) -> None:
        self.paths: list[CallPath] = []
        self.differences = 0

    def query_routed(self, path: CallPath) -> None:
        self.paths.append(path)

    def paths_differ(self) -> None:
        self.differences += 1


def reads_of(engine: SqliteEngine, heard: Heard, routing: Routing) -> CallReads:
    return CallReads(engine.store(), routing, heard, lambda: 0.5)


@pytest.fixture
def migrating(tmp_path: Path) -> SqliteEngine:
    """A store with a call of two days ago on the old path alone, and one of today on both; the cutoff is today."""
    return SqliteEngine(tmp_path)


@pytest.fixture
async def cutoff(migrating: SqliteEngine) -> date:
    old, new = migrating.store(pairs=False), migrating.store()
    await old.write([part_of(PartKind.CALL, "old"), part_of(PartKind.START, "split")])
    migrating.age(2 * DAY)
    await new.write([part_of(PartKind.CALL, "new"), part_of(PartKind.END, "split")])
    for store in (old, new):
        await store.close()
    return day_of(migrating.now)


async def test_a_migration_shows_every_call_all_the_time(migrating: SqliteEngine, cutoff: date) -> None:
    """Before, in the midst of and after the backfill each list is whole, and so is each call; then the path changes."""
    heard = Heard()
    everything, recent = CallQuery(), CallQuery(since=milliseconds_of(cutoff)[0])

    async def asked() -> list[CallPath]:
        reads = reads_of(migrating, heard, Routing(Reads.ROUTED, cutoff))
        heard.paths.clear()
        assert {call.call_id for call in await reads.calls(everything)} == {"old", "new", "split"}
        assert {call.call_id for call in await reads.calls(recent)} >= {"new"}
        for call_id in ("old", "new", "split"):
            call = await reads.call("", call_id)
            assert call is not None
            assert call.summary.state is CallState.COMPLETE
        await reads._store.close()
        return heard.paths.copy()

    merged, complete = CallPath.MERGED, CallPath.COMPLETE
    assert await asked() == [merged, complete, merged, complete, merged]
    store = migrating.store()
    day = await store.oldest_day()
    assert day is not None
    async for _ in store.backfill(day, 1):
        assert (await asked())[:2] in ([merged, complete], [complete, complete])
    async for _ in store.backfill(date.fromordinal(day.toordinal() + 1)):
        pass  # a day without calls
    assert await asked() == [complete] * 5
    await store.close()


@pytest.mark.parametrize(
    ("harm", "differences"),
    [
        ("select 1", 0),
        ("delete from calls_complete where call_id = 'a'", 1),
        ("update calls_complete set agent_id = 'x' where call_id = 'a'", 1),
    ],
)
async def test_a_share_of_the_questions_is_asked_of_both_paths(tmp_path: Path, harm: str, differences: int) -> None:
    """Differences are counted, and the answer is that of the path which was chosen."""
    engine, heard = SqliteEngine(tmp_path), Heard()
    reads = reads_of(engine, heard, Routing(compare=0.51))
    await reads._store.write([part_of(PartKind.CALL, "a", agent_id="b"), part_of(PartKind.CALL, "b")])
    engine.change(harm)
    listed = await reads.calls(CallQuery())
    assert len(listed) == engine.rows("select count(*) from calls_complete")[0][0]
    assert heard.differences == differences
    await reads.call("", "a")
    assert heard.differences == 2 * differences
    await reads._store.close()


async def test_a_question_is_asked_once_where_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cutoff and a share, routing costs no question of its own."""
    engine, asked = SqliteEngine(tmp_path), list[str]()
    reads = reads_of(engine, Heard(), Routing())
    await reads._store.open()
    store = type(reads._store)
    for name in ("calls", "call", "backfill_days", "oldest_day"):
        monkeypatch.setattr(store, name, _noting(getattr(store, name), name, asked))
    await reads.calls(CallQuery())
    await reads.call("", "a")
    assert asked == ["calls", "call"]
    await reads._store.close()


async def test_the_oldest_day_is_asked_for_once_an_hour(
    migrating: SqliteEngine, cutoff: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some engines read every part for it; how far the backfill is, is asked again after seconds."""
    now, asked = [0.0], list[str]()
    reads = CallReads(migrating.store(), Routing(Reads.ROUTED, cutoff), Heard(), lambda: 0.5, lambda: now[0])
    store = type(reads._store)
    for name in ("backfill_days", "oldest_day"):
        monkeypatch.setattr(store, name, _noting(getattr(store, name), name, asked))
    for now[0] in (0.0, 5.0, 11.0, 22.0, 3601.0):
        await reads.calls(CallQuery())
    assert [asked.count(name) for name in ("backfill_days", "oldest_day")] == [4, 2]
    await reads._store.close()


def _noting(method: Callable[..., object], name: str, asked: list[str]) -> Callable[..., object]:
    def noted(*arguments: object) -> object:
        asked.append(name)
        return method(*arguments)

    return noted
