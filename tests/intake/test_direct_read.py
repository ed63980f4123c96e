"""Bodies that are read straight into their memory, past the HTTP parser, which must not miss what comes after them."""

import asyncio
from hashlib import sha256

import pytest

from tests.intake.bodies import call_log
from tests.intake.running_intake import DEADLINE, RunningIntake

SIZES = (70_000, 2_000, 300_000, 1_000_001, 65_536, 200)


def requests(sizes: tuple[int, ...]) -> tuple[list[bytes], bytes]:
    """Call logs of about these sizes, and the requests that carry them, one right after the other."""
    bodies = [call_log(call_id=f"call-{number}", size=size) for number, size in enumerate(sizes)]
    wire = b"".join(
        b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies
    )
    return bodies, wire


@pytest.mark.parametrize("piece", [10_000_000, 1_000_003, 65_536, 16_384, 4_099])
async def test_each_body_ends_where_it_ends(world: RunningIntake, piece: int) -> None:
    """Requests on one connection, sent without waiting for answers, in any pieces, are told apart to the byte."""
    bodies, wire = requests(SIZES)
    reader, writer = await world.connect()

    async def send() -> None:
        for start in range(0, len(wire), piece):
            writer.write(wire[start : start + piece])
            await writer.drain()

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        group.create_task(send())
        for number, body in enumerate(bodies):
            assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
            headers = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in headers.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            traced = await world.only_record(f"call-{number}")
            assert traced.record.digest == sha256(body).digest()
    writer.close()
    assert world.intake.budget.used_bytes == 0


async def test_what_comes_after_a_body_that_broke_off_is_no_request(world: RunningIntake) -> None:
    """A client that goes in the middle of a body leaves nothing, and its connection serves nobody else."""
    _, wire = requests((500_000,))
    _, writer = await world.connect()
    writer.write(wire[:300_000])
    await writer.drain()
    await world.until(lambda: world.intake.budget.used_bytes)
    writer.close()
    await world.until(lambda: world.counted("calls", "client_gone"))
    assert world.intake.budget.used_bytes == 0
    assert not world.counted("calls", "accepted")
