"""With `when_full = expire_details`: room is made for bytes that came, and only where it can suffice."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.intake.body_reader import BodyLimits
from gateway.intake.parse import SizeRule
from spool.records import Lane, WhenFull
from tests.intake.bodies import call_log, incompressible
from tests.intake.running_intake import RunningIntake, running

UNIT = 256 << 10
"""What sizes are multiples of: a quarter of what is usual, since each of these tests fills a spool."""
SIZES = SizeRule(two_phase_threshold=4 * UNIT, two_phase_raw_threshold=5 * UNIT)
POST = b"POST /send-call-log HTTP/1.1\r\nHost: x\r\n"


def detailed(call_id: str, size: int) -> bytes:
    """A call log that is stored as core and detail, and whose detail takes about `size` bytes."""
    spans = [{"name": "span", "text": incompressible(size // 8 + number)} for number in range(8)]
    padding = " " * (6 * UNIT)  # above the raw threshold of `full`
    return call_log(call_id, telemetry_data={"session_traces": spans})[:-1] + padding.encode() + b"}"


@asynccontextmanager
async def full(
    tmp_path: Path,
    limits: BodyLimits = BodyLimits(inline_max=2 * UNIT),  # noqa: B008 - a frozen value
) -> AsyncIterator[RunningIntake]:
    """An intake before a spool of 15 MiB that details fill."""
    async with running(
        tmp_path, spool_max=60 * UNIT, when_full=WhenFull.EXPIRE_DETAILS, bodies=limits, sizes=SIZES
    ) as world:
        number = 0
        while world.spool._quota.fits(14 * UNIT, world.spool.used_bytes):
            assert (await world.post(detailed(f"call-{number}", 2 * UNIT))).status == 202
            number += 1
        assert evicted(world) == 0
        yield world


def evicted(world: RunningIntake) -> int:
    return world.spool.stats().lanes["endpoint", Lane.DETAIL].expired


@pytest.mark.parametrize("length", [200 * UNIT, 10**12, 10**15])
async def test_an_announced_length_costs_nothing(tmp_path: Path, length: int) -> None:
    """A header that claims more than all details could make room for is refused, and evicts none."""
    async with full(tmp_path) as world:
        reader, writer = await world.connect()
        writer.write(POST + f"Content-Length: {length}\r\n\r\n".encode())
        async with asyncio.timeout(30):
            answer = await reader.readline()
        writer.close()
        assert answer.split(b" ")[1] in {b"413", b"507"}
        assert evicted(world) == 0


@pytest.mark.parametrize("came", [0, 25_000])
async def test_a_body_that_does_not_come_costs_what_came(tmp_path: Path, came: int) -> None:
    """A post for which room could be made, of which (nearly) nothing comes, evicts (nearly) nothing."""
    async with full(tmp_path, BodyLimits(inline_max=2 * UNIT, progress_timeout=0.3)) as world:
        head = POST + f"Content-Length: {25 * UNIT}\r\n\r\n".encode()
        answer = await world.send_raw(head + b" " * came)
        assert b" 408 " in answer
        assert evicted(world) <= (1 if came else 0)


async def test_a_body_without_a_length_evicts_nothing_while_it_comes(tmp_path: Path) -> None:
    """However much comes: whether it will fit is not known before its end."""
    async with full(tmp_path) as world:
        reader, writer = await world.connect()
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        noise = random.Random(1).randbytes(UNIT)
        try:
            async with asyncio.timeout(30):
                for _ in range(100):
                    writer.write(f"{len(noise):x}\r\n".encode() + noise + b"\r\n")
                    await writer.drain()
                # Not to the end: the connection stays open for a while, for a client that still sends.
                answer = await reader.readline()
            assert answer.split(b" ")[1] in {b"413", b"507"}
        except ConnectionError:
            pass  # cut off in the middle of sending, which may take the answer along
        writer.close()
        assert evicted(world) == 0


async def test_a_giant_that_comes_whole_is_accepted(tmp_path: Path) -> None:
    """In place of the oldest details, and not of more than it needs."""
    async with full(tmp_path) as world:
        before = world.spool.stats().lanes["endpoint", Lane.DETAIL].queued
        body = detailed("giant", 12 * UNIT)
        assert len(body) > 15 * UNIT
        reply = await world.post(body)
        assert (reply.status, json.loads(reply.raw)["success"]) == (202, True)
        assert 0 < evicted(world) < before
