"""Damage to the files of a spool: a start never fails because of it, and nothing wrong is ever read (promise 6)."""

import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from spool.db.connection import translated
from spool.directory import DATABASE_NAME
from spool.errors import CorruptDatabase, SpoolUnavailable, UnsuitableDirectory
from spool.fsck import Kind, check
from spool.keys import KEYS_NAME, KeyRing, MainKey
from tests.budget import budgeted
from tests.spool.salvaged_spools import LOG_NAME, Crashed, bring
from tests.spool.spool_parts import a_record, due, looked_into, opened

RING = KeyRing((MainKey(b"k" * 32),))
CorruptionLatch = Callable[[dict[str, bytes]], dict[str, bytes]]


def cut(name: str, share: float) -> CorruptionLatch:
    return lambda images: {**images, name: images[name][: int(len(images[name]) * share)]}


def zeroed(name: str, page: int) -> CorruptionLatch:
    def zero(images: dict[str, bytes]) -> dict[str, bytes]:
        image = bytearray(images[name])
        image[page * 16384 : (page + 1) * 16384] = bytes(16384)
        return {**images, name: bytes(image)}

    return zero


DAMAGES: dict[str, tuple[CorruptionLatch, int]] = {
    "nothing": (lambda images: images, 12),
    "a log that is cut short": (cut(LOG_NAME, 0.6), 5),
    "no log": (lambda images: {DATABASE_NAME: images[DATABASE_NAME]}, 5),
    "a log without its header": (lambda images: {**images, LOG_NAME: bytes(32) + images[LOG_NAME][32:]}, 5),
    "a database that is cut short": (cut(DATABASE_NAME, 0.5), 0),
    "no first page": (zeroed(DATABASE_NAME, 0), 12),
    "no first page, and no log": (lambda images: zeroed(DATABASE_NAME, 0)({DATABASE_NAME: images[DATABASE_NAME]}), 5),
    "a zeroed page": (zeroed(DATABASE_NAME, 12), 1),
    "an empty database": (lambda _images: {DATABASE_NAME: b""}, 0),
}
"""How the files are damaged, and how many fragments can be read afterwards at least."""


def with_keys(damaged: dict[str, bytes], images: dict[str, bytes]) -> dict[str, bytes]:
    """The damage is to the database: the keys beside it are as they were."""
    return {**damaged, **{name: images[name] for name in images if name == KEYS_NAME}}


@pytest.mark.parametrize("keys", [None, RING], ids=["plain", "encrypted"])
@pytest.mark.parametrize("name", DAMAGES)
async def test_every_damage_has_its_outcome(tmp_path: Path, name: str, keys: KeyRing | None) -> None:
    """The spool starts, takes records, and of the old ones gives out what is right, and nothing else."""
    damage, at_least = DAMAGES[name]
    crashed = await Crashed.make(tmp_path / "made", keys)
    crashed.lay(tmp_path / "spool", with_keys(damage(crashed.images), crashed.images))
    assert await crashed.outcome(tmp_path / "spool", name) >= at_least


async def flip_bits(tmp_path: Path, times: int, keys: KeyRing | None) -> None:
    crashed, chance = await Crashed.make(tmp_path / "made", keys), random.Random(20)
    for number in range(times):
        where, images = crashed.flipped(chance)
        place = tmp_path / str(number)
        crashed.lay(place, images)
        await crashed.outcome(place, where)
        shutil.rmtree(place)  # thousands of them would fill the disk


@pytest.mark.parametrize("keys", [None, RING], ids=["plain", "encrypted"])
async def test_a_flipped_bit_makes_nothing_wrong(tmp_path: Path, keys: KeyRing | None) -> None:
    """Wherever a bit flips, in database or log: the spool starts, and what it gives out is what was posted."""
    await flip_bits(tmp_path, 4, keys)


@pytest.mark.prove
@pytest.mark.parametrize("keys", [None, RING], ids=["plain", "encrypted"])
async def test_many_flipped_bits_make_nothing_wrong(tmp_path: Path, keys: KeyRing | None) -> None:
    """The same, at many places."""
    await flip_bits(tmp_path, budgeted(small=30, full=2500), keys)


async def test_a_schema_whose_damage_is_no_text_is_damage(tmp_path: Path) -> None:
    """SQLite quotes what it cannot read, and Python cannot decode that: it is told like any other damage."""
    spool = tmp_path / "spool"
    async with opened(spool) as filled:
        await filled.accept(a_record("kept"))
    with closing(looked_into(spool)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET name = CAST(x'7265e863' AS TEXT) WHERE name = 'records'")
    with pytest.raises(UnicodeDecodeError), closing(looked_into(spool)) as connection:
        connection.execute("SELECT * FROM records")
    assert Kind.UNREADABLE in {finding.kind for finding in check(spool)}
    with pytest.raises(CorruptDatabase), translated("reading"), closing(looked_into(spool)) as connection:
        connection.execute("SELECT * FROM records")
    async with opened(spool) as fresh:
        (aside,) = fresh.stats().quarantined
        await bring(fresh, aside.directory)
        assert [one.record.call_id for one in await due(fresh)] == ["kept"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_files_of_another_user_are_refused(tmp_path: Path) -> None:
    """A directory that belongs to somebody else is no damage: the start says whose it is to be, and moves nothing."""
    async with opened(tmp_path / "spool"):
        pass
    tmp_path.chmod(0o755)
    os.seteuid(12345)
    try:
        with pytest.raises((UnsuitableDirectory, SpoolUnavailable)):
            async with opened(tmp_path / "spool"):
                pass
    finally:
        os.seteuid(0)
    assert [path.name for path in (tmp_path / "spool").glob("quarantine-*")] == []
