"""Clients that are slow, wait to be invited, or go away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.intake import admission, body_reader, protocol
from gateway.intake.body_reader import BodyLimits
from gateway.intake.memory import SMALL_POST_BYTES
from gateway.intake.protocol import ConnectionLimits
from spool.records import Accepted, NewRecord
from tests.intake.bodies import call_log
from tests.intake.running_intake import DEADLINE, RunningIntake, running

HEAD = b"POST /v1/calls HTTP/1.1\r\nHost: x\r\n"


def _accepts_when_released(
    world: RunningIntake, monkeypatch: pytest.MonkeyPatch
) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold every accept up; the events tell that one was entered, and let them go on."""
    accept, entered, release = world.spool.accept, asyncio.Event(), asyncio.Event()

    async def held(record: NewRecord) -> Accepted:
        entered.set()
        await release.wait()
        return await accept(record)

    monkeypatch.setattr(world.spool, "accept", held)
    return entered, release


@pytest.mark.parametrize("length", [1_000, 500_000, 30_000_000, None])
async def test_a_stalled_body_is_cut_off(tmp_path: Path, length: int | None) -> None:
    """A body that does not advance is answered 408, its connection closed, its memory and file given back."""
    framing = (
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        if length is None
        else b"Content-Length: %d\r\n\r\nabc" % length
    )
    async with running(tmp_path, bodies=BodyLimits(progress_timeout=0.1)) as world:
        answer = await world.send_raw(HEAD + framing)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert world.counted("calls", "stalled") == 1
        assert world.intake.budget.used_bytes == 0
        await world.until(lambda: not world.staged_files())


async def test_a_dripping_body_is_cut_off(tmp_path: Path) -> None:
    """Single bytes now and then are no progress: a body must advance by 64 KiB in each timeout."""
    async with running(tmp_path, bodies=BodyLimits(progress_timeout=0.3)) as world:
        reader, writer = await world.connect()
        writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")

        async def drip() -> None:
            while True:
                writer.write(b" ")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(DEADLINE):
            # A client that goes on sending may see its connection reset instead of the answer.
            with contextlib.suppress(ConnectionResetError):
                assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()
        writer.close()
        assert world.counted("calls", "stalled") == 1


async def test_a_slow_but_steady_body_is_taken(tmp_path: Path) -> None:
    """A body that advances takes as long as it takes, beyond the progress timeout."""
    body = call_log(size=700_000)
    async with running(tmp_path, bodies=BodyLimits(progress_timeout=0.4)) as world:
        loop = asyncio.get_running_loop()
        started = loop.time()

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 70_000):
                yield body[start : start + 70_000]
                await asyncio.sleep(0.06)

        assert (await world.post(chunks())).status == 202
        assert loop.time() - started > 0.5


@pytest.mark.parametrize("length", [1_000, 500_000, 30_000_000])
async def test_a_client_that_goes_away_frees_its_memory(world: RunningIntake, length: int) -> None:
    """A connection that breaks in the middle of a body leaves nothing behind and is counted."""
    _, writer = await world.connect()
    writer.write(HEAD + b"Content-Length: %d\r\n\r\nabc" % length)
    await writer.drain()
    await world.until(lambda: world.intake.gate.in_flight)
    writer.transport.abort()
    await world.until(lambda: world.counted("calls", "client_gone"))
    await world.until(lambda: not world.staged_files())
    assert world.intake.budget.used_bytes == 0


