"""Damage: a bad chunk, record or page is named, and harms nothing beside it (promise 6)."""

import asyncio
import os
from pathlib import Path

import pytest

from spool.database import PAGE_SIZE
from spool.directory import DATABASE_NAME
from spool.errors import CorruptDatabase, CorruptPayload
from spool.records import Delivered, Fragment
from tests.spool.building import NOW, a_record, due, looked_into, opened, payload


def change_chunk(statement: str, directory: Path) -> None:
    connection = looked_into(directory)
    with connection:
        connection.execute(statement)
    connection.close()


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
    change_chunk(statement, tmp_path)
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
    change_chunk("UPDATE chunks SET crc32 = crc32 + 1 WHERE chunk_id = 4", tmp_path)
    async with opened(tmp_path) as spool:
        (delivery,) = await due(spool)
        frames = spool.frames(delivery.record, Fragment.BODY)
        for _ in range(3):
            assert await anext(frames)
        with pytest.raises(CorruptPayload, match="chunk 4"):
            await anext(frames)


async def test_a_damaged_page_is_told_as_such(tmp_path: Path) -> None:
    """What SQLite finds malformed is CorruptDatabase for whoever touches it, and posts go on."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("c", body=os.urandom(1 << 20)))
    overwrite_payload_pages(tmp_path / DATABASE_NAME)
    async with opened(tmp_path) as spool:
        (delivery,) = await due(spool)
        with pytest.raises((CorruptDatabase, CorruptPayload)):
            await payload(spool, delivery)
        assert (await spool.accept(a_record("next"))).ready
        assert spool.stats().failure is None


def overwrite_payload_pages(database: Path) -> None:
    """Spoil the middle of the file, where the frame of a large record lies."""
    with database.open("r+b") as file:
        file.seek(database.stat().st_size // 2)
        file.write(os.urandom(200_000))


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A spool.db that SQLite cannot read is CorruptDatabase at the start, and is left as it is."""
    (tmp_path / DATABASE_NAME).write_bytes(b"this is not a database" * 1000)
    with pytest.raises(CorruptDatabase, match=r"spool\.db"):
        async with opened(tmp_path):
            pass
    assert (tmp_path / DATABASE_NAME).read_bytes().startswith(b"this is not a database")


async def test_a_damaged_page_fails_only_the_operations_that_need_it(tmp_path: Path) -> None:
    """An operation that meets a malformed page fails with CorruptDatabase; those of the same commit go on."""
    async with opened(tmp_path):
        pass
    connection = looked_into(tmp_path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'uploads'").fetchone()
    connection.close()
    with (tmp_path / DATABASE_NAME).open("r+b") as file:
        file.seek((page - 1) * PAGE_SIZE)
        file.write(os.urandom(PAGE_SIZE))
    async with opened(tmp_path) as spool:
        registered, accepted = await asyncio.gather(
            spool.register_upload(b"hash", "key", "c", None, NOW), spool.accept(a_record("c")), return_exceptions=True
        )
        assert isinstance(registered, CorruptDatabase)
        assert not isinstance(accepted, BaseException)
        assert spool.stats().failure is None
        assert len(await due(spool)) == 1
