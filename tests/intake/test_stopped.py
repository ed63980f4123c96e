"""Time-outs of clients count the time in which the gateway runs: not that in which it, or its machine, is stopped."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.intake.body_reader import BodyLimits
from gateway.intake.protocol import ConnectionLimits, LoopClock
from tests.intake.bodies import call_log
from tests.intake.running_intake import DEADLINE, RunningIntake, running

TIMEOUT = 0.8
STOPPED = 1.3
BODY = call_log("stopped", size=200_000)
HEAD = b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)
FIRST = call_log("first")
FIRST_POST = b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(FIRST), FIRST)


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[RunningIntake]:
    """An intake whose time-outs are all short."""
    limits = ConnectionLimits(header_timeout=TIMEOUT, keepalive_timeout=TIMEOUT)
    async with running(tmp_path, connections=limits, bodies=BodyLimits(progress_timeout=TIMEOUT)) as world:
        yield world


def _stop_the_loop() -> None:
    """What SIGSTOP does to the event loop, or a machine that is paused."""
    until = time.monotonic() + STOPPED
    while time.monotonic() < until:
        time.sleep(until - time.monotonic())


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [
        (HEAD[:20], HEAD[20:] + BODY),
        (HEAD, BODY),
        (HEAD + BODY[:150_000], BODY[150_000:]),
        (FIRST_POST, HEAD + BODY),
        (b"", HEAD + BODY),
    ],
    ids=["in the headers", "before the body", "in the body", "while idle", "before the first byte"],
)
async def test_what_came_while_it_was_stopped_is_read(hasty: RunningIntake, before: bytes, meanwhile: bytes) -> None:
    """Whatever a client sent while the process was stopped for longer than every time-out is read and answered."""
    client = socket.create_connection(("127.0.0.1", hasty.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    reader, writer = await asyncio.open_connection(sock=client)
    writer.write(before)
    if before == FIRST_POST:
        await hasty.until(lambda: hasty.counted("calls", "accepted"))
        await reader.readuntil(b'"phase_2_started":false}')
    else:
        await hasty.until(lambda: hasty.intake.server.connected)
    writer.write(meanwhile)  # into the kernel's buffers, at once
    assert not writer.transport.get_write_buffer_size()
    _stop_the_loop()
    async with asyncio.timeout(DEADLINE):
        assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
    writer.close()


async def test_a_client_that_is_silent_is_cut_off_all_the_same(hasty: RunningIntake) -> None:
    """After the stop its time-out goes on where it stood."""
    reader, writer = await hasty.connect()
    writer.write(HEAD[:20])
    await hasty.until(lambda: hasty.intake.server.connected)
    _stop_the_loop()
    assert hasty.intake.server.connected
    async with asyncio.timeout(DEADLINE):
        assert await reader.read() == b""
    writer.close()


async def test_the_clock_stands_still_while_the_loop_does() -> None:
    """A stop of any length counts as little."""
    clock = LoopClock(asyncio.get_running_loop())
    before = clock.time()
    _stop_the_loop()
    assert clock.time() - before < STOPPED / 2
    clock.stop()


async def test_the_clock_runs_with_the_loop() -> None:
    """While the loop runs, it counts every second."""
    loop = asyncio.get_running_loop()
    clock, began = LoopClock(loop), loop.time()
    async with asyncio.timeout(DEADLINE):
        while clock.time() < 1.0:  # noqa: ASYNC110  # what is waited for is time itself
            await asyncio.sleep(0.01)
    assert 0.9 < loop.time() - began < 3.0
    clock.stop()


@pytest.mark.parametrize("asked_before", [False, True], ids=["just connected", "idle"])
async def test_who_is_connected_when_it_stops_is_told_so(tmp_path: Path, asked_before: bool) -> None:
    """A post over a connection from before the stop is answered 503, with when to come again; it is not cut off."""
    async with running(tmp_path) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        await world.until(lambda: world.intake.server.connected)
        if asked_before:
            writer.write(FIRST_POST)
            await reader.readuntil(b'"phase_2_started":false}')
        stopping = asyncio.create_task(world.intake.server.stop(DEADLINE))
        await asyncio.sleep(0)  # it begins
        writer.write(FIRST_POST)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 2" in answer
        writer.close()
        await stopping
