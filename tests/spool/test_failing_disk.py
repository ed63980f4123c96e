"""The fault matrix: whichever write, sync or truncation fails, and however, nothing acknowledged is lost.

After each fault the spool recovers by itself; then the power is cut, and what was synced is opened: everything
acknowledged is there and whole, everything settled is settled, and nothing else is half there.
"""

import asyncio
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from spool import space
from spool.errors import SpoolError
from spool.fsck import Severity, check
from spool.records import Accepted, Delivered
from spool.store import Spool
from tests.budget import budgeted
from tests.disks.failing_disk import FailingDisk, failing_disk
from tests.spool.spool_parts import CORE, DETAIL, a_record, decoded, due, maintained, opened, payload, split_fragments

MIB = 1 << 20
LOG, DATABASE = "spool.db-wal", "spool.db"
LONG = budgeted(small=3, full=40)

KINDS = {
    "fsync of the log": (("fsync",), errno.EIO, 1, LOG),
    "fsync of the database": (("fsync",), errno.EIO, 1, DATABASE),
    "write into the log": (("write",), errno.EIO, 1, LOG),
    "write into the database": (("write",), errno.EIO, 1, DATABASE),
    "no space in the log": (("write",), errno.ENOSPC, 3, LOG),
    "no space in the database": (("write",), errno.ENOSPC, 3, DATABASE),
    "the user's quota, in the log": (("write",), errno.EDQUOT, 3, LOG),
    "the user's quota, in the database": (("write",), errno.EDQUOT, 3, DATABASE),
    "truncation": (("truncate",), errno.EIO, 1, ""),
    "read-only": (("write", "fsync", "truncate", "create", "unlink"), errno.EROFS, None, ""),
    "everything fails": (("write", "fsync", "truncate", "create", "unlink"), errno.EIO, None, ""),
}
"""Which calls fail, how, how many of them (None: until it is healed), and on which file."""


RUNS = count(1)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingDisk]:
    with failing_disk(tmp_path_factory.mktemp("failing")) as mounted:
        yield mounted


@dataclass
class Told:
    """What a spool told its callers."""

    accepted: dict[str, Accepted] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


async def post(spool: Spool, told: Told, call_id: str, size: int) -> None:
    """Accept a record that is split if it is large, and settle every third one's first delivery."""
    body = call_id.encode() + b" " + os.urandom(size // 2).hex().encode()
    split = size > 100_000
    new = a_record(call_id, CORE, DETAIL, fragments=split_fragments(body)) if split else a_record(call_id, body=body)
    try:
        accepted = told.accepted[call_id] = await spool.accept(new)
        if int(call_id.rpartition("-")[2]) % 3 == 0:
            await spool.settle(accepted.ready[0], Delivered())
            told.settled.add(call_id)
    except SpoolError:
        told.refused.add(call_id)


async def posts(spool: Spool, told: Told, prefix: str, count: int) -> None:
    """A load: some at a time, one in four of them large."""
    for start in range(0, count, 4):
        sizes = (2_000, 40_000, 500, 2_000_000)
        await asyncio.gather(*(post(spool, told, f"{prefix}-{start + n}", size) for n, size in enumerate(sizes)))


async def recovered(spool: Spool, told: Told) -> None:
    """Post until it is taken, as a sender would."""
    async with asyncio.timeout(40):
        attempt = 0
        while f"after-{attempt}" not in told.accepted:
            attempt += 1
            await post(spool, told, f"after-{attempt}", 500)
            await asyncio.sleep(0.05)


async def everything_is_there(directory: Path, told: Told) -> None:
    """What was told is true of this spool."""
    assert [one for one in check(directory) if one.severity is Severity.ERROR] == []
    async with opened(directory, max_bytes=40 * MIB) as spool:
        await maintained(spool)
        assert spool.stats().unaccounted == 0
        queued = {one.record.call_id: one for one in await due(spool)}
        for call_id in told.accepted:
            (record,) = await spool.trace(call_id)
            assert (call_id in queued) or record.deliveries[0].settled_at is not None
        assert not told.settled & queued.keys()
        for call_id, delivery in queued.items():
            for fragment, stored in delivery.record.fragments.items():
                raw = decoded(await payload(spool, delivery, fragment))
                assert len(raw) == stored.raw_bytes
                if len(delivery.record.fragments) == 1 or fragment == "rest":
                    assert raw.startswith(call_id.encode() + b" ")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk underneath has room all the time: believe it soon."""
    monkeypatch.setattr(space, "PATIENCE_SECONDS", 0.2)


async def one_fault(disk: FailingDisk, tmp_path: Path, kind: str, first: int) -> int:
    """A load until a call failed, a recovery, and a look at what a power cut leaves; returns how many calls failed."""
    calls, error, times, name = KINDS[kind]
    directory = disk.folder / f"{re.sub(r'[^a-z]+', '-', kind)}-{first}-{next(RUNS)}"
    told = Told()
    async with opened(directory, max_bytes=40 * MIB) as spool:
        await posts(spool, told, "before", 4)
        assert not told.refused
        disk.fail(*calls, error=error, first=first, times=times, name=name)
        for load in range(4):
            if load == 0 or not disk.struck():
                await posts(spool, told, f"during-{load}", 12)
        struck = disk.heal()
        await recovered(spool, told)
        assert spool.stats().failure is None
        image = tmp_path / directory.name
        disk.image(image)
        await everything_is_there(image / directory.name, told)
    await everything_is_there(directory, told)
    for done in (image, directory):  # hundreds of them would fill the disk
        shutil.rmtree(done)
    return struck


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_acknowledged_is_lost_by_a_failing_disk(disk: FailingDisk, tmp_path: Path, kind: str) -> None:
    """A fault early in the load: refused or not, what was acknowledged survives it and the power cut after it."""
    assert await one_fault(disk, tmp_path, kind, 1), "nothing failed"


@pytest.mark.prove
@pytest.mark.parametrize("kind", KINDS)
async def test_every_place_of_a_fault(disk: FailingDisk, tmp_path: Path, kind: str) -> None:
    """The same for the first, the second, and so on, up to as many as the load makes."""
    struck = [await one_fault(disk, tmp_path, kind, first) for first in range(1, LONG + 1)]
    assert any(struck), "no call failed at all"
