"""The body of a request on its way out, towards a peer that never makes the client wait."""

import asyncio

import pytest
from aiohttp.abc import AbstractStreamWriter

from uploaders.deadlines import Deadlines, Timeouts
from uploaders.request_body import TURN_BYTES, RequestBody

SIZE = 16 * TURN_BYTES


class Taker(AbstractStreamWriter):
    """Takes everything at once, like a socket whose peer reads faster than we write."""

    def __init__(self) -> None:
        self.taken = bytearray()

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self.taken += chunk

    async def write_eof(self, chunk: bytes = b"") -> None:
        self.taken += chunk

    async def drain(self) -> None:
        """Nothing waits."""

    def enable_compression(self, *_: object, **__: object) -> None:
        """Not asked for."""

    def enable_chunking(self) -> None:
        """Not asked for."""

    async def write_headers(self, *_: object) -> None:
        """Not asked for."""


@pytest.mark.parametrize("as_stream", [False, True], ids=["buffer", "stream"])
async def test_others_have_their_turn_while_a_large_body_goes_out(as_stream: bool) -> None:
    """However fast the peer is, every MiB something else may run."""
    data = bytes(SIZE)

    async def parts() -> object:
        for start in range(0, SIZE, 300_000):
            yield data[start : start + 300_000]

    taker, turns = Taker(), 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(take_turns())
    async with Deadlines(Timeouts()) as deadlines:
        body = RequestBody(parts() if as_stream else data, "application/json", deadlines, None)  # type: ignore[arg-type]  # it yields bytes
        await body.write(taker)
    other.cancel()
    assert taker.taken == data
    assert turns >= SIZE // TURN_BYTES // 2
