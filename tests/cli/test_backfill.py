"""`callspool backfill` and `compare`, on a store that has parts of earlier days and no rows."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import Exit
from gateway.cli import store as store_commands
from tests.cli.conftest import Cli
from tests.stores.calls import part_of
from tests.stores.engines import SqliteEngine
from uploaders.stores.parts import PartKind

DAY = 24 * 3600 * 1000
TODAY = date(2024, 3, 1)
YESTERDAY = TODAY - timedelta(days=1)


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a whole test, also at midnight."""
    monkeypatch.setattr(store_commands, "_today", lambda: TODAY)


@pytest.fixture
def engine(tmp_path: Path) -> SqliteEngine:
    """Three calls of yesterday, one of the day before; one of them has an end alone."""
    made = SqliteEngine(tmp_path)
    made.now = int(datetime.combine(TODAY, time(), UTC).timestamp() * 1000)
    asyncio.run(_filled(made))
    return made


async def _filled(engine: SqliteEngine) -> None:
    store = engine.store(pairs=False)
    await store.write([part_of(PartKind.CALL, "older")])
    engine.age(DAY)
    await store.write([part_of(PartKind.CALL, "a"), part_of(PartKind.CALL, "b"), part_of(PartKind.END, "end")])
    engine.age(DAY)
    await store.close()


@pytest.fixture
def run(cli: Cli, engine: SqliteEngine) -> Callable[..., Any]:
    """Runs a command on that store; the cutoff is today."""
    env = {
        "CALLSPOOL_DATABASE_URL": f"sqlite:///{engine.path}",
        "CALLSPOOL_COMPLETION_READS": "routed",
        "CALLSPOOL_COMPLETION_CUTOFF": TODAY.isoformat(),
    }
    return lambda *arguments: cli(*arguments, env=env)


