"""An outbox that somebody made to do harm: the gateway keeps its files, its memory and its other outboxes."""

import asyncio
import json
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing, nullcontext, suppress
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.sdk_outbox import reader
from gateway.sdk_outbox.model import OutboxError, OutboxState, OutboxUnusable, Outcome
from gateway.sdk_outbox.reader import OutboxReader
from spool import sandbox
from tests.budget import budgeted
from tests.outbox.hostile import CASES, COLUMNS, ENDLESS, FULL, ODD_ROWS, do_harm, forge_journal, write_rows
from tests.outbox.outbox_rescue import Rescue, rescuing, watching_over
from tests.outbox.sdk import KEY, rows, write
from tests.processes import children_that_run

PRECIOUS = b"three acknowledged call logs"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the gateway's user in the same folder: the kernel's rules alone would not protect it."""
    path = tmp_path / "spool.db"
    path.write_bytes(PRECIOUS)
    return path


async def test_a_file_made_to_do_harm_is_refused_with_its_reason(tmp_path: Path) -> None:
    """Nothing else is touched, another outbox is emptied meanwhile, and a stop does not wait."""
    bad = [tmp_path / str(number) / "bad.db" for number in range(len(CASES))]
    victims = [path.with_name("spool.db") for path in bad]
    for case, path, victim in zip(CASES, bad, victims, strict=True):
        path.parent.mkdir()
        victim.write_bytes(PRECIOUS)
        case.make(path, victim)
    good = tmp_path / "good.db"
    async with watching_over(tmp_path / "watch", *bad, good) as watched:
        for index, case in enumerate(CASES):
            await watched.until(OutboxState.UNUSABLE, index=index)
            assert case.reason in watched.status(index).reason, case.name
        write(good, payload=FULL)
        await watched.until(OutboxState.WATCHED, rescued=1, index=len(bad))
    spoiled = [case.name for case, victim in zip(CASES, victims, strict=True) if victim.read_bytes() != PRECIOUS]
    assert spoiled == []


@pytest.mark.parametrize(("row", "reason"), [odd[1:] for odd in ODD_ROWS], ids=[odd[0] for odd in ODD_ROWS])
async def test_what_is_wrong_with_a_row_stays_with_that_row(
    tmp_path: Path, row: dict[str, object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that is no call log is counted, logged once and left; rows before and behind it are taken."""
    good = {"payload": json.dumps({"whispey_data": FULL, "apikey": KEY})}
    async with rescuing(tmp_path) as rescue:
        write_rows(rescue.outbox, {"call_id": "a", **good}, row, {"call_id": "b", **good})
        await rescue.run()
        await rescue.run()
        assert rescue.outcomes[Outcome.REFUSED] == ("status" not in row or row["status"] == "dead" or "read" in reason)
        assert rescue.outcomes[Outcome.RESCUED] + rescue.outcomes[Outcome.DUPLICATE] == 2
        with closing(sqlite3.connect(rescue.outbox)) as connection:
            assert connection.execute("SELECT id FROM outbox").fetchall() == [(2,)]
    assert reason in capsys.readouterr().out


