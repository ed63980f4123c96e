"""`callspool fsck`: findings for people and for programs, and exit codes that tell them apart."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import Exit, main
from gateway.cli.fsck import SHOWN_OF_A_KIND
from spool.directory import DirectoryLock
from tests.spool.spool_parts import a_record, change, opened


async def make(directory: Path) -> None:
    async with opened(directory) as spool:
        for number in range(20):
            await spool.accept(a_record(f"call-{number}"))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    asyncio.run(make(tmp_path / "spool"))
    return tmp_path / "spool"


def fsck(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["fsck", *map(str, arguments)])


def test_a_sound_spool(spool: Path) -> None:
    """One line and exit code 0."""
    done = fsck(spool)
    assert (done.exit_code, done.output.split()) == (Exit.OK, [str(spool), "sound"])


def test_what_is_wrong_is_told_with_what_to_do(spool: Path) -> None:
    """The table names each fault, many of a kind are cut short, and the exit code is the one for unsound spools."""
    change(spool, "UPDATE chunks SET crc32 = 0")
    change(spool, "UPDATE counters SET delivered = 1")
    done = fsck(spool)
    assert done.exit_code == Exit.UNSOUND
    assert "not sound: 21 errors" in done.output
    assert done.output.count("does not match its checksum") == SHOWN_OF_A_KIND
    assert "and 10 more like these" in done.output
    assert "(call call-3)" in done.output
    assert "wrong counter" in done.output
    assert "it is recounted" in done.output


def test_all_findings_as_json(spool: Path) -> None:
    """--json leaves none out."""
    change(spool, "UPDATE chunks SET crc32 = 0")
    done = fsck(spool, "--json")
    report = json.loads(done.output)
    assert done.exit_code == Exit.UNSOUND
    assert (report["sound"], report["gateway_running"], report["directory"]) == (False, False, str(spool))
    assert {finding["kind"] for finding in report["findings"]} == {"bad frame"}
    assert len(report["findings"]) == 20


def test_notes_alone_do_not_make_a_spool_unsound(spool: Path) -> None:
    """What the next start clears away is shown, and the exit code is 0."""
    change(spool, "INSERT INTO orphan_chunks VALUES (500, 501)")
    done = fsck(spool)
    assert done.exit_code == Exit.OK
    assert "orphan chunks" in done.output


def test_the_configured_spool_is_the_default(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a directory it is the one that the gateway would use; no destination has to be configured."""
    monkeypatch.setenv("CALLSPOOL_SPOOL_DIR", str(spool))
    assert str(spool) in fsck().output
    assert fsck().exit_code == Exit.OK


def test_a_directory_without_a_spool(tmp_path: Path) -> None:
    """It says so, and the exit code is that of a wrong command line."""
    done = fsck(tmp_path)
    assert done.exit_code == Exit.USAGE
    assert f"There is no spool in {tmp_path}: " in done.output


def test_a_repair_beside_a_gateway_says_to_stop_it(spool: Path) -> None:
    """A gateway needs no other directory then: it is to be stopped for as long as the repair takes."""
    lock = DirectoryLock(spool)
    lock.acquire()
    try:
        done = fsck(spool, "--repair")
    finally:
        lock.release()
    assert (done.exit_code, "A gateway is running" in done.output, "Stop it" in done.output) == (Exit.USAGE, True, True)
    assert "CALLSPOOL_SPOOL_DIR" not in done.output
