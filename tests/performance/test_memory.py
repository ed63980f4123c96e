"""How much memory a large post takes at its most, in copies of its body."""

import asyncio
import socket
import tracemalloc
from pathlib import Path

from bench.calllogs import make_call_log
from tests.intake.world import running

LARGE = 15_000_000


async def test_a_large_post_is_held_once(tmp_path: Path) -> None:
    """The intake of 15 MB takes the body's own memory, its compressed frames, and little else."""
    body = make_call_log(LARGE, seed=1, call_id="large")
    request = b"POST /v1/calls HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with running(tmp_path) as world:
        tracemalloc.start()
        try:
            answer = await asyncio.to_thread(_post, world.port, request)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert peak < 1.4 * len(body), f"{peak / len(body):.2f} copies of the body"


def _post(port: int, request: bytes) -> bytes:
    """Send a request that is in memory already; returns the beginning of its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        return connection.recv(4096)
