"""CorruptionLatch: a bad chunk, record or page is named, and harms nothing beside it (promise 6)."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from spool.db.connection import PAGE_SIZE
from spool.directory import DATABASE_NAME, MOVING_NAME
from spool.errors import CorruptDatabase, CorruptPayload
from spool.ownership import CorruptionLatch
from spool.queue import maintenance
from spool.queue.maintenance import Scrub
from spool.records import Delivered, Fragment
from tests.spool.spool_parts import NOW, a_record, becomes, change, due, opened, payload, rows


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        pytest.param(
            "UPDATE chunks SET frame = CAST(substr(frame, 1, 100) || x'00' || substr(frame, 102) AS BLOB) "
            "WHERE chunk_id = 2",
            "chunk 2 of record .*-1 is damaged",
            id="flipped byte",
        ),
        pytest.param(
            "UPDATE chunks SET frame = substr(frame, 1, 100) WHERE chunk_id = 2",
            "chunk 2 of record .*-1 is damaged",
            id="cut short",
        ),
        pytest.param("DELETE FROM chunks WHERE chunk_id = 6", "chunk 6 of record .*-1 is missing", id="missing"),
    ],
)
async def test_a_bad_chunk_is_named(tmp_path: Path, statement: str, message: str) -> None:
    """Reading a payload that was damaged raises CorruptPayload with the chunk; other records are read as before."""
    body = bytes(range(1, 256)) * 24_000
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("bad", body=body))
        await spool.accept(a_record("good", body=b"good"))
    change(tmp_path, statement)
    async with opened(tmp_path) as spool:
        bad, good = await due(spool)
        with pytest.raises(CorruptPayload, match=message):
            await payload(spool, bad)
        assert await payload(spool, good)
        await spool.settle(good, Delivered())
        assert spool.stats().failure is None


async def test_frames_before_the_bad_one_are_given_out(tmp_path: Path) -> None:
    """Verification is chunk by chunk: a reader gets what is right until the first that is not."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("c", body=os.urandom(6 << 20)))
    change(tmp_path, "UPDATE chunks SET crc32 = crc32 + 1 WHERE chunk_id = 4")
    async with opened(tmp_path) as spool:
        (delivery,) = await due(spool)
        frames = spool.frames(delivery.record, Fragment.BODY)
        for _ in range(3):
            assert await anext(frames)
        with pytest.raises(CorruptPayload, match="chunk 4"):
            await anext(frames)


