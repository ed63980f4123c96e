"""Connections: what they may hold, how many there may be, and who goes when there are too many."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from gateway.intake import admission, protocol
from gateway.intake.protocol import ConnectionLimits
from gateway.process import connections_possible, raise_limit
from tests.intake.bodies import call_log
from tests.intake.running_intake import DEADLINE, RunningIntake, running

HEAD = b"POST /v1/calls HTTP/1.1\r\nHost: x\r\n"
IDLE = 2_000
IDLE_COSTS = 24 * 1024


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many file descriptors as may be, for both ends of many connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_limit()
    if connections_possible() < 2 * IDLE + 200:
        pytest.skip(f"the hard limit of {before[1]} file descriptors is too low for {IDLE} connections with both ends")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.asynccontextmanager
async def connections(world: RunningIntake, count: int, data: bytes = b"") -> AsyncIterator[list[socket.socket]]:
    """So many clients that have sent `data` and nothing more."""
    loop, clients = asyncio.get_running_loop(), []
    before = world.intake.server.connected
    try:
        for number in range(count):
            client = socket.socket()
            client.setblocking(False)
            clients.append(client)
            await loop.sock_connect(client, ("127.0.0.1", world.port))
            await loop.sock_sendall(client, data)
            await world.until(lambda number=number: world.intake.server.connected >= before + number - 50)
        await world.until(lambda: world.intake.server.connected == before + count, 3 * DEADLINE)
        yield clients
    finally:
        for client in clients:
            client.close()


async def test_who_connects_while_others_leave_is_not_cut_off(world: RunningIntake) -> None:
    """A server that closes waits for those who came at the last moment, too."""
    assert world.intake.server._web is not None
    async with connections(world, 1):
        lingering = asyncio.create_task(world.intake.server._web.linger(DEADLINE))
        await asyncio.sleep(0)
        reader, writer = await world.connect()
        await world.until(lambda: world.intake.server.connected == 2)
    body = call_log("last")
    writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 202")
    assert not lingering.done()
    writer.close()
    await lingering


async def test_idle_connections_hurt_nobody(tmp_path: Path, many_files: None) -> None:
    """Beside 2,000 idle connections a post is taken at once, and they cost little memory."""
    async with running(tmp_path, connections=ConnectionLimits(header_timeout=10 * DEADLINE)) as world:
        assert (await world.post(call_log("before"))).status == 202
        before = psutil.Process().memory_info().rss
        async with connections(world, IDLE):
            grown = psutil.Process().memory_info().rss - before
            async with asyncio.timeout(DEADLINE):
                assert (await world.post(call_log())).status == 202
            assert grown < IDLE * IDLE_COSTS
            assert world.intake.server.connected == IDLE
        await world.until(lambda: not world.intake.server.connected, 3 * DEADLINE)


async def test_a_new_client_takes_the_place_of_the_longest_idle_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit the connection that waited for its client for the longest is closed; the others go on."""
    monkeypatch.setattr(admission, "SLOW_SECONDS", 0.0)
    async with running(tmp_path, connections=ConnectionLimits(connections_max=2)) as world:
        body = call_log("a")
        request = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        oldest, oldest_writer = await world.connect()
        await world.until(lambda: world.intake.server.connected == 1)
        younger, younger_writer = await world.connect()
        await world.until(lambda: world.intake.server.connected == 2)
        oldest_writer.write(request)
        async with asyncio.timeout(DEADLINE):
            assert (await oldest.readline()).startswith(b"HTTP/1.1 202 ")
            assert (await world.post(call_log("b"))).status == 202
            assert await younger.read() == b""
        oldest_writer.write(request)
        async with asyncio.timeout(DEADLINE):
            assert b"HTTP/1.1 202 " in await oldest.readuntil(b"HTTP/1.1 202 ")
        for writer in (oldest_writer, younger_writer):
            writer.close()


