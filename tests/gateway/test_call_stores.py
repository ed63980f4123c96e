"""The stores of a gateway: opened at the start, swept while it runs."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.runtime import stores
from gateway.runtime.stores import SWEEP_LIMIT, CallsKept, CallStores
from tests.stores.calls import RULE, part_of
from tests.stores.engines import SqliteEngine
from uploaders import tasks
from uploaders.stores.parts import PartKind
from uploaders.stores.pipeline_tables import PipelineTables
from uploaders.stores.routing import Routing
from uploaders.stores.sqlite.store import SqliteStore
from uploaders.stores.store import CallPath, CallQuery, CallSummary, SchemaTooNew, StoreUnavailable, Swept

DAY = 24 * 3_600_000


class Told(SqliteStore):
    """Answers `open` and `sweep` as a test says."""

    def __init__(self, opened: Exception | None = None, sweeps: Sequence[Swept | Exception] = ()) -> None:
        super().__init__(Path("never-opened.db"), lambda: 0, RULE)
        self.opened = opened
        self.sweeps = list(sweeps)
        self.asked = 0
        self.openings = 0

    async def open(self) -> None:
        self.openings += 1
        if self.opened is not None:
            raise self.opened

    async def calls(self, query: CallQuery, path: CallPath = CallPath.COMPLETE) -> list[CallSummary]:
        self.asked += 1
        return []

    async def sweep(self, limit: int = SWEEP_LIMIT) -> Swept:
        result = self.sweeps.pop(0) if self.sweeps else Swept()
        if isinstance(result, Exception):
            raise result
        return result


class Heard:
    """What was given up, until `enough` says that this is all."""

    def __init__(self, enough: Callable[[list[Swept]], bool]) -> None:
        self.swept: list[Swept] = []
        self.done = asyncio.Event()
        self._enough = enough

    def calls_swept(self, destination: str, swept: Swept) -> None:
        assert destination == "db"
        self.swept.append(swept)
        if self._enough(self.swept):
            self.done.set()

    def query_routed(self, path: CallPath) -> None:
        assert path is CallPath.COMPLETE

    def paths_differ(self) -> None:
        raise AssertionError("nothing is compared")


def call_stores(stores: Mapping[str, Told], seconds: float, heard: Heard) -> CallStores:
    return CallStores(stores, seconds, Routing(), heard, lambda: 1.0)


def never(_: list[Swept]) -> bool:
    return False


async def test_a_database_that_is_down_at_the_start_is_waited_for() -> None:
    """The gateway starts: what it accepts waits in the spool."""
    down = Told(StoreUnavailable("down"))
    await call_stores({"db": down}, 1, Heard(never)).open()
    assert down.openings == 1


async def test_a_database_that_does_not_answer_delays_a_start_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `OPEN_SECONDS` the start goes on; the first write tries again."""
    monkeypatch.setattr(stores, "OPEN_SECONDS", 0.01)
    store, silent = Told(), asyncio.Event()
    monkeypatch.setattr(store, "open", silent.wait)
    await asyncio.wait_for(call_stores({"db": store}, 1, Heard(never)).open(), 30)
    assert not silent.is_set(), "the start did not wait for its answer"


async def test_a_schema_of_a_newer_callspool_ends_the_start() -> None:
    """Waiting would not help, and writing might destroy."""
    with pytest.raises(SchemaTooNew):
        await call_stores({"db": Told(SchemaTooNew("version 99"))}, 1, Heard(never)).open()


async def test_a_backlog_is_swept_without_a_pause() -> None:
    """As long as a sweep finds as many as it may, the next one follows at once."""
    full = Swept(orphans=SWEEP_LIMIT)
    heard = Heard(lambda swept: len(swept) == 3)
    sweeping = call_stores({"db": Told(sweeps=[full, full, Swept(timed_out=1)])}, 3_600, heard)
    sweeping.start()
    await asyncio.wait_for(heard.done.wait(), 30)
    await sweeping.stop()
    assert heard.swept == [full, full, Swept(timed_out=1)]


@pytest.mark.parametrize("failure", [StoreUnavailable("down"), ZeroDivisionError("a defect")])
async def test_sweeping_outlives_a_database_in_trouble(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that fails is made again later, whatever it raised."""
    monkeypatch.setattr(tasks, "AGAIN_SECONDS", 0.01)
    heard = Heard(bool)
    sweeping = call_stores({"db": Told(sweeps=[failure, Swept(orphans=1)])}, 0.01, heard)
    sweeping.start()
    await asyncio.wait_for(heard.done.wait(), 30)
    await sweeping.stop()
    assert heard.swept[0] == Swept(orphans=1)


async def test_the_first_store_answers_questions() -> None:
    """In the order of the configuration; none where there is none."""
    first, second = Told(), Told()
    reads = call_stores({"a": first, "b": second}, 1, Heard(never)).reads
    assert reads is not None
    assert await reads.calls(CallQuery()) == []
    assert (first.asked, second.asked) == (1, 0)
    assert call_stores({}, 1, Heard(never)).reads is None


async def test_calls_are_deleted_after_their_time(tmp_path: Path) -> None:
    """With what was made of them; those of a tenant after its own time, and what is younger stays."""
    engine = SqliteEngine(tmp_path)
    store = engine.store()
    for project in ("", "long", "short"):
        await store.write([replace(part_of(PartKind.CALL, "old"), project=project)])
    tables = PipelineTables(store, lambda: 0)
    await tables.prepare()
    await store.run([("INSERT INTO call_insights VALUES (1, 'short', 'old', 'said', 'llm', '', '', '', 0, 0)", {})])
    engine.age(10 * DAY)
    await store.write([part_of(PartKind.CALL, "young")])
    kept = CallsKept(5 * DAY, {"long": 20 * DAY, "short": 2 * DAY})
    swept = CallStores({"db": store}, 3_600, Routing(), Heard(never), lambda: 1.0, kept={"db": kept})
    assert (await swept.delete_old("db"), await swept.delete_old("db")) == (2, 0)
    assert engine.rows("select project, call_id from call_parts order by call_id") == [("long", "old"), ("", "young")]
    assert engine.rows("select count(*) from call_insights") == [(0,)]
    await store.close()