def overwrite_payload_pages(database: Path) -> None:
    """Spoil the middle of the file, where the frame of a large record lies."""
    with database.open("r+b") as file:
        file.seek(database.stat().st_size // 2)
        file.write(os.urandom(200_000))


def page_of(directory: Path, table: str) -> int:
    ((page,),) = rows(directory, f"SELECT rootpage FROM sqlite_schema WHERE name = '{table}'")
    return int(page)


def overwrite_page(database: Path, page: int, content: bytes | None = None) -> None:
    with database.open("r+b") as file:
        file.seek((page - 1) * PAGE_SIZE)
        file.write(os.urandom(PAGE_SIZE) if content is None else content)


async def test_a_damaged_record_is_told_by_its_checksum(tmp_path: Path) -> None:
    """What a delivery is made of, beside its payload, is verified when it is read; records beside it are sound."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("bad"))
        await spool.accept(a_record("good"))
    change(tmp_path, "UPDATE records SET call_id = 'bae' WHERE call_id = 'bad'")
    async with opened(tmp_path) as spool:
        assert [delivery.record.damaged for delivery in await due(spool)] == [True, False]


async def test_a_damaged_token_is_never_given_out(tmp_path: Path) -> None:
    """A stored token that does not match its hash is CorruptPayload for who asks for it."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("c", token="secret"))
    change(tmp_path, "UPDATE tokens SET value = 'secreu'")
    async with opened(tmp_path) as spool:
        with pytest.raises(CorruptPayload, match="does not match its hash"):
            await spool.token(1)


async def test_a_database_with_a_damaged_page_makes_way(tmp_path: Path) -> None:
    """From the first malformed page on nothing is acknowledged into the database; it is moved aside when closed."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("c", body=os.urandom(1 << 20)))
    overwrite_payload_pages(tmp_path / DATABASE_NAME)
    async with opened(tmp_path) as spool:
        (delivery,) = await due(spool)
        with pytest.raises(CorruptDatabase):
            await payload(spool, delivery)
        with pytest.raises(CorruptDatabase, match="is being replaced"):
            await spool.accept(a_record("next"))
        assert "malformed" in (spool.stats().failure or "")
    async with opened(tmp_path) as spool:
        (aside,) = spool.stats().quarantined
        assert "malformed" in aside.reason
        assert not aside.imported
        assert aside.size > 1 << 20
        assert (await spool.accept(a_record("next"))).ready
        assert spool.stats().failure is None


async def test_damage_met_by_a_write_is_damage(tmp_path: Path) -> None:
    """Who meets a malformed page at a write is told so; what was acknowledged before stays acknowledged."""
    async with opened(tmp_path):
        pass
    overwrite_page(tmp_path / DATABASE_NAME, page_of(tmp_path, "uploads"))
    async with opened(tmp_path) as spool:
        spool._scrubbing.cancel()
        with pytest.raises(CorruptDatabase):
            await spool.register_upload(b"hash", "key", "c", None, NOW)
        assert "malformed" in await asyncio.wait_for(spool.directory.corruption.wait(), 30)


@pytest.mark.parametrize("where", ["a table", "a payload"])
async def test_the_background_check_finds_damage_that_nobody_met(tmp_path: Path, where: str) -> None:
    """A malformed page is found although no post and no delivery needs it."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("c", body=os.urandom(1 << 20)))
    if where == "a table":
        overwrite_page(tmp_path / DATABASE_NAME, page_of(tmp_path, "uploads"))
    else:
        overwrite_payload_pages(tmp_path / DATABASE_NAME)
    async with opened(tmp_path) as spool:
        assert await asyncio.wait_for(spool.directory.corruption.wait(), 30)


async def test_a_background_check_that_fails_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that could not be read for a while is looked at in the next round, which finds the damage."""
    monkeypatch.setattr(maintenance, "SCRUB_AGAIN_SECONDS", 0.01)
    async with opened(tmp_path):
        pass
    database, away = tmp_path / DATABASE_NAME, tmp_path / "away"
    overwrite_page(database, page_of(tmp_path, "uploads"))
    database.rename(away)
    latch = CorruptionLatch(asyncio.get_running_loop())
    scrub = Scrub(database, latch)
    running = asyncio.create_task(scrub.run())
    try:
        await becomes(lambda: scrub.failure is not None)
        away.rename(database)
        assert "malformed" in await asyncio.wait_for(latch.wait(), 30)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_background_check_outlives_a_system_without_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no thread starts, as at a limit of processes, it is made again: it finds damage later."""
    monkeypatch.setattr(maintenance, "SCRUB_AGAIN_SECONDS", 0.01)
    async with opened(tmp_path):
        pass
    overwrite_page(tmp_path / DATABASE_NAME, page_of(tmp_path, "uploads"))
    latch = CorruptionLatch(asyncio.get_running_loop())
    scrub = Scrub(tmp_path / DATABASE_NAME, latch)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        running = asyncio.create_task(scrub.run())
        try:
            await becomes(lambda: scrub.failure is not None)
            limited.undo()
            assert "malformed" in await asyncio.wait_for(latch.wait(), 30)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_file_that_is_no_database_makes_way(tmp_path: Path) -> None:
    """A start never fails because of damage: the file is moved aside as it is, and a new database takes posts."""
    text = b"this is not a database" * 1000
    (tmp_path / DATABASE_NAME).write_bytes(text)
    async with opened(tmp_path) as spool:
        assert (await spool.accept(a_record())).ready
        (aside,) = spool.stats().quarantined
        assert "not a database" in aside.reason
        assert (aside.directory / DATABASE_NAME).read_bytes() == text


async def test_a_move_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    """What a crash left half moved aside is moved by the next start, which uses none of it."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("old"))
    aside = tmp_path / "aside-20260101T000000Z"
    aside.mkdir()
    (aside / MOVING_NAME).write_text("made to fail\n")
    (aside / f"{DATABASE_NAME}-wal").write_bytes(b"")
    async with opened(tmp_path) as spool:
        assert await spool.trace("old") == ()
        assert [each.reason for each in spool.stats().quarantined] == ["made to fail"]
        assert (aside / DATABASE_NAME).exists()
    async with opened(tmp_path) as spool:
        assert len(spool.stats().quarantined) == 1


async def test_two_databases_can_be_moved_aside_in_one_second(tmp_path: Path) -> None:
    """Each gets a directory of its own, whose name begins with the time."""
    for _ in range(2):
        (tmp_path / DATABASE_NAME).write_bytes(b"this is not a database" * 1000)
        async with opened(tmp_path) as spool:
            names = [each.directory.name for each in spool.stats().quarantined]
    assert names == ["quarantine-20250615T150640Z", "quarantine-20250615T150640Z-2"]


async def test_a_log_without_its_database_makes_way(tmp_path: Path) -> None:
    """Frames of a database that is gone are never applied to a new one."""
    async with opened(tmp_path / "a") as spool:
        await spool.accept(a_record("c"))
        log = (tmp_path / "a" / f"{DATABASE_NAME}-wal").read_bytes()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / f"{DATABASE_NAME}-wal").write_bytes(log)
    async with opened(tmp_path / "b") as spool:
        assert await spool.trace("c") == ()
        (aside,) = spool.stats().quarantined
        assert (aside.directory / f"{DATABASE_NAME}-wal").read_bytes() == log


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM meta WHERE name = 'spool_id'", "lost its id"),
        ("PRAGMA user_version = 70000", "calls itself version 70000"),
        ("PRAGMA user_version = 1", "corrupt: tokens, records"),
        ("DROP INDEX records_by_call", "records_by_call"),
        ("UPDATE counters SET lane = 'no'", "never written"),
    ],
)
async def test_what_no_spool_would_have_written_makes_way(tmp_path: Path, statement: str, reason: str) -> None:
    """A database that opens, but contradicts itself where a start reads it, is damaged."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record())
    change(tmp_path, statement)
    async with opened(tmp_path) as spool:
        (aside,) = spool.stats().quarantined
        assert reason in aside.reason
