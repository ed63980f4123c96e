"""Headroom: on a full disk the spool empties itself, and takes posts again when there is room for the headroom."""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from spool import space as disk_space
from spool.errors import SpoolFull
from spool.queue import maintenance
from spool.records import Accepted, Delivered, Lane
from spool.space import HEADROOM_NAME, DiskSpace, headroom_bytes, make_room_to_open
from spool.store import Spool
from tests.disks.filesystems import remount, small_disk
from tests.spool.spool_parts import ENDPOINT, a_record, accept_until_full, becomes, due, maintained, opened, payload

pytestmark = pytest.mark.usefixtures("full_headroom")

MIB = 1 << 20

FILLING = """
import asyncio, sys
from pathlib import Path
from tests.spool.spool_parts import accept_until_full, opened

async def main():
    async with opened(Path(sys.argv[1]), max_bytes=100 << 20) as spool:
        print(len(await accept_until_full(spool, 300_000)), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=24m") as folder:
        yield folder


def filled(disk: Path, leaving: int = 0) -> Path:
    """Let somebody else take all that is free, but so much."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free - leaving
    with ballast.open("wb") as file:
        if free > 0:
            os.posix_fallocate(file.fileno(), 0, free)
    return ballast


async def accepted_at_last(spool: Spool, body: bytes) -> Accepted:
    """Post as an agent does, again whenever the disk is full, for half a minute."""
    async with asyncio.timeout(30):
        while True:
            await becomes(lambda: spool.stats().shortage is None)
            with suppress(SpoolFull):
                return await spool.accept(a_record("after", body=body))


@pytest.mark.slow
async def test_a_full_disk_empties_itself(disk: Path) -> None:
    """With no byte free everything is settled and deleted, and the freed room is the disk's: posts are taken again."""
    async with opened(disk / "spool", max_bytes=100 * MIB) as spool:
        await accept_until_full(spool, 700_000)
        await accept_until_full(spool, 2_000, "small")
        filled(disk)
        with pytest.raises(SpoolFull):
            await spool.accept(a_record("refused"))
        assert "the disk is full" in str(spool.stats().shortage)
        for delivery in await due(spool):
            assert await payload(spool, delivery)
            await spool.settle(delivery, Delivered())
        assert (await accepted_at_last(spool, os.urandom(MIB))).ready
        await maintained(spool)
        counts = spool.stats().lanes[ENDPOINT, Lane.CORE]
        assert (counts.queued, spool.stats().unaccounted) == (1, 0)


async def test_nothing_accepted_is_lost_on_a_full_disk(disk: Path) -> None:
    """What was acknowledged before and after is there in a new process's eyes; what was refused is not."""
    async with opened(disk / "spool", max_bytes=100 * MIB) as spool:
        ballast = filled(disk, leaving=10 * MIB)
        accepted = [*await accept_until_full(spool, 300_000), *await accept_until_full(spool, 2_000, "small")]
        names = {one.ready[0].record.call_id for one in accepted}
        results = await asyncio.gather(*(spool.accept(a_record(f"no{n}")) for n in range(50)), return_exceptions=True)
        assert {type(result) for result in results} == {SpoolFull}
        ballast.unlink()
        await becomes(lambda: spool.stats().shortage is None)
        await spool.accept(a_record("after"))
    async with opened(disk / "spool", max_bytes=100 * MIB) as spool:
        assert {one.record.call_id for one in await due(spool)} == names | {"after"}


async def test_a_spool_opens_on_a_full_disk(disk: Path) -> None:
    """After a kill on a full disk there is no room even for what SQLite needs to open; the headroom gives it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FILLING, str(disk / "spool"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        count = int(await process.stdout.readline())
    process.kill()
    await process.wait()
    filled(disk)
    async with opened(disk / "spool", max_bytes=100 * MIB) as spool:
        deliveries = await due(spool)
        assert len(deliveries) == count > 10
        await spool.settle(deliveries[0], Delivered())


async def test_a_full_disk_is_over_for_a_spool_that_nobody_asks(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool looks by itself whether there is room again."""
    monkeypatch.setattr(maintenance, "EVERY_SECONDS", 1000)
    async with opened(disk / "spool", max_bytes=100 * MIB) as spool:
        await accept_until_full(spool, 2_000_000)
        assert spool.stats().shortage is not None
        remount(disk, "size=100m")
        await becomes(lambda: spool.stats().shortage is None)


async def test_a_disk_without_room_for_the_headroom_takes_nothing(disk: Path) -> None:
    """A spool that could not get rid of what it accepted does not accept it."""
    ballast = filled(disk, leaving=2 * MIB)  # an empty database and its log take some 1.3 MiB
    async with opened(disk / "spool", max_bytes=100 * MIB) as spool:
        with pytest.raises(SpoolFull, match=HEADROOM_NAME):
            await spool.accept(a_record())
        ballast.unlink()
        await becomes(lambda: spool.stats().shortage is None)
        assert (await spool.accept(a_record())).ready


@pytest.mark.parametrize(
    ("limit", "expected"), [(MIB, 512 << 10), (32 * MIB, 2 * MIB), (10 << 30, 16 * MIB)], ids=["tiny", "small", "usual"]
)
def test_the_size_of_the_headroom(tmp_path: Path, limit: int, expected: int) -> None:
    """A sixteenth of the quota or the disk, between 512 KiB and 16 MiB."""
    assert headroom_bytes(tmp_path, limit) == expected


def test_what_is_refused_depends_on_what_found_no_room(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a large payload only large ones, after a small one all; the headroom is for what empties the spool."""
    space = DiskSpace(disk, MIB)
    headroom = disk / HEADROOM_NAME
    assert not space.refuses(large=True)
    assert headroom.stat().st_blocks * 512 >= MIB
    assert headroom.stat().st_mode & 0o077 == 0
    space.ran_out("full", large=True)
    assert (space.refuses(large=True), space.refuses(large=False)) == (True, False)
    space.ran_out("full")
    assert space.refuses(large=False)
    assert headroom.stat().st_blocks * 512 >= MIB, "given up for a post"
    space.give_up("full")
    assert headroom.stat().st_blocks == 0
    space.recover()
    shortage = space.shortage
    assert shortage == "full", "free space that was there all along is no reason to try again at once"
    monkeypatch.setattr(disk_space, "PATIENCE_SECONDS", 0)
    space.recover()
    assert space.shortage is None
    assert headroom.stat().st_blocks * 512 >= MIB


def test_the_headroom_is_left_alone_while_there_is_room(tmp_path: Path) -> None:
    """Only a full disk needs it for opening."""
    DiskSpace(tmp_path, MIB)
    make_room_to_open(tmp_path)
    assert (tmp_path / HEADROOM_NAME).stat().st_size == MIB
