"""Clients that are slow, wait to be invited, or go away."""

import asyncio
import contextlib

import pytest

from gateway.intake.body_reader import BodyLimits
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
async def test_a_stalled_body_is_cut_off(tmp_path, length: int | None) -> None:
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


async def test_a_dripping_body_is_cut_off(tmp_path) -> None:
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


async def test_a_slow_but_steady_body_is_taken(tmp_path) -> None:
    """A body that advances takes as long as it takes, beyond the progress timeout."""
    body = call_log(size=700_000)
    async with running(tmp_path, bodies=BodyLimits(progress_timeout=0.4)) as world:
        loop = asyncio.get_running_loop()
        started = loop.time()

        async def chunks():
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


async def test_a_post_that_is_complete_is_accepted_though_its_client_went(world: RunningIntake, monkeypatch) -> None:
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


async def test_headers_that_do_not_come_are_cut_off(tmp_path) -> None:
    """A connection whose first headers are not complete in time is closed."""
    async with running(tmp_path, connections=ConnectionLimits(header_timeout=0.1)) as world:
        assert await world.send_raw(b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nX-A: ") == b""


async def test_idle_connections_are_closed(tmp_path) -> None:
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
async def test_refusals_precede_the_invitation(tmp_path, headers: bytes, status: int) -> None:
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


async def test_posts_wait_for_memory_and_then_give_up(tmp_path) -> None:
    """When the budget is in use a post waits, and is told 503 with Retry-After when nothing becomes free."""
    async with running(tmp_path, memory_budget=1 << 20, memory_wait=0.1) as world:
        _, writer = await world.connect()
        writer.write(HEAD + b"Content-Length: 900000\r\n\r\n{")
        await world.until(lambda: world.intake.budget.used_bytes)
        reply = await world.post(call_log(size=500_000))
        assert (reply.status, reply.code) == (503, "memory_budget")
        assert reply.headers["Retry-After"]
        assert (await world.post(call_log())).status == 202
        waiting = asyncio.create_task(world.post(call_log("b", size=500_000)))
        await world.until(lambda: world.intake.budget.waiting)
        writer.transport.abort()
        assert (await waiting).status == 202


async def test_many_large_posts_share_a_small_budget(tmp_path) -> None:
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


async def test_a_stop_waits_for_posts_inside(world: RunningIntake, monkeypatch) -> None:
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
