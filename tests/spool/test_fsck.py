"""The check of a spool: a sound one has no findings, every fault has its own, and nothing is changed by looking."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from spool import fsck
from spool.db.connection import PAGE_SIZE
from spool.db.wal import FRAME, HEADER, lost_commits
from spool.directory import DATABASE_NAME
from spool.errors import CorruptDatabase, SpoolLocked, UnsuitableDirectory
from spool.fsck import RULES, Finding, Kind, Severity, check
from spool.fsck.repair import repair
from spool.live_calls import HeardCall, NewTurn
from spool.records import NewSpans
from tests.spool.salvaged_spools import LOG_NAME, Crashed
from tests.spool.spool_parts import (
    ENDPOINT,
    NOW,
    change,
    one_of_everything,
    opened,
    without_maintenance,
)


async def make(directory: Path) -> None:
    async with opened(directory) as spool:
        await without_maintenance(spool)
        await one_of_everything(spool)
        for spans in (2, 3):
            await spool.traces.add([NewSpans(b"t" * 16, b"spans" * spans, spans, "call")], None, "key:1")
        await spool.live.hear(HeardCall("live", "key:1", about=b'"a":1', turns=(NewTurn("#1", 1, b"{}" * 9),)), "key")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template")
    asyncio.run(make(directory))
    return directory


@pytest.fixture
def filled(template: Path, tmp_path: Path) -> Path:
    """A filled spool that is closed; a copy, for making one takes longer than checking it."""
    return shutil.copytree(template, tmp_path / "spool")


def files_of(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with when it was changed last and what is in it."""
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in directory.iterdir()}


def kinds(directory: Path) -> set[Kind]:
    return {finding.kind for finding in check(directory)}


async def test_a_sound_spool_has_no_findings(tmp_path: Path) -> None:
    """Whatever a spool has been through by its own operations, a check finds nothing, running and stopped."""
    async with opened(tmp_path) as spool:
        await one_of_everything(spool)
        assert check(tmp_path) == ()
    before = files_of(tmp_path)
    assert check(tmp_path) == ()
    assert files_of(tmp_path) == before


KILLED = """
import asyncio, os, sys
from pathlib import Path
from tests.spool.spool_parts import one_of_everything, opened

async def main():
    async with opened(Path(sys.argv[1])) as spool:
        await one_of_everything(spool)
        os._exit(9)

asyncio.run(main())
"""


