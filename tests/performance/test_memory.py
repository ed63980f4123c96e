"""How much memory a large post takes at its most, in copies of its body."""

import asyncio
import socket
import tracemalloc
from pathlib import Path

from bench.calllogs import make_call_log
from tests.intake.running_intake import running

LARGE = 15_000_000


async def test_a_large_post_is_held_once(tmp_path: Path) -> None:
    """The intake of 15 MB takes the body's own memory, its compressed frames, and little else."""
    first, body = (make_call_log(LARGE, seed=seed, call_id=f"large-{seed}") for seed in (1, 2))
    async with running(tmp_path) as world:
        # What the first one leaves behind (caches, code that measures coverage) is no part of a post.
        await asyncio.to_thread(_post, world.port, first)
        tracemalloc.start()
        try:
            answer = await asyncio.to_thread(_post, world.port, body)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert peak < 1.4 * len(body), f"{peak / len(body):.2f} copies of the body"


def _post(port: int, body: bytes) -> bytes:
    """Send a body that is in memory already, without a copy of it; returns the beginning of the answer."""
    head = b"POST /v1/calls HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head)
        connection.sendall(body)
        return connection.recv(4096)
