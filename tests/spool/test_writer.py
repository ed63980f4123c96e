"""The writer: shared commits that are on disk, failures of one operation alone, ends that leave nobody waiting."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from spool import space
from spool.db import write_connection
from spool.db.transaction import Transaction
from spool.db.write_connection import OpenDatabase
from spool.directory import DATABASE_NAME
from spool.errors import NotStorable, SpoolFull, SpoolUnavailable
from spool.fsck import Severity, check
from spool.records import Delivered, Lane
from spool.store import Spool, SpoolOptions
from tests.spool.spool_parts import (
    ENDPOINT,
    NOW,
    Commits,
    a_record,
    accepted_again,
    becomes,
    due,
    files_no_larger_than,
    log_size,
    looked_into,
    maintained,
    opened,
    rows,
    without_maintenance,
    write,
    writer_held_up,
)

ACCEPTING = """
import asyncio, sys
from pathlib import Path
from tests.spool.spool_parts import a_record, opened

async def main():
    async with opened(Path(sys.argv[1])) as spool:
        for number in range(int(sys.argv[2])):
            await spool.accept(a_record(f"c{number}"))

asyncio.run(main())
"""


async def test_whoever_waits_is_cancelled_when_it_is_done(spool: Spool) -> None:
    """An operation may use its submitter's buffers, so that nobody goes away before it came to its end."""
    ended: list[str] = []

    async def submit() -> None:
        try:
            await spool._writer.submit(lambda _: ended.append("written"))
        finally:
            ended.append("gone")

    async with writer_held_up(spool):
        waiting = asyncio.create_task(submit())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        waiting.cancel()
        assert not ended
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["written", "gone"]


async def test_posts_share_commits(spool: Spool, commits: Commits) -> None:
    """Posts that come in together are committed together, each once."""
    await without_maintenance(spool)
    commits.batches.clear()
    await asyncio.gather(*(spool.accept(a_record(f"c{number}")) for number in range(300)))
    await asyncio.sleep(0)
    assert sum(commits.batches) == 300
    assert len(commits.batches) < 30


async def test_large_posts_do_not_share_more_than_a_bounded_commit(spool: Spool, commits: Commits) -> None:
    """Heavy operations are committed a few at a time, so that light ones between them do not wait long."""
    await without_maintenance(spool)

    def write_a_little(transaction: Transaction) -> bool:
        transaction.execute("UPDATE meta SET value = value WHERE name = 'spool_id'")
        return True

    async with writer_held_up(spool):
        sizes = (3 << 20, 1 << 20, 2 << 20, 9 << 20)
        futures = [spool._writer.submit(write_a_little, byte_count) for byte_count in sizes]
        futures += [spool._writer.submit(write_a_little) for _ in range(5)]
        commits.batches.clear()
    assert all(await asyncio.gather(*futures))
    await asyncio.sleep(0)
    # All light ones with 3 and 1 MiB; 2 MiB; 9 MiB, which is more than the bound by itself.
    assert commits.batches == [7, 1, 1]