def lines(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_backfill_from_the_first_look_to_the_last(run: Callable[..., Any], engine: SqliteEngine) -> None:
    """A dry run writes nothing; a run completes every day from the newest to the oldest; then both paths agree."""
    dry = lines(run("backfill", "run", "--dry-run", "--json"))
    assert [(day["day"], day["missing"], day["end_only"]) for day in dry] == [
        (YESTERDAY.isoformat(), 3, 1),
        ((YESTERDAY - timedelta(days=1)).isoformat(), 1, 0),
    ]
    assert engine.rows("select count(*) from calls_complete") == [(0,)]
    assert run("compare").exit_code == Exit.UNSOUND
    done = run("backfill", "run", "--json", "--page-rows", "2")
    assert done.exit_code == Exit.OK
    assert [(day["status"], day["written"], day["end_only"]) for day in lines(done)] == [
        ("completed", 3, 1),
        ("completed", 1, 0),
    ]
    assert lines(run("backfill", "status", "--json")) == lines(done)
    compared = run("compare", "--days", "2")
    assert compared.exit_code == Exit.OK
    assert compared.stdout.count("agrees") == 2


def test_what_a_backfill_is_not_told(cli: Cli, run: Callable[..., Any], engine: SqliteEngine) -> None:
    """Without a cutoff it asks where to begin, and a day that is not over it refuses."""
    env = {"CALLSPOOL_DATABASE_URL": f"sqlite:///{engine.path}"}
    unknown = cli("backfill", "run", env=env)
    assert (unknown.exit_code, "completion.cutoff" in unknown.stderr) == (Exit.USAGE, True)
    today = cli("backfill", "run", "--to", TODAY.isoformat(), env=env)
    assert (today.exit_code, "not over" in today.stderr) == (Exit.USAGE, True)
    only = lines(run("backfill", "run", "--from", YESTERDAY.isoformat(), "--json"))
    assert [date.fromisoformat(day["day"]) for day in only] == [YESTERDAY]


def test_a_day_that_has_not_begun_is_not_compared(run: Callable[..., Any]) -> None:
    """Where nothing is, both paths would agree."""
    tomorrow = (TODAY + timedelta(days=1)).isoformat()
    refused = run("compare", "--day", tomorrow)
    assert (refused.exit_code, "has not begun" in refused.stderr) == (Exit.USAGE, True)
    assert run("compare", "--day", TODAY.isoformat()).exit_code == Exit.OK


COMMANDS = [
    ("store", "status"), ("store", "check"), ("compare",), ("backfill", "run"), ("backfill", "run", "--dry-run"),
    ("backfill", "status"), ("backfill", "pause"),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_mistyped_store_is_not_made(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    """A new one is sound and has no calls, which says nothing of the one that was meant."""
    path = tmp_path / "typo.db"
    env = {"CALLSPOOL_DATABASE_URL": f"sqlite:///{path}", "CALLSPOOL_COMPLETION_CUTOFF": TODAY.isoformat()}
    result = cli(*command, env=env)
    assert (result.exit_code, f"there is no store at {path}" in result.stderr) == (Exit.FAILED, True)
    assert not path.exists()
    assert cli("store", "migrate", env=env).exit_code == Exit.OK
    assert cli(*command, env=env).exit_code == Exit.OK


@pytest.mark.parametrize("command", [("store", "migrate"), *COMMANDS], ids=" ".join)
def test_among_several_stores_one_is_to_be_named(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    """The first may not be the one that is meant: the names are told, and nothing is done."""
    file = tmp_path / "callspool.toml"
    stores = "".join(
        f'[[destinations]]\nname = "{name}"\ntype = "sqlite"\npath = "{tmp_path / name}.db"\n'
        for name in ("one", "two")
    )
    file.write_text(f'[completion]\ncutoff = "{TODAY.isoformat()}"\n{stores}')
    config = ("--config", str(file))
    assert cli("store", "migrate", *config, "--destination", "two").exit_code == Exit.OK
    for wrong, said in ((), "There are several stores."), (("--destination", "three"), "There is no store three."):
        refused = cli(*command, *config, *wrong)
        assert (refused.exit_code, refused.stdout, said in refused.stderr) == (Exit.USAGE, "", True)
        assert "one, two" in refused.stderr
    assert cli(*command, *config, "--destination", "two").exit_code == Exit.OK
    assert not (tmp_path / "one.db").exists()


def test_a_store_that_cannot_be_looked_at_is_named(cli: Cli, tmp_path: Path) -> None:
    """Whatever the reason is, such as another user's directory, there is no traceback."""
    path = tmp_path / ("x" * 300)
    result = cli("store", "status", env={"CALLSPOOL_DATABASE_URL": f"sqlite:///{path}"})
    assert (result.exit_code, f"cannot open the store {path}" in result.stderr) == (Exit.FAILED, True), result.output


def test_days_that_cannot_be_are_refused_or_left_out(run: Callable[..., Any]) -> None:
    """A first day behind the last is wrong usage; before the year 1 there is none."""
    turned = run("backfill", "run", "--from", "2024-02-01", "--to", "2024-01-01")
    assert (turned.exit_code, "--from is after 2024-01-01" in turned.stderr) == (Exit.USAGE, True)
    oldest = run("compare", "--day", "0001-01-01", "--days", "2", "--json")
    assert (oldest.exit_code, [day["day"] for day in lines(oldest)]) == (Exit.OK, ["0001-01-01"])


def test_the_help_says_what_a_pause_does(cli: Cli) -> None:
    """The list of commands has a sentence for it."""
    assert "pause Stop a backfill after its page." in [
        " ".join(line.split()) for line in cli("backfill", "--help").stdout.splitlines()
    ]


def test_a_backfill_from_long_ago_begins_with_the_oldest_part(run: Callable[..., Any]) -> None:
    """Days before it have nothing to write."""
    done = lines(run("backfill", "run", "--from", "0001-01-01", "--json"))
    assert [day["day"] for day in done] == [(YESTERDAY - timedelta(days=back)).isoformat() for back in (0, 1)]


def test_tables_and_a_pause(run: Callable[..., Any], engine: SqliteEngine) -> None:
    """For people a table; a pause is stored, and an empty store says that there is nothing to do."""
    assert "No days" in run("backfill", "status").stdout
    assert run("backfill", "pause").exit_code == Exit.OK
    assert engine.rows("select paused from backfill_control") == [(1,)]
    shown = run("backfill", "run").stdout
    assert YESTERDAY.isoformat() in shown
    assert "completed" in shown
    assert engine.rows("select paused from backfill_control") == [(0,)]
