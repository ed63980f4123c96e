"""A request on its way out, towards a peer that never makes the client wait."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from uploaders.http.connection import TURN_BYTES, HttpConnection, send
from uploaders.http.timeouts import Deadlines, Timeouts, Watch
from uploaders.rate_limit import SLICE_BYTES

SIZE = 16 * TURN_BYTES
HEAD = b"POST / HTTP/1.1\r\n\r\n"


class Taker(HttpConnection):
    """Takes everything at once, like a socket whose peer reads faster than we write, until it has had `enough`."""

    def __init__(self, enough: int = 2 * SIZE) -> None:
        self.taken = bytearray()
        self.writes = 0
        self._enough = enough

    def write(self, data: bytes | memoryview) -> None:
        self.taken += data
        self.writes += 1

    async def drained(self) -> bool:
        return len(self.taken) < self._enough


async def parts(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 300_000):
        yield data[start : start + 300_000]


@pytest.mark.parametrize("as_stream", [False, True], ids=["buffer", "stream"])
async def test_others_have_their_turn_while_a_large_body_goes_out(as_stream: bool) -> None:
    """However fast the peer is, every MiB something else may run."""
    data = bytes(SIZE)
    taker, turns = Taker(), 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(take_turns())
    with Deadlines(Timeouts(), Watch()) as deadlines:
        assert await send(taker, HEAD, parts(data) if as_stream else data, deadlines, None)
    other.cancel()
    assert taker.taken == HEAD + data
    assert turns >= SIZE // TURN_BYTES // 2


@pytest.mark.parametrize("as_stream", [False, True], ids=["buffer", "stream"])
async def test_nothing_more_is_sent_than_is_wanted(as_stream: bool) -> None:
    """Where the answer ends before the request does, the rest of it stays here."""
    data, enough = bytes(SIZE), SIZE // 2
    taker = Taker(enough)
    with Deadlines(Timeouts(), Watch()) as deadlines:
        assert not await send(taker, HEAD, parts(data) if as_stream else data, deadlines, None)
    assert len(taker.taken) < enough + SLICE_BYTES + len(HEAD)


async def test_a_small_request_is_one_write() -> None:
    """Head and body of what is small go out together: one packet, one system call."""
    taker = Taker()
    with Deadlines(Timeouts(), Watch()) as deadlines:
        assert await send(taker, HEAD, memoryview(b"{}"), deadlines, None)
    assert taker.taken == HEAD + b"{}"
    assert taker.writes == 1
