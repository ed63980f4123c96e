"""kill -9: whatever was acknowledged before a process died is there afterwards, readable and owed; nothing else is."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from spool.records import DeliveryState, Fragment
from spool.store import Spool
from tests.budget import budgeted
from tests.spool.spool_parts import decoded, due, maintained, opened, payload, rows

POSTING = """
import asyncio, os, random, sys
from pathlib import Path
from spool.records import Delivered
from tests.spool.spool_parts import a_digest, a_record, opened

SIZES = [50, 2_000, 40_000, 700_000, 2_000_000, 11_000_000]

async def post(spool, run, worker):
    chance = random.Random(worker)
    number = 0
    while True:
        size = chance.choices(SIZES, [40, 40, 10, 4, 4, 2])[0]
        call_id = f"{run}-{worker}-{number}"
        body = (call_id.encode() + b" " + chance.randbytes(size // 2).hex().encode())
        accepted = await spool.accept(a_record(call_id, body=body, token=f"token-{worker}", digest=os.urandom(32)))
        print("accepted", call_id, len(body), flush=True)
        if number % 3 == 0:
            await spool.settle(accepted.ready[0], Delivered())
            print("delivered", call_id, len(body), flush=True)
        number += 1

async def main():
    async with opened(Path(sys.argv[1])) as spool:
        print("open", 0, 0, flush=True)
        await asyncio.gather(*(post(spool, sys.argv[2], worker) for worker in range(6)))

asyncio.run(main())
"""


async def run_and_kill(directory: Path, run: int, lines: int) -> list[str]:
    """Let a process post until it printed so many lines, then kill it; returns all that it acknowledged."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", POSTING, str(directory), str(run), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    told: list[str] = []
    async with asyncio.timeout(60):
        while len(told) < lines:
            line = await process.stdout.readline()
            assert line, "the process ended by itself"
            told.append(line.decode())
        process.kill()
        # What it acknowledged before it died counts too; a line that was cut short was not read by anyone.
        told += [line.decode() for line in (await process.stdout.read()).splitlines(keepends=True)]
        await process.wait()
    return [line for line in told if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [4, pytest.param(budgeted(small=10, full=100), marks=pytest.mark.prove)])
async def test_nothing_acknowledged_is_lost(tmp_path: Path, kills: int) -> None:
    """Over some kills at random moments each acknowledged record and settlement is there, and the books are right."""
    chance = random.Random(20_260_101)
    accepted: dict[str, int] = {}
    delivered: set[str] = set()
    for run in range(kills):
        for line in await run_and_kill(tmp_path, run, chance.randrange(2, 400)):
            what, call_id, size = line.split()
            if what == "accepted":
                accepted[call_id] = int(size)
            elif what == "delivered":
                delivered.add(call_id)
        async with opened(tmp_path) as spool:
            await everything_is_there(spool, tmp_path, accepted, delivered)
    assert len(accepted) > 10 * kills
    assert len(delivered) > 2 * kills


async def everything_is_there(spool: Spool, directory: Path, accepted: dict[str, int], delivered: set[str]) -> None:
    await maintained(spool)
    assert rows(directory, "SELECT count(*) FROM orphan_chunks") == [(0,)]
    assert spool.stats().unaccounted == 0
    queued = {one.record.call_id: one for one in await due(spool)}
    assert not delivered & queued.keys()
    for call_id in accepted:
        if call_id not in queued:
            # Its settlement may have become durable without being told; its acceptance certainly was.
            (record,) = await spool.trace(call_id)
            assert record.deliveries[0].state is DeliveryState.DELIVERED
    chunks = sum(one.record.fragments[Fragment.BODY].chunks for one in queued.values())
    assert rows(directory, "SELECT count(*) FROM chunks") == [(chunks,)]
    assert rows(directory, "SELECT sum(uses) FROM tokens") == [(len(queued) or None,)]
    for call_id, delivery in queued.items():
        body = decoded(await payload(spool, delivery))
        assert body.startswith(call_id.encode() + b" ")
        assert len(body) == accepted.get(call_id, len(body)) == delivery.record.raw_bytes