@pytest.mark.parametrize("index", ["kept", "gone"])
def test_what_a_killed_process_left_is_read_with_its_log_and_not_changed(tmp_path: Path, index: str) -> None:
    """Of a spool whose log was never moved into the database, every byte and every file stays as it is."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False, timeout=60)
    assert done.returncode == 9
    assert (tmp_path / f"{DATABASE_NAME}-wal").stat().st_size > 0
    if index == "gone":
        (tmp_path / f"{DATABASE_NAME}-shm").unlink()
    before = files_of(tmp_path)
    assert {finding.severity for finding in check(tmp_path)} <= {Severity.NOTE}
    assert files_of(tmp_path) == before
    change(tmp_path, "DELETE FROM counters")
    assert kinds(tmp_path) == {Kind.WRONG_COUNTER}


FAULTS = {
    "a payload's chunk is gone": ("DELETE FROM chunks WHERE chunk_id = 7", Kind.MISSING_CHUNKS),
    "a frame was changed": ("UPDATE chunks SET frame = zeroblob(9) WHERE chunk_id = 1", Kind.BAD_FRAME),
    "a checksum was changed": ("UPDATE chunks SET crc32 = crc32 + 1 WHERE chunk_id = 1", Kind.BAD_FRAME),
    "a chunk too many": ("INSERT INTO chunks VALUES (1000, 0, x'00')", Kind.UNKNOWN_CHUNKS),
    "an orphan range": ("INSERT INTO orphan_chunks VALUES (2000, 2001)", Kind.ORPHAN_CHUNKS),
    "two records in one place": (
        "UPDATE records SET first_chunk = first_chunk - 1 WHERE call_id = 'whole-2'",
        Kind.SHARED_CHUNKS,
    ),
    "fragments that are no JSON": (
        "UPDATE records SET fragments = '{' WHERE call_id = 'whole-2'",
        Kind.UNREADABLE_RECORD,
    ),
    "fragments of another size": (
        "UPDATE records SET stored_bytes = stored_bytes + 1 WHERE call_id = 'whole-2'",
        Kind.UNREADABLE_RECORD,
    ),
    "a delivery without a record": ("DELETE FROM records WHERE call_id = 'whole-2'", Kind.NO_RECORD),
    "a destination without a name": (f"DELETE FROM destinations WHERE name = '{ENDPOINT}'", Kind.NO_DESTINATION),
    "a state that does not exist": ("UPDATE deliveries SET state = 9 WHERE state = 3", Kind.ILLEGAL_DELIVERY),
    "a form that does not exist": ("UPDATE deliveries SET form = 'half' WHERE state = 3", Kind.ILLEGAL_DELIVERY),
    "held for nothing": ("UPDATE deliveries SET state = 2 WHERE form = 'detail'", Kind.ILLEGAL_DELIVERY),
    "delivered at no time": ("UPDATE deliveries SET settled_at = NULL WHERE state = 4", Kind.ILLEGAL_DELIVERY),
    "an open record that owes nothing": (
        "DELETE FROM deliveries WHERE record_id = (SELECT record_id FROM records WHERE call_id = 'whole-2')",
        Kind.NOTHING_OWED,
    ),
    "a receipt that owes": (
        "UPDATE records SET settled_at = 1, token_id = NULL WHERE call_id = 'whole-2'",
        Kind.OWED_BY_RECEIPT,
    ),
    "waiting for nothing": (
        "UPDATE deliveries SET state = 1 WHERE form = 'whole' AND state = 0",
        Kind.STUCK,
    ),
    "a detail before its core": (
        "UPDATE deliveries SET state = 0 WHERE form = 'detail' AND state = 1",
        Kind.OUT_OF_TURN,
    ),
    "a counter": ("UPDATE counters SET ready = ready + 1, owed = owed + 1", Kind.WRONG_COUNTER),
    "counted bytes": ("UPDATE counters SET queued_bytes = queued_bytes - 1", Kind.WRONG_COUNTER),
    "uses of a token": ("UPDATE tokens SET uses = uses + 1", Kind.WRONG_USES),
    "a token that nothing uses": (
        "INSERT INTO tokens (token_hash, value, uses) VALUES (x'01', 'v', 0)",
        Kind.UNUSED_TOKEN,
    ),
    "a token that is gone": ("DELETE FROM tokens", Kind.MISSING_TOKEN),
    "numbers that go back": ("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'records'", Kind.REUSED_IDS),
    "no id of its own": ("DELETE FROM meta WHERE name = 'spool_id'", Kind.MISSING_META),
    "parts without an upload": (
        "INSERT INTO multipart_parts VALUES (1, 1, 'detail', 1, 5, x'00', NULL)",
        Kind.STRAY_PROGRESS,
    ),
    "spans that are gone": ("DELETE FROM trace_rows WHERE row_id = 1", Kind.WRONG_TRACE),
    "a trace that is gone": ("DELETE FROM traces", Kind.WRONG_TRACE),
    "spans that were changed": ("UPDATE trace_rows SET frame = zeroblob(9) WHERE row_id = 2", Kind.DAMAGED_SPANS),
    "turns that are gone": ("DELETE FROM live_turns WHERE turn = '#1'", Kind.WRONG_LIVE_CALL),
    "a live call that is gone": ("DELETE FROM live_calls", Kind.WRONG_LIVE_CALL),
    "a turn that was changed": ("UPDATE live_turns SET frame = zeroblob(9) WHERE turn = '#1'", Kind.DAMAGED_TURN),
    "a newer schema": ("PRAGMA user_version = 999", Kind.NEWER_SCHEMA),
    "an older schema": ("PRAGMA user_version = 1", Kind.OLDER_SCHEMA),
}


@pytest.mark.parametrize(("statement", "kind"), FAULTS.values(), ids=FAULTS)
def test_every_fault_of_the_books_is_found(filled: Path, statement: str, kind: Kind) -> None:
    """Whatever disagrees in the tables is a finding of its kind, with a place and something to do."""
    change(filled, statement)
    findings = check(filled)
    found = next((finding for finding in findings if finding.kind is kind), None)
    assert found is not None, findings
    assert found.where
    assert found.text
    assert found.advice == RULES[kind].advice


def flip(path: Path, offset: int, count: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(count)
        file.seek(offset)
        file.write(bytes(byte ^ 0xFF for byte in old))


def test_damaged_pages_are_found_wherever_they_lie(filled: Path) -> None:
    """A page of any table that is overwritten makes the spool unsound, and never makes the check fail."""
    database = filled / DATABASE_NAME
    whole = database.read_bytes()
    pages = len(whole) // PAGE_SIZE
    for page in (*range(min(pages, 30)), *range(30, pages, 19)):
        flip(database, page * PAGE_SIZE, PAGE_SIZE)
        severities = {finding.severity for finding in check(filled)}
        database.write_bytes(whole)
        assert Severity.ERROR in severities, f"page {page + 1}"


def test_files_that_are_no_spool(tmp_path: Path) -> None:
    """A directory without a database is told as such; a file that is none is a finding."""
    with pytest.raises(UnsuitableDirectory, match=r"spool\.db is missing"):
        check(tmp_path)
    (tmp_path / DATABASE_NAME).write_bytes(b"this is not a database" * 1000)
    (tmp_path / DATABASE_NAME).chmod(0o600)
    assert kinds(tmp_path) == {Kind.UNREADABLE}


def test_files_are_for_their_owner_and_nothing_is_left_over(filled: Path) -> None:
    """Modes, left-overs of staging, a log that is gone, and what was moved aside are findings."""
    (filled / DATABASE_NAME).chmod(0o644)
    (filled / "staging").mkdir()
    (filled / "staging" / "x.staged").write_bytes(b"half a post")
    (filled / f"{DATABASE_NAME}-shm").touch(0o600)
    (filled / "aside-20260101T000000Z").mkdir()
    expected = {Kind.WRONG_MODE, Kind.LEFT_IN_STAGING, Kind.MISSING_LOG, Kind.IN_QUARANTINE}
    assert kinds(filled) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", [f"{DATABASE_NAME}", f"{DATABASE_NAME}-wal", "spool.lock", "spool.headroom"])
def test_a_file_of_another_user_is_found(filled: Path, name: str) -> None:
    """All files of a spool belong to one user."""
    (filled / f"{DATABASE_NAME}-wal").touch(0o600)
    os.chown(filled / name, 12345, -1)
    findings = [finding for finding in check(filled) if finding.kind is Kind.WRONG_OWNER]
    assert findings


def test_progress_is_told_up_to_its_end(filled: Path) -> None:
    """Whoever shows progress hears of each part of the check, and that it was finished."""
    told: dict[str, list[tuple[int, int]]] = {}
    check(filled, lambda what, done, total: told.setdefault(what, []).append((done, total)))
    assert set(told) == {"records, deliveries and counters", "payloads", "pages and indexes"}
    assert all(steps[-1] == (1, 1) for steps in told.values())


def test_every_kind_has_a_rule() -> None:
    """How bad it is and what to do is said for every kind."""
    assert set(RULES) == set(Kind)
    assert isinstance(Finding(Kind.STUCK, "", "").severity, Severity)


REPAIRABLE = [name for name, (_, kind) in FAULTS.items() if RULES[kind].repaired]


@pytest.mark.parametrize("name", REPAIRABLE)
def test_a_repair_leaves_nothing_to_repair(filled: Path, name: str) -> None:
    """Every fault that is said to be repaired is gone afterwards, and the repair made no other."""
    statement, kind = FAULTS[name]
    change(filled, statement)
    before = {finding.kind for finding in check(filled) if not RULES[finding.kind].repaired}
    assert repair(filled, NOW) > 0
    assert {finding.kind for finding in check(filled)} <= before - {kind}


def test_a_damaged_database_is_not_repaired(filled: Path) -> None:
    """Where SQLite itself finds damage, a repair changes nothing: the gateway moves the database aside."""
    database = filled / DATABASE_NAME
    flip(database, 5 * PAGE_SIZE, PAGE_SIZE)
    before = database.read_bytes()
    with pytest.raises(CorruptDatabase):
        repair(filled, NOW)
    assert database.read_bytes() == before


async def test_a_spool_in_use_is_not_repaired(tmp_path: Path) -> None:
    """Its gateway owns it."""
    async with opened(tmp_path):
        with pytest.raises(SpoolLocked):
            repair(tmp_path, NOW)


async def test_commits_behind_a_damaged_place_of_the_log_are_found(tmp_path: Path) -> None:
    """As many as the start would find, which moves such a database aside; the end of a torn log is no damage."""
    crashed, directory = await Crashed.make(tmp_path / "made"), tmp_path / "crashed"
    crashed.lay(directory, crashed.images)
    assert Kind.LOST_COMMITS not in kinds(directory)
    flip(directory / LOG_NAME, HEADER.size + 3 * (FRAME.size + PAGE_SIZE) + 100, 1)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    (found,) = [finding for finding in check(directory) if finding.kind is Kind.LOST_COMMITS]
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert f"{lost_commits(directory / DATABASE_NAME)} commits" in found.text
    crashed.lay(torn := tmp_path / "torn", crashed.images)
    flip(torn / LOG_NAME, (torn / LOG_NAME).stat().st_size - 100, 1)
    assert Kind.LOST_COMMITS not in kinds(torn)


def test_every_kind_of_finding_can_be_found() -> None:
    """No rule is about something that no check looks for."""
    others = {"findings", "repair"}
    checks = "".join(file.read_text() for file in Path(fsck.__file__).parent.glob("*.py") if file.stem not in others)
    assert [kind for kind in Kind if f"Kind.{kind.name}" not in checks] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_a_spool_of_somebody_else_is_a_finding(tmp_path: Path) -> None:
    """Where database and log may not be read, the check says so and ends well."""
    crashed = await Crashed.make(tmp_path / "made")
    with tempfile.TemporaryDirectory() as outside:  # what is above it can be entered by anybody
        directory = Path(outside) / "crashed"
        crashed.lay(directory, crashed.images)
        Path(outside).chmod(0o755)
        os.seteuid(12345)
        try:
            found = kinds(directory)
        finally:
            os.seteuid(0)
    assert found >= {Kind.WRONG_OWNER, Kind.UNREADABLE}