async def test_a_journal_that_appears_later_deletes_nothing(tmp_path: Path, victim: Path) -> None:
    """A journal that is put there once the file is open is not rolled back, and the rows are taken all the same."""
    async with rescuing(tmp_path) as rescue:
        write(rescue.outbox, payload=FULL)
        await rescue.open()
        forge_journal(rescue.outbox, victim)
        await rescue.rescuer.empty(lambda: True)
        await rescue.reader.close()
        assert rescue.outcomes == {Outcome.RESCUED: 1}
    assert victim.read_bytes() == PRECIOUS


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER UPDATE ON outbox BEGIN INSERT INTO stolen VALUES (1); END",
        f"CREATE TRIGGER t BEFORE UPDATE ON outbox BEGIN {ENDLESS}; END",
        "CREATE TRIGGER t AFTER DELETE ON outbox BEGIN INSERT INTO stolen VALUES (1); END",
    ],
)
async def test_a_trigger_that_appears_later_does_not_run(tmp_path: Path, statement: str) -> None:
    """A schema that is changed once it was looked at adds nothing to what is done to the file.

    It is refused where Python (before 3.12) cannot have SQLite pass over triggers.
    """
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    opened = await opened_reader(outbox)
    with closing(sqlite3.connect(outbox, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE stolen (a)")
        connection.execute(statement)
        refused = pytest.raises(OutboxUnusable, match="schema was changed")
        with refused if sys.version_info < (3, 12) else nullcontext():
            await opened.settle(9.0, (await opened.claim(9.0, ())).rows, ())
        await opened.close()
        assert connection.execute("SELECT count(*) FROM stolen").fetchone() == (0,)


async def test_a_wal_index_that_is_cut_off_ends_the_reader_alone(tmp_path: Path) -> None:
    """SIGBUS takes the process that mapped the file; the gateway says why the outbox is not taken."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    opened = await opened_reader(outbox)
    batch = await opened.claim(9.0, ())
    os.truncate(tmp_path / "outbox.db-shm", 0)
    with pytest.raises(OutboxUnusable, match="-shm"):
        await opened.settle(9.0, batch.rows, ())
    await opened.close()


async def test_a_reader_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that takes too long is a fault of the file; the process is gone afterwards."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    opened = await opened_reader(outbox)
    (process,) = children_that_run("gateway.sdk_outbox.reader_main")
    process.suspend()
    monkeypatch.setattr(reader, "ANSWER_SECONDS", 0.2)
    with pytest.raises(OutboxError, match="did not answer"):
        await opened.claim(9.0, ())
    assert children_that_run("gateway.sdk_outbox.reader_main") == []
    await opened.close()


async def test_a_reader_knows_no_secrets_and_no_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment has no token, its descriptors are its pipes and the outbox, its memory is limited."""
    monkeypatch.setenv("CALLSPOOL_ADMIN_TOKEN", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    with (tmp_path / "secret").open("w"):
        opened = await opened_reader(outbox)
        (process,) = children_that_run("gateway.sdk_outbox.reader_main")
        assert "hush" not in process.environ().values()
        assert {Path(each.path).name for each in process.open_files()} <= {outbox.name, *beside(outbox)}
        assert process.rlimit(psutil.RLIMIT_AS)[0] == 256 << 20
        await opened.close()


async def test_a_reader_ends_with_its_gateway(tmp_path: Path) -> None:
    """Closed pipes end it, whatever ended the gateway."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    opened = await opened_reader(outbox)
    (process,) = children_that_run("gateway.sdk_outbox.reader_main")
    await opened.close()
    assert not process.is_running()


async def test_a_row_too_large_to_be_claimed_is_deleted_only_while_unchanged(tmp_path: Path) -> None:
    """A claim would rewrite it in memory; so it is copied without one, and kept if the SDK works on it meanwhile."""
    large = {**FULL, "x": "y" * 20_000_000}
    async with rescuing(tmp_path) as rescue:
        write(rescue.outbox, payload=large, status="dead")
        await rescue.open()
        batch = await rescue.reader.claim(rescue.now, ())
        assert [row.claimed for row in batch.rows] == [False]
        with closing(sqlite3.connect(rescue.outbox)) as connection:
            connection.execute("UPDATE outbox SET status = 'in_progress', claimed_at = 5")
            connection.commit()
        await rescue.reader.settle(rescue.now, batch.rows, ())
        assert rows(rescue.outbox) == [(1, "in_progress", 5.0)]
        await rescue.reader.close()
        await rescue.run()
        assert rows(rescue.outbox) == []
        assert (await rescue.world.only_record("call-1")).record.raw_bytes > 20_000_000


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [64, pytest.param(300, marks=pytest.mark.prove)])
async def test_a_huge_row_takes_little_memory(tmp_path: Path, megabytes: int) -> None:
    """The payload goes from the reader to staging files; neither process holds it."""
    async with rescuing(tmp_path, spool_max=2 << 30) as rescue:
        write(rescue.outbox, payload={**FULL, "x": "y" * (megabytes * 1_000_000)}, status="dead")
        before = anonymous_bytes()
        work = asyncio.create_task(rescue.run())
        most = before
        while not work.done():
            most = max(most, anonymous_bytes())
            await asyncio.wait({work}, timeout=0.02)
        await work
        assert rescue.outcomes == {Outcome.RESCUED: 1}
        assert most - before < 32 << 20


@pytest.mark.parametrize(
    ("version", "safe"), [((3, 40, 1), False), ((3, 53, 2), False), ((3, 53, 3), True), ((3, 54, 0), True)]
)
def test_versions_of_sqlite_that_delete_what_a_journal_names_are_known(
    version: tuple[int, int, int], safe: bool
) -> None:
    """3.53.3 is the first that does not."""
    assert sandbox.sqlite_is_safe(version) is safe


def test_the_forged_journal_is_one_that_sqlite_believes(tmp_path: Path, victim: Path) -> None:
    """A test of the test: opened without care, it deletes the file that it names, where SQLite has the fault."""
    outbox = tmp_path / "outbox.db"
    with closing(sqlite3.connect(outbox)) as connection:
        connection.executescript(f"CREATE TABLE outbox ({COLUMNS})")
    forge_journal(outbox, victim)
    with closing(sqlite3.connect(outbox)) as connection:
        connection.execute("SELECT * FROM outbox").fetchall()
    assert victim.exists() is sandbox.sqlite_is_safe()


def anonymous_bytes() -> int:
    """Memory of this process that is not a file's."""
    rollup = Path("/proc/self/smaps_rollup").read_text().split()
    return int(rollup[rollup.index("Anonymous:") + 1]) << 10


def beside(path: Path) -> set[str]:
    return {f"{path.name}-{kind}" for kind in ("wal", "shm")}


async def opened_reader(path: Path) -> OutboxReader:
    opened = OutboxReader(path)
    stamp = opened.stamp()
    assert stamp is not None
    assert await opened.open(stamp)
    return opened


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_a_file_of_a_user_that_the_operator_names_is_taken(tmp_path: Path) -> None:
    """`whispey.outbox_owners` is for an agent that runs as another user."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    os.chown(outbox, 12345, -1)
    async with watching_over(tmp_path / "watch", outbox, owners={12345}) as watched:
        await watched.until(OutboxState.WATCHED, rescued=1)


@pytest.mark.parametrize("safe", [False, True])
def test_an_outbox_with_an_old_sqlite_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: bool) -> None:
    """The warning names both versions; where no outbox is configured, or SQLite is new, there is none."""
    monkeypatch.setattr(sandbox, "sqlite_is_safe", lambda: safe)
    monkeypatch.chdir(tmp_path)
    command = ("check-config", "--local")
    warned = "deletes any file that a forged rollback journal"
    result = CliRunner().invoke(main, command, env={"CALLSPOOL_WHISPEY_OUTBOX": str(tmp_path / "outbox.db")})
    assert (result.exit_code, warned in result.stderr) == (0, not safe)
    assert safe or (sqlite3.sqlite_version in result.stderr and "3.53.3" in result.stderr)
    assert warned not in CliRunner().invoke(main, command).stderr


def test_a_reader_loads_little() -> None:
    """It is started for each look: neither asyncio nor an HTTP library nor the gateway's log is among its modules."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, gateway.sdk_outbox.reader_main; print(*sys.modules)"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert not {"asyncio", "aiohttp", "aiosqlite", "structlog", "pydantic", "config"} & set(done.stdout.split())


@pytest.mark.prove
async def test_whatever_is_done_to_an_outbox_harms_nothing_else(tmp_path: Path, victim: Path) -> None:
    """Files are changed at random moments, while they are read: what belongs to the gateway stays, and it goes on."""
    chance = random.Random(11)
    async with rescuing(tmp_path) as rescue:
        for number in range(budgeted(small=25, full=400)):
            outbox = tmp_path / f"{number}.db"
            for row in range(chance.randrange(1, 40)):
                call_id = f"{number}-{row}"
                write(outbox, payload={**FULL, "call_id": call_id, "x": "y" * chance.randrange(9000)}, call_id=call_id)
            hostile = Rescue(rescue.world, outbox)
            working = asyncio.create_task(hostile.run())
            for _ in range(chance.randrange(1, 6)):
                for _ in range(chance.randrange(300)):
                    await asyncio.sleep(0)
                do_harm(outbox, victim, chance)
            with suppress(OutboxError, AssertionError):  # an outbox that is gone, or none any more
                await working
            assert victim.read_bytes() == PRECIOUS
            assert children_that_run("gateway.sdk_outbox.reader_main") == []
        write(rescue.outbox, payload={**FULL, "call_id": "good"}, call_id="good")
        await rescue.run()
        assert rescue.outcomes == {Outcome.RESCUED: 1}