async def test_a_post_that_is_complete_is_accepted_though_its_client_went(
    world: RunningIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a body is complete, an accept that is under way is finished, whoever listens."""
    entered, release = _accepts_when_released(world, monkeypatch)
    _, writer = await world.connect()
    body = call_log()
    writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    async with asyncio.timeout(DEADLINE):
        await entered.wait()
    writer.transport.abort()
    release.set()
    await world.until(lambda: world.counted("calls", "accepted"))
    assert (await world.only_record("call-1")).record.raw_bytes == len(body)
    assert not world.counted("calls", "client_gone")


async def test_headers_that_do_not_come_are_cut_off(tmp_path: Path) -> None:
    """A connection whose first headers are not complete in time is closed."""
    async with running(tmp_path, connections=ConnectionLimits(header_timeout=0.1)) as world:
        assert await world.send_raw(b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nX-A: ") == b""


async def test_idle_connections_are_closed(tmp_path: Path) -> None:
    """A connection without a next request is closed after the keep-alive time-out."""
    async with running(tmp_path, connections=ConnectionLimits(keepalive_timeout=0.1)) as world:
        body = call_log()
        answer = await world.send_raw(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        assert answer.startswith(b"HTTP/1.1 202 ")


@pytest.mark.parametrize("length", [10, 500_000, 17_000_000, None])
async def test_a_client_that_waits_is_invited(world: RunningIntake, length: int | None) -> None:
    """`Expect: 100-continue` is answered 100 once the body may come, then as every post."""
    body = call_log(other="a" * (length or 10))
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % len(body)
    reader, writer = await world.connect()
    writer.write(HEAD + b"Expect: 100-continue\r\n%b\r\n\r\n" % framing)
    async with asyncio.timeout(DEADLINE):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if length is None else body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
    writer.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Content-Encoding: br\r\n", 415),
        (b"x-pype-token: wrong\r\n", 401),
        (b"Content-Type: a\r\n", 413),
    ],
)
async def test_refusals_precede_the_invitation(tmp_path: Path, headers: bytes, status: int) -> None:
    """What the headers speak against is refused at once: the client never sends its body."""
    token = b"" if status == 401 else b"Authorization: Bearer key\r\n"
    async with running(tmp_path, token="key", bodies=BodyLimits(body_max=1_000)) as world:
        reader, writer = await world.connect()
        writer.write(HEAD + headers + token + b"Expect: 100-continue\r\nContent-Length: 2000\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            assert (await reader.readline()).startswith(b"HTTP/1.1 %d " % status)
        writer.close()


async def test_other_expectations_are_417(world: RunningIntake) -> None:
    """An Expect header that nobody knows is refused."""
    reply = await world.post(call_log(), headers={"Expect": "the-unexpected"})
    assert (reply.status, reply.code) == (417, "unknown_expectation")
    assert world.intake.budget.used_bytes == 0


async def test_a_slow_body_gives_its_memory_to_who_waits(tmp_path: Path) -> None:
    """What came of it goes to a staging file, as does what follows; it is accepted when it is complete, to the byte."""
    body = call_log("slow", size=900_000)
    async with running(tmp_path, memory_budget=1 << 20, memory_wait=DEADLINE) as world:
        reader, writer = await world.connect()
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body[:300_000]))
        await world.until(lambda: world.intake.budget.used_bytes)
        assert (await world.post(call_log("other", size=500_000))).status == 202
        await world.until(world.staged_files)
        await world.until(lambda: not world.intake.budget.used_bytes)
        writer.write(body[300_000:])
        async with asyncio.timeout(DEADLINE):
            assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
        assert (await world.only_record("slow")).record.digest == sha256(body).digest()
        writer.close()
        await world.until(lambda: not world.staged_files())


async def test_a_slow_body_gives_its_memory_back_though_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second after it began, nothing is held for what was only announced, and the quota counts what came."""
    monkeypatch.setattr(body_reader, "SLOW_SECONDS", 0.2)
    async with running(tmp_path) as world:
        before = world.spool.stats().used_bytes
        _, writer = await world.connect()
        writer.write(HEAD + b"Content-Length: 14000000\r\n\r\n" + b" " * 100_000)
        await world.until(lambda: world.intake.budget.used_bytes)
        await world.until(world.staged_files)
        await world.until(lambda: not world.intake.budget.used_bytes)
        assert world.spool.stats().used_bytes - before < 1_000_000
        writer.close()
        await world.until(lambda: not world.staged_files())


async def test_a_large_post_that_gets_no_memory_is_staged(tmp_path: Path) -> None:
    """It waits for a moment, and is accepted through a staging file; only small posts are answered 503."""
    async with running(tmp_path, memory_budget=1 << 20, memory_wait=0.1) as world:
        budget = world.intake.budget
        held = [budget.try_reserve(budget.largest), budget.try_reserve(SMALL_POST_BYTES)]
        held.append(budget.try_reserve(budget.total_bytes - budget.used_bytes))
        assert (await world.post(call_log("large", size=500_000))).status == 202
        reply = await world.post(call_log("small"))
        assert (reply.status, reply.code) == (503, "memory_budget")
        assert reply.headers["Retry-After"]
        for reservation in held:
            assert reservation is not None
            reservation.release()
        assert (await world.post(call_log("small"))).status == 202


@pytest.mark.parametrize(
    "announced",
    [
        b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{",
        b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        b"POST /v1/calls/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n{",
        b"POST /v1/calls/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n{",
    ],
    ids=["small", "chunked", "batch", "chunked batch", "giant"],
)
async def test_what_is_announced_and_does_not_come_holds_nothing(tmp_path: Path, announced: bytes) -> None:
    """However many nearly silent clients there are, memory is for bytes that came."""
    async with running(tmp_path, memory_budget=1 << 20, memory_wait=0.1) as world:
        writers = [(await world.connect())[1] for _ in range(40)]
        for writer in writers:
            writer.write(announced)
        await world.until(lambda: world.intake.gate.in_flight == len(writers))
        await world.until(lambda: not world.intake.budget.used_bytes)
        assert (await world.post(call_log("small"))).status == 202
        assert (await world.post(call_log("large", size=500_000))).status == 202
        for writer in writers:
            writer.transport.abort()
        await world.until(lambda: not world.intake.gate.in_flight)
        assert not world.intake.server.held


async def test_a_line_of_a_batch_that_stops_is_staged(world: RunningIntake) -> None:
    """What came of it waits in a file, and the line is accepted when the rest has come."""
    line = call_log("slow", size=300_000)
    reader, writer = await world.connect()
    head = HEAD.replace(b"/v1/calls", b"/v1/calls/batch") + b"Content-Length: %d\r\n\r\n" % len(line)
    writer.write(head + line[:200_000])
    await world.until(world.staged_files)
    await world.until(lambda: not world.intake.budget.used_bytes)
    writer.write(line[200_000:])
    async with asyncio.timeout(DEADLINE):
        await reader.readuntil(b'"status":202')
    assert (await world.only_record("slow")).record.digest == sha256(line).digest()
    writer.close()


async def test_small_bodies_that_stop_are_the_first_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When clients hold too much together, the one whose body has been incomplete for the longest is cut off."""
    monkeypatch.setattr(protocol, "_HELD_BYTES", 70_000)
    monkeypatch.setattr(admission, "SLOW_SECONDS", 0.0)
    async with running(tmp_path) as world:
        clients = []
        for number in range(3):
            clients.append(await world.connect())
            clients[-1][1].write(HEAD + b"Content-Length: 60000\r\n\r\n" + b" " * 30_000)
            await world.until(lambda number=number: number == 2 or world.intake.server.held > 30_000 * (number + 1))
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionResetError):
                assert not await clients[0][0].read(), "it was not cut off, but waited for until it stalled"
        assert (await world.post(call_log())).status == 202
        for _, writer in clients:
            writer.transport.abort()
        await world.until(lambda: not world.intake.gate.in_flight)
        assert not world.intake.server.held


async def test_many_large_posts_share_a_small_budget(tmp_path: Path) -> None:
    """Posts that together need many times the budget are all taken, one after the other, and never exceed it."""
    async with running(tmp_path, memory_budget=2 << 20, memory_wait=DEADLINE) as world:
        budget, most = world.intake.budget, 0

        async def post(number: int) -> int:
            nonlocal most
            status = (await world.post(call_log(str(number), size=700_000 if number % 2 else 100))).status
            most = max(most, budget.used_bytes)
            return status

        statuses = await asyncio.gather(*(post(number) for number in range(40)))
        assert statuses == [202] * 40
        assert 0 < most <= 2 << 20
        assert budget.used_bytes == 0


async def test_a_stop_waits_for_posts_inside(world: RunningIntake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping refuses new posts with 503, finishes those inside, and says that none was cut off."""
    entered, release = _accepts_when_released(world, monkeypatch)
    inside = asyncio.create_task(world.post(call_log()))
    await entered.wait()
    stopping = asyncio.create_task(world.intake.server.stop(DEADLINE))
    await world.until(lambda: not world.intake.gate.is_open)
    assert (await world.post(call_log("b"))).status == 503
    release.set()
    assert (await inside).status == 202
    assert await stopping == 0


async def test_a_stop_does_not_wait_for_ever(world: RunningIntake) -> None:
    """A post that is not complete when the drain time is over is cut off and counted."""
    reader, writer = await world.connect()
    writer.write(HEAD + b"Content-Length: 1000\r\n\r\n{")
    await world.until(lambda: world.intake.gate.in_flight)
    async with asyncio.timeout(DEADLINE):
        assert await world.intake.server.stop(0.05) == 1
        assert b" 202 " not in await reader.read()
    writer.close()