async def test_of_many_who_connect_at_once_each_has_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has just connected is about to post, and stays; who finds no room hears 503."""
    monkeypatch.setattr(admission, "SLOW_SECONDS", DEADLINE)
    async with running(tmp_path, connections=ConnectionLimits(connections_max=3)) as world:
        clients = [await world.connect() for _ in range(9)]
        await world.until(lambda: world.intake.server.connected == len(clients))
        for number, (_, writer) in enumerate(clients):
            body = call_log(f"call-{number}")
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        async with asyncio.timeout(DEADLINE):
            statuses = [(await reader.readline()).split()[1] for reader, _ in clients]
        assert statuses == [b"202"] * 3 + [b"503"] * 6
        for _, writer in clients:
            writer.close()


async def test_without_an_idle_client_a_new_one_is_refused(tmp_path: Path) -> None:
    """When every connection has a request in hand, one more is answered 503 with Retry-After."""
    async with running(tmp_path, connections=ConnectionLimits(connections_max=1)) as world:
        async with connections(world, 1, HEAD + b"Content-Length: 100\r\n\r\n{"):
            await world.until(lambda: world.intake.gate.in_flight)
            reply = await world.post(call_log())
            assert (reply.status, reply.code) == (503, "crowded")
            assert reply.headers["Retry-After"]
        await world.until(lambda: not world.intake.gate.in_flight)
        assert (await world.post(call_log())).status == 202


async def test_headers_that_never_end_are_cut_off(world: RunningIntake) -> None:
    """A client whose headers are not complete after 32 KB is cut off and counted; nothing of it stays."""
    reader, writer = await world.connect()
    writer.write(HEAD)
    with contextlib.suppress(ConnectionError):
        for number in range(100):
            writer.write(b"X-%d: %b\r\n" % (number, b"a" * 1000))
            await writer.drain()
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b""
    writer.close()
    await world.until(lambda: world.counted("none", "headers_too_long"))
    await world.until(lambda: not world.intake.server.connected)
    assert world.intake.server.held == 0


async def test_a_post_that_waits_for_memory_is_hardly_read(tmp_path: Path) -> None:
    """Of a body without a reservation some 24 KB are held; the rest waits at its sender, through TCP."""
    async with running(tmp_path, memory_budget=1 << 20, memory_wait=DEADLINE) as world:
        async with connections(world, 1, HEAD + b"Content-Length: 900000\r\n\r\n{") as holders:
            await world.until(lambda: world.intake.budget.used_bytes)
            body = call_log(size=800_000)
            waiting = asyncio.create_task(world.post(body))
            await world.until(lambda: world.intake.budget.waiting)
            await world.until(lambda: world.intake.server.held)
            assert (await world.post(call_log("small"))).status == 202
            assert world.intake.server.held <= 48 * 1024
            holders[0].close()
            assert (await waiting).status == 202
        assert world.intake.server.held == 0


async def test_too_much_in_waiting_sends_large_posts_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When bodies that are not complete hold too much together, a large one is answered 503, a small one accepted."""
    monkeypatch.setattr(protocol, "_HELD_BYTES", 16_500)  # one read, and hardly more
    monkeypatch.setattr(admission, "SLOW_SECONDS", DEADLINE)
    async with running(tmp_path) as world:
        async with connections(world, 1, HEAD + b"Content-Length: 60000\r\n\r\n" + b" " * 25_000):
            await world.until(lambda: world.intake.server.held > 25_000)
            reply = await world.post(call_log("large", size=100_000))
            assert (reply.status, reply.code) == (503, "crowded")
            assert (await world.post(call_log("small"))).status == 202
        await world.until(lambda: not world.intake.gate.in_flight)
        assert world.intake.server.held == 0


async def test_unfinished_headers_make_room_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When too much is held, a connection that holds unfinished headers is closed before anybody is refused."""
    monkeypatch.setattr(protocol, "_HELD_BYTES", 4_000)
    async with (
        running(tmp_path) as world,
        connections(world, 1, HEAD + b"X-A: " + b"a" * 3_500) as slow,
        connections(world, 1) as idle,
    ):
        await world.until(lambda: world.intake.server.held > 3_500)
        assert (await world.post(call_log(other="b" * 1000))).status == 202
        async with asyncio.timeout(DEADLINE):
            assert await asyncio.get_running_loop().sock_recv(slow[0], 1) == b""
        assert world.intake.server.connected == 1
        assert idle[0].fileno() > 0


async def test_few_file_descriptors_mean_few_connections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The limit of connections stays below that of file descriptors, which is told once."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = psutil.Process().num_fds()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(used + 64, 128), before[1]))
    try:
        possible = connections_possible()
        async with running(tmp_path):
            said = capsys.readouterr().out
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "few_file_descriptors" in said
    assert str(possible) in said
    assert possible < ConnectionLimits().connections_max
