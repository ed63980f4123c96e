"""The power is cut again and again under load: what was acknowledged is on the disk, and what was delivered there."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import aiohttp
import pytest

from bench.calllogs import make_call_log
from tests.budget import budgeted
from tests.disks.filesystems import PowerCutDisk, power_cut_disk
from tests.spool.spool_parts import decoded
from tests.system import spool_files
from tests.system.acknowledged import MADE_BY_THE_SPLIT, Acknowledged, acknowledged, digests_of
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

pytestmark = [pytest.mark.prove, pytest.mark.slow]

CUTS = budgeted(small=3, full=30)
SIZES = (2_000, 2_000, 2_000, 2_000, 400_000, 6_000_000)
DISK_BYTES = 2 << 30
_ENDINGS = {"whole": ".json", "core": ".core.json", "detail": ".detail.json.zst"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[PowerCutDisk]:
    with power_cut_disk(tmp_path / "power", DISK_BYTES) as disk:
        yield disk


async def test_nothing_acknowledged_is_lost_by_a_power_cut(tmp_path: Path, disk: PowerCutDisk) -> None:
    """After each cut every acknowledged record is in the spool, and every file that counts as delivered is whole."""
    rng = Random(11)
    config = tmp_path / "gateway.toml"
    config.write_text(f'[[destinations]]\nname = "archive"\ntype = "file"\npath = "{disk.folder}/delivered"\n')
    settings = {"CALLSPOOL_SPOOL_DIR": str(disk.folder / "spool")}
    told: list[Acknowledged] = []
    gateway = GatewayProcess(tmp_path / "gateway", settings, arguments=["--config", str(config)])
    async with gateway:
        for cut in range(CUTS):
            await _load_until_cut(gateway, disk, told, cut, rng)
            await gateway.kill()
            disk.on()
            _everything_is_there(disk.folder, tmp_path / "copy", told)
            await gateway.start()
        await gateway.delivered(deadline=120)
        assert await gateway.metric("callspool_unaccounted_records") == 0
        await gateway.kill()  # before the disk is taken away
    files = {file.name: file for file in (disk.folder / "delivered").rglob("*.json*")}
    for posted in told:
        _assert_delivered(files, posted)
    assert len(told) >= 15 * CUTS
    assert any(posted.two_phase for posted in told)


async def _load_until_cut(
    gateway: GatewayProcess, disk: PowerCutDisk, told: list[Acknowledged], cut: int, rng: Random
) -> None:
    """Post from all sides until some dozen were acknowledged, and cut the power in the middle of it."""
    before, enough = len(told), rng.randrange(15, 50)
    off = asyncio.Event()

    async def talk(agent: int, size: int) -> None:
        number = 0
        while not off.is_set():
            number += 1
            body = make_call_log(size, seed=number, call_id=f"call-{cut}-{agent}-{number}", event="call_ended")
            try:
                reply = await gateway.post(body)
            except (aiohttp.ClientError, TimeoutError):
                return
            # Without power nobody reads an answer: the ioctl drops dirty pages, and a sync under way may find none.
            if reply.status in {200, 202} and not off.is_set():
                told.append(acknowledged(body, reply))

    async def has_come() -> bool:
        return len(told) - before >= enough

    talking = [asyncio.create_task(talk(agent, size)) for agent, size in enumerate(SIZES)]
    await until(has_come, "enough was acknowledged", deadline=60)
    await asyncio.sleep(rng.uniform(0, 0.05))  # so that it hits any moment of a commit, not only its end
    off.set()
    await asyncio.to_thread(disk.cut)
    await asyncio.wait(talking, timeout=3)  # a post may hang on a disk that is gone
    for task in talking:
        task.cancel()
    await asyncio.gather(*talking, return_exceptions=True)


def _everything_is_there(folder: Path, copy: Path, told: list[Acknowledged]) -> None:
    """As the disk is after a cut, before a gateway has looked at it."""
    with spool_files.copy_of(folder / "spool", copy) as database:
        assert spool_files.faults(database) == []
        assert {posted.uid for posted in told} <= spool_files.accepted(database), "acknowledged and lost"
        delivered = spool_files.delivered(database)
    files = {file.name: file for file in (folder / "delivered").rglob("*.json*")}
    for key in delivered:
        uid, _, form = key.rpartition("-")
        json.loads(_content(files[f"call_ended-{uid}{_ENDINGS[form]}"]))


def _assert_delivered(files: dict[str, Path], posted: Acknowledged) -> None:
    """Its files hold what was posted, value by value."""
    name = f"{posted.event}-{posted.uid}"
    if not posted.two_phase:
        assert hashlib.sha256(files[f"{name}.json"].read_bytes()).hexdigest() == posted.digest
        return
    core = digests_of(files[f"{name}.core.json"].read_bytes())
    detail = digests_of(_content(files[f"{name}.detail.json.zst"]))
    del detail["update_type"], detail["call_id"]
    made = core.keys() - posted.members.keys()
    assert made <= MADE_BY_THE_SPLIT
    assert {key: digest for key, digest in core.items() if key not in made} | detail == posted.members


def _content(file: Path) -> bytes:
    """What a delivered file says; a detail is packed, in many frames."""
    content = file.read_bytes()
    return decoded(content) if file.suffix == ".zst" else content