async def test_commits_are_synced_in_full(spool: Spool) -> None:
    """The writing connection runs with synchronous=FULL: a commit returns after the sync of the log."""
    assert await write(spool, lambda transaction: transaction.execute("PRAGMA synchronous").fetchone()) == (2,)
    assert await write(spool, lambda transaction: transaction.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_each_acknowledgement_follows_a_sync(tmp_path: Path) -> None:
    """As seen by the kernel: a process that accepts one record after the other syncs once for each."""
    trace, count = tmp_path / "trace", 25
    command = ["strace", "-f", "-e", "trace=fdatasync,fsync", "-o", str(trace), sys.executable, "-c", ACCEPTING]
    subprocess.run([*command, str(tmp_path / "spool"), str(count)], check=True, timeout=120)
    syncs = Counter(line.split("(")[0].split()[-1] for line in trace.read_text().splitlines() if "sync(" in line)
    assert syncs["fdatasync"] + syncs["fsync"] >= count


async def test_a_failing_operation_takes_nobody_with_it(spool: Spool) -> None:
    """Of a group, exactly those operations fail that fail alone; the others are durable, each once."""

    def fail(transaction: Transaction) -> None:
        transaction.execute("INSERT INTO meta (name, value) VALUES ('half', 1)")
        raise LookupError("not today")

    tasks = [spool.accept(a_record(f"c{number}")) for number in range(10)]
    failing = [write(spool, fail) for _ in range(3)]
    results = await asyncio.gather(*tasks[:5], *failing, *tasks[5:], return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["Accepted"] * 5 + ["LookupError"] * 3 + ["Accepted"] * 5
    assert len(await due(spool)) == 10
    assert spool.stats().lanes[ENDPOINT, Lane.CORE].owed == 10
    half = "SELECT count(*) FROM meta WHERE name = 'half'"
    assert await write(spool, lambda transaction: transaction.execute(half).fetchone()) == (0,)


async def test_a_key_that_is_taken_fails_its_operation_only(spool: Spool) -> None:
    """A second upload address with the same key is NotStorable, and the spool goes on."""
    await spool.register_upload(b"hash", "key", "c", None, NOW)
    registered, accepted = await asyncio.gather(
        spool.register_upload(b"hash", "other", "c", None, NOW), spool.accept(a_record()), return_exceptions=True
    )
    assert isinstance(registered, NotStorable)
    assert not isinstance(accepted, BaseException)
    assert spool.stats().failure is None


async def test_a_mistake_in_sql_fails_its_operation_only(spool: Spool) -> None:
    """An error that says nothing about the disk leaves the connection trusted."""
    wrong, accepted = await asyncio.gather(
        write(spool, lambda transaction: transaction.execute("SELECT nothing")),
        spool.accept(a_record()),
        return_exceptions=True,
    )
    assert isinstance(wrong, SpoolUnavailable)
    assert not isinstance(accepted, BaseException)
    assert spool.stats().failure is None


async def test_a_full_disk_is_told_as_such_and_over_when_there_is_room(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLITE_FULL is SpoolFull without a limit; what is small still goes in, and nothing has to be reopened."""
    pages = await write(spool, lambda transaction: transaction.execute("PRAGMA page_count").fetchone()[0])
    await write(spool, lambda transaction: transaction.execute(f"PRAGMA max_page_count = {pages + 20}"))
    large, small = await asyncio.gather(
        spool.accept(a_record("large", body=bytes(range(256)) * 100)),
        spool.accept(a_record("small")),
        return_exceptions=True,
    )
    assert not isinstance(large, BaseException)
    incompressible = b"".join(number.to_bytes(4, "big") for number in range(0, 1 << 31, 1 << 12))
    refused, small = await asyncio.gather(
        spool.accept(a_record("huge", body=incompressible)), spool.accept(a_record("s2")), return_exceptions=True
    )
    assert isinstance(refused, SpoolFull)
    assert refused.limit_bytes is None
    assert refused.used_bytes > 0
    assert not isinstance(small, BaseException)
    assert spool.stats().failure is None
    assert "the disk is full" in str(spool.stats().shortage)
    await write(spool, lambda transaction: transaction.execute("PRAGMA max_page_count = 1000000"))
    monkeypatch.setattr(space, "PATIENCE_SECONDS", 0)
    assert (await spool.accept(a_record("huge again", body=incompressible))).ready
    assert spool.stats().shortage is None


async def test_a_shortage_is_over_when_the_disk_has_room_again(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to post for it: after a while what the disk says itself is believed again."""
    pages = await write(spool, lambda transaction: transaction.execute("PRAGMA page_count").fetchone()[0])
    await write(spool, lambda transaction: transaction.execute(f"PRAGMA max_page_count = {pages + 5}"))
    with pytest.raises(SpoolFull):
        await spool.accept(a_record("huge", body=os.urandom(1 << 20)))
    assert spool.stats().shortage is not None
    monkeypatch.setattr(space, "PATIENCE_SECONDS", 0)
    await becomes(lambda: spool.stats().shortage is None)


async def test_what_changes_nothing_is_no_commit(spool: Spool, commits: Commits) -> None:
    """Maintenance that finds nothing to do is not among the commits that metrics speak of."""
    await without_maintenance(spool)
    commits.batches.clear()
    await write(spool, lambda transaction: transaction.execute("SELECT 1").fetchone())
    await write(spool, lambda transaction: transaction.execute("UPDATE meta SET value = value WHERE name = 'none'"))
    await asyncio.sleep(0)
    assert commits.batches == []
    await spool.accept(a_record())
    await asyncio.sleep(0)
    assert commits.batches == [1]


async def test_a_lock_of_another_process_fails_a_group_once(spool: Spool, tmp_path: Path) -> None:
    """While somebody else holds the write lock, all that wait are refused together, and go in afterwards."""
    await write(spool, lambda transaction: transaction.execute("PRAGMA busy_timeout = 50").fetchall())
    other = looked_into(tmp_path)
    other.execute("BEGIN IMMEDIATE")
    started = asyncio.get_running_loop().time()
    results = await asyncio.gather(*(spool.accept(a_record(f"c{n}")) for n in range(200)), return_exceptions=True)
    assert asyncio.get_running_loop().time() - started < 5, "each operation waited for the lock on its own"
    assert {type(result) for result in results} == {SpoolUnavailable}
    other.execute("ROLLBACK")
    other.close()
    assert (await spool.accept(a_record())).ready
    assert spool.stats().failure is None


async def test_after_a_disk_error_the_spool_is_reopened(spool: Spool, tmp_path: Path) -> None:
    """A write error refuses posts and says why; when the disk is well again, posts and books go on."""
    await spool.accept(a_record("before"))
    with files_no_larger_than(log_size(tmp_path)):
        for number in range(3):
            with pytest.raises(SpoolUnavailable, match="disk"):
                await spool.accept(a_record(f"lost{number}"))
        assert spool.stats().failure is not None
        with pytest.raises(SpoolUnavailable):
            await spool.register_upload(b"hash", "key", "c", None, NOW)
    await accepted_again(spool, "after")
    assert spool.stats().failure is None
    assert [one.record.call_id for one in await due(spool)] == ["before", "after"]
    assert spool.stats().lanes[ENDPOINT, Lane.CORE].owed == 2
    await maintained(spool)
    assert spool.stats().unaccounted == 0


async def test_a_reopened_spool_began_with_a_whole_checkpoint(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first acknowledgement after a failure, everything committed is in the database itself."""
    await without_maintenance(spool)
    await spool.accept(a_record("before"))
    in_database: list[int] = []
    original = OpenDatabase.measure

    def look(database: OpenDatabase) -> str | None:
        in_database.append(log_size(tmp_path))
        return original(database)

    spool._writer.database.failure = "as if an fsync had failed"
    monkeypatch.setattr(OpenDatabase, "measure", look)
    await spool.accept(a_record("after"))
    assert in_database[0] == 0


async def test_reopening_is_tried_once_a_second(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst of posts on a failing disk does not reopen the database for each."""
    attempts = 0

    def fail(path: Path, *, erase_freed: bool) -> sqlite3.Connection:
        nonlocal attempts
        attempts += 1
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(write_connection, "connect_writer", fail)
    spool._writer.database.failure = "as if an fsync had failed"
    for number in range(50):
        with pytest.raises(SpoolUnavailable):
            await spool.accept(a_record(f"c{number}"))
    assert attempts <= 3


async def test_a_failing_spool_can_be_closed(tmp_path: Path) -> None:
    """Closing while the disk fails ends, answers everyone, and gives the directory back."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("before"))
        limit = log_size(tmp_path)
        with files_no_larger_than(limit):
            posts = [asyncio.ensure_future(spool.accept(a_record(f"c{number}"))) for number in range(20)]
            await asyncio.sleep(0)
            await asyncio.wait_for(spool.close(), 30)
        results = await asyncio.wait_for(asyncio.gather(*posts, return_exceptions=True), 30)
        assert {type(result) for result in results} == {SpoolUnavailable}
    async with opened(tmp_path, lock_timeout=0.0) as spool:
        assert [one.record.call_id for one in await due(spool)] == ["before"]


async def test_what_was_submitted_before_the_end_is_written(tmp_path: Path) -> None:
    """`close` writes what waits, and refuses what comes later."""
    async with opened(tmp_path) as spool:
        writing = [spool._writer.submit(lambda _: "written") for _ in range(1000)]
    assert {future.result() for future in writing} == {"written"}
    with pytest.raises(SpoolUnavailable, match="closed"):
        spool._writer.submit(lambda _: None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_nobody_waits_for_a_thread_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the thread ever end by a mistake of its own, its callers are told, and later ones refused."""
    async with opened(tmp_path) as spool:
        accepted = await spool.accept(a_record("before"))

        def break_down(_database: OpenDatabase) -> str | None:
            raise AssertionError("a mistake in the writer")

        monkeypatch.setattr(OpenDatabase, "measure", break_down)
        with pytest.raises(SpoolUnavailable, match="ended"):
            await asyncio.wait_for(spool.settle(accepted.ready[0], Delivered()), 30)
        with pytest.raises(SpoolUnavailable, match="ended"):
            await spool.accept(a_record("after"))
        assert "start callspool again" in (spool.stats().failure or ""), "not ready, and it says why"


async def test_a_closed_event_loop_does_not_break_the_thread(tmp_path: Path) -> None:
    """A commit that ends after everyone is gone is a commit nevertheless."""

    async def submit_and_leave() -> Spool:
        spool = await Spool.open(SpoolOptions(tmp_path), [ENDPOINT], lambda: NOW, Commits())
        await without_maintenance(spool)
        await spool.reader.close()
        spool._writer.submit(lambda transaction: transaction.execute("INSERT INTO meta VALUES ('left', 1)") and None)
        return spool

    spool = await asyncio.to_thread(lambda: asyncio.run(submit_and_leave()))
    spool._writer._queue.end()
    await asyncio.to_thread(spool._writer._thread.join, 10)
    spool._ingest.close()
    spool.directory._lock.release()
    assert rows(tmp_path, "SELECT value FROM meta WHERE name = 'left'") == [(1,)]


def _removed(tmp_path: Path, suffixes: tuple[str, ...]) -> None:
    for suffix in suffixes:
        (tmp_path / f"{DATABASE_NAME}{suffix}").unlink()


def _replaced(tmp_path: Path, suffixes: tuple[str, ...]) -> None:
    for suffix in suffixes:
        file = tmp_path / f"{DATABASE_NAME}{suffix}"
        other = file.with_name("other")
        other.touch(0o600)
        other.write_bytes(b"not a log")
        other.rename(file)


@pytest.mark.parametrize("take_away", [_removed, _replaced])
@pytest.mark.parametrize("suffixes", [("-wal",), ("-wal", "-shm")], ids=["the log", "log and index"])
async def test_a_log_that_is_taken_away_loses_nothing(
    tmp_path: Path, take_away: Callable[[Path, tuple[str, ...]], None], suffixes: tuple[str, ...]
) -> None:
    """What was acknowledged, the post that notices it included, is in the database that is opened anew."""
    accepted = []
    async with opened(tmp_path) as spool:
        await without_maintenance(spool)
        accepted += [await spool.accept(a_record(f"before-{number}", body=os.urandom(5000))) for number in range(5)]
        take_away(tmp_path, suffixes)
        accepted.append(await spool.accept(a_record("notices it")))
        assert "log" in await asyncio.wait_for(spool.directory.corruption.wait(), 30)
        assert spool.directory.corruption.reason is None, "it is sound"
        with pytest.raises(SpoolUnavailable, match="it is reopened"):
            await spool.accept(a_record("too late"))
        assert "it is reopened" in (spool.stats().failure or "")
    async with opened(tmp_path) as spool:
        assert {delivery.record.uid for delivery in await due(spool)} == {one.uid for one in accepted}
        assert spool.stats().quarantined == ()
        await spool.accept(a_record("again"))
    assert not [finding for finding in check(tmp_path) if finding.severity is not Severity.NOTE]


async def test_a_database_that_is_taken_away_is_not_replaced(tmp_path: Path) -> None:
    """Where nothing but a person can find what was acknowledged, nothing is accepted, and nothing is opened anew."""
    async with opened(tmp_path) as spool:
        await without_maintenance(spool)
        await spool.accept(a_record("a"))
        (tmp_path / DATABASE_NAME).rename(tmp_path / "elsewhere")
        for _ in range(2):
            with pytest.raises(SpoolUnavailable, match="started again"):
                await spool.accept(a_record("b"))
        assert spool.directory.corruption.reopen_reason is None
