"""Adopting a spool that somebody made to do harm: the process that reads it bears the harm, and this spool goes on."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from spool.directory import DATABASE_NAME
from spool.errors import CorruptDatabase, SpoolError, UnsuitableDirectory
from spool.salvage import reader
from spool.salvage.model import Outcome
from spool.salvage.reader import opened_source
from tests.processes import children_that_run, open_descriptors
from tests.spool.salvaged_spools import bring
from tests.spool.spool_parts import a_record, becomes, opened

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, i, i FROM n"


def changed(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        for statement in statements:
            connection.executescript(statement)
        connection.commit()


async def filled(directory: Path, calls: int = 3) -> Path:
    async with opened(directory) as spool:
        for number in range(calls):
            await spool.accept(a_record(f"call-{number}"))
    return directory


async def test_a_huge_value_is_one_lost_record(tmp_path: Path) -> None:
    """A text of 300 MB is not loaded: its record is unreadable, the others come over, in little memory."""
    old = await filled(tmp_path / "old")
    changed(old, "UPDATE records SET agent_id = CAST(zeroblob(300000000) AS TEXT) WHERE record_id = 2")
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from now on
    before = peak_kilobytes()
    async with opened(tmp_path / "new") as spool:
        tally = await bring(spool, old, adopt=True)
        assert tally.outcomes == {Outcome.IMPORTED: 2, Outcome.UNREADABLE: 1}
    assert peak_kilobytes() - before < 50_000


@pytest.mark.parametrize("table", ["meta", "records", "destinations", "deliveries"])
async def test_a_view_without_an_end_is_no_table(tmp_path: Path, table: str) -> None:
    """What is no schema of a spool is not asked anything: the sound one is put in its place, as for a damaged one."""
    old = await filled(tmp_path / "old")
    changed(old, f"ALTER TABLE {table} RENAME TO {table}_kept", f"CREATE VIEW {table} AS {ENDLESS}")
    async with opened(tmp_path / "new") as spool:
        try:
            tally = await bring(spool, old, adopt=True)
        except SpoolError as error:
            assert "nothing can be read" in str(error)  # noqa: PT017  # either is right
        else:
            assert set(tally.outcomes) <= {Outcome.IMPORTED, Outcome.UNREADABLE, Outcome.DAMAGED}


async def test_values_of_another_type_lose_their_record_alone(tmp_path: Path) -> None:
    """A number where a text belongs, a text where a number does."""
    old = await filled(tmp_path / "old", calls=4)
    changed(
        old,
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = 'records'",
    )
    changed(
        old,
        "UPDATE records SET call_id = x'00ff' WHERE record_id = 2",
        "UPDATE records SET raw_bytes = 'many' WHERE record_id = 3",
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET sql = sql || 'STRICT' WHERE name = 'records'",
    )
    async with opened(tmp_path / "new") as spool:
        tally = await bring(spool, old, adopt=True)
        assert tally.outcomes == {Outcome.IMPORTED: 2, Outcome.UNREADABLE: 2}


def _linked(directory: Path) -> None:
    (directory / DATABASE_NAME).rename(directory / "elsewhere.db")
    (directory / DATABASE_NAME).symlink_to(directory / "elsewhere.db")


def _piped(directory: Path) -> None:
    (directory / DATABASE_NAME).unlink()
    os.mkfifo(directory / DATABASE_NAME)


def _writable(directory: Path) -> None:
    (directory / DATABASE_NAME).chmod(0o666)


def _somebody_elses(directory: Path) -> None:
    os.chown(directory / DATABASE_NAME, 12345, -1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_linked, "a link is not followed"),
        (_piped, "is no file"),
        (_writable, "every user may write"),
        pytest.param(
            _somebody_elses,
            "belongs to user 12345",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away"),
        ),
    ],
)
async def test_what_is_no_file_of_the_directory_is_not_opened(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    """Links, pipes, files of others and files that everybody may write are refused, before and by an adoption."""
    old = await filled(tmp_path / "old")
    make(old)
    async with opened(tmp_path / "new") as spool:
        with pytest.raises(UnsuitableDirectory, match=reason):
            await bring(spool, old)


async def test_a_reader_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer in time is the end of that salvage, and of the process."""
    old = await filled(tmp_path / "old")
    with opened_source(old) as source:
        (process,) = children_that_run("spool.salvage.reader_main")
        process.suspend()
        monkeypatch.setattr(reader, "ANSWER_SECONDS", 0.2)
        with pytest.raises(CorruptDatabase, match="did not answer"):
            next(source.records())
    assert children_that_run("spool.salvage.reader_main") == []


@pytest.mark.parametrize("reaped", [False, True])
async def test_a_reader_that_is_killed_says_so(tmp_path: Path, reaped: bool) -> None:
    """An out-of-memory killer, a SIGBUS: the salvage fails with the signal's name, and no pipe stays open.

    A process that is gone before it is asked cannot read the request: closing its pipe must not try to write that.
    """
    old = await filled(tmp_path / "old")
    before = open_descriptors()
    with opened_source(old) as source:
        (process,) = children_that_run("spool.salvage.reader_main")
        process.kill()
        if reaped:
            await becomes(lambda: process.status() == psutil.STATUS_ZOMBIE)
        with pytest.raises(CorruptDatabase, match="SIGKILL"):
            next(source.records())
    assert open_descriptors() == before


async def test_a_reader_knows_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment has no token, and its memory has a limit."""
    monkeypatch.setenv("CALLSPOOL_ENDPOINT_TOKEN", "hush")
    old = await filled(tmp_path / "old")
    with opened_source(old):
        (process,) = children_that_run("spool.salvage.reader_main")
        assert "hush" not in process.environ().values()
        assert process.rlimit(psutil.RLIMIT_AS)[0] == 1 << 30


@pytest.mark.skipif(not Path("/sys/kernel/security").exists(), reason="no Landlock here")
def test_a_sandboxed_process_has_its_folder_alone(tmp_path: Path) -> None:
    """It reads and writes there, and nowhere else; without Landlock it says that it is not confined."""
    (tmp_path / "own").mkdir()
    (tmp_path / "other").write_text("hush")
    program = (
        "import sys; from pathlib import Path; from spool import sandbox\n"
        "print(sandbox.confine(sandbox.Limits(9, 1 << 28), Path(sys.argv[1])))\n"
        "Path(sys.argv[1], 'new').write_text('x'); Path(sys.argv[1], 'new').unlink()\n"
        "for path in ('../other', '/etc/hostname'):\n"
        "    try: Path(sys.argv[1], path).read_text(); print('read')\n"
        "    except OSError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "own")],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    confined, *outcomes = done.stdout.split()
    assert outcomes == (["PermissionError"] * 2 if confined == "True" else ["read"] * 2)


def peak_kilobytes() -> int:
    """The most memory that this process has had."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1])


def test_a_reader_loads_little() -> None:
    """It is started for each salvage: neither asyncio nor what writes a spool is among its modules."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, spool.salvage.reader_main; print(*sys.modules)"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    needless = {"asyncio", "aiosqlite", "structlog", "zstandard", "spool.db.writer", "spool.store"}
    assert not needless & set(done.stdout.split())
