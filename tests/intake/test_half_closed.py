"""Clients that close their sending side and wait for the answer (`shutdown(SHUT_WR)`), as `nc` and some proxies do."""

import asyncio

import pytest

from tests.intake.bodies import call_log, large_call_log
from tests.intake.running_intake import DEADLINE, RunningIntake


def post(body: bytes, path: str = "/v1/calls", headers: bytes = b"") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode()
    return head + headers + b"\r\n" + body


async def answers_to(world: RunningIntake, wire: bytes) -> bytes:
    """Everything that the server says after the client has sent this and closed its sending side."""
    reader, writer = await world.connect()
    writer.write(wire)
    writer.write_eof()
    async with asyncio.timeout(DEADLINE):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    "wire",
    [
        post(call_log("a")),
        post(call_log("a", size=300_000)),
        post(large_call_log("a")),
        post(call_log("a"), "/v1/calls/batch"),
        post(call_log("a"), headers=b"Expect: 100-continue\r\n"),
        b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(call_log("a")), call_log("a")),
    ],
    ids=["small", "read directly", "large", "batch", "expecting", "chunked"],
)
async def test_a_whole_request_is_answered(world: RunningIntake, wire: bytes) -> None:
    """A request that came in full gets its answer, and the connection ends after it."""
    answer = await answers_to(world, wire)
    assert b'"success":true' in answer, answer
    await world.only_record("a")
    await world.until(lambda: not world.intake.server.connected)


async def test_all_requests_before_the_end_are_answered(world: RunningIntake) -> None:
    """Pipelined requests are answered in order, the last one too."""
    answer = await answers_to(world, b"".join(post(call_log(f"call-{n}")) for n in range(20)))
    assert answer.count(b"HTTP/1.1 202 ") == 20
    await world.until(lambda: not world.intake.server.connected)


@pytest.mark.parametrize("size", [2_000, 300_000, 6_000_000], ids=["small", "read directly", "large"])
async def test_half_a_body_is_told_apart(world: RunningIntake, size: int) -> None:
    """A body that ends too early is refused, and nothing of it is kept."""
    answer = await answers_to(world, post(call_log("a", size=size))[:-100])
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"client_gone" in answer
    await world.until(lambda: not world.intake.budget.used_bytes)
    assert not await world.spool.trace("a")


@pytest.mark.parametrize("wire", [b"", b"POST /v1/calls HT", b"POST /v1/calls HTTP/1.1\r\nHost: x\r\n"])
async def test_without_a_request_the_connection_ends(world: RunningIntake, wire: bytes) -> None:
    """Nobody is owed an answer."""
    assert await answers_to(world, wire) == b""
    await world.until(lambda: not world.intake.server.connected)
