"""The sink: where everything is delivered to, and how soon. It looks at nothing of a request but the id in it.

    python -m bench.peers.sink --port 7800

`GET /count/PARTS` says how many calls arrived in at least so many parts, `GET /arrivals` when, `GET /forget` empties
it. An HTTP library would cost more CPU per request than most of what is measured.
"""

import argparse
import json
import re
import time
from asyncio import Protocol, Transport, get_running_loop
from asyncio.transports import BaseTransport
from collections import Counter
from typing import cast

import uvloop
import zstandard

_ID = re.compile(rb"bench-(\d{10})")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_ZSTD = re.compile(rb"(?i)\r\ncontent-encoding: *zstd\r\n")
_START_BYTES = 4 << 10
"""The id of a call log stands at its beginning, whoever sends it."""
_ZSTD_START_BYTES = 256 << 10
"""Of a zstd body all of the first block is needed to find it."""
_TAKEN = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"success":true}'


class Arrivals:
    """What arrived."""

    def __init__(self) -> None:
        self.calls: dict[int, list[int]] = {}
        """From the number of a call to when its first and last part came (monotonic ns), and how many did."""
        self.reached: Counter[int] = Counter()
        """How many calls have at least so many parts."""

    def add(self, number: int) -> None:
        """A part of this call is there."""
        now = time.perf_counter_ns()
        arrival = self.calls.setdefault(number, [now, now, 0])
        arrival[1:] = [now, arrival[2] + 1]
        self.reached[arrival[2]] += 1

    def forget(self) -> None:
        """Begin anew."""
        self.calls.clear()
        self.reached.clear()


class Receiving(Protocol):
    """One connection: requests with a Content-Length, one after the other."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._transport: Transport | None = None
        self._head = bytearray()
        self._start = bytearray()
        self._path = b""
        self._zstd = False
        self._left = 0

    def connection_made(self, transport: BaseTransport) -> None:
        """A sender connected."""
        # uvloop's transport is one in all but its base class.
        self._transport = cast("Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take what came: the rest of a body, or of a head."""
        view = memoryview(data)
        while view:
            if self._left:
                taken = view[: self._left]
                missing = (_ZSTD_START_BYTES if self._zstd else _START_BYTES) - len(self._start)
                if missing > 0:
                    self._start += taken[:missing]
                self._left -= len(taken)
                view = view[len(taken) :]
                if not self._left:
                    self._complete()
                continue
            self._head += view
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            view = memoryview(bytes(self._head[end + 4 :]))
            self._begin(bytes(self._head[: end + 2]))

    def _begin(self, head: bytes) -> None:
        """The head of a request is complete."""
        self._head = bytearray()
        self._start = bytearray()
        self._path = head.split(b" ", 2)[1]
        self._zstd = _ZSTD.search(head) is not None
        length = _LENGTH.search(head)
        self._left = int(length[1]) if length else 0
        if b"100-continue" in head.lower():
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._left:
            self._complete()

    def _complete(self) -> None:
        """A request is complete: note its id, or answer the question that it is."""
        if self._path.startswith((b"/count", b"/arrivals", b"/forget", b"/readyz")):
            self._tell()
            return
        found = _ID.search(_beginning_of(self._start) if self._zstd else self._start)
        if found:
            self._arrivals.add(int(found[1]))
        self._write(_TAKEN)

    def _tell(self) -> None:
        """Answer the benchmark itself."""
        answer: object = True
        if self._path.startswith(b"/count/"):
            answer = self._arrivals.reached[int(self._path.rsplit(b"/", 1)[1])]
        elif self._path == b"/arrivals":
            answer = self._arrivals.calls
        elif self._path == b"/forget":
            self._arrivals.forget()
        body = json.dumps(answer).encode()
        self._write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def _write(self, data: bytes) -> None:
        """Send to the other end."""
        if self._transport is not None:
            self._transport.write(data)


def _beginning_of(compressed: bytearray) -> bytes:
    """What a zstd body begins with; nothing where its first block is not there."""
    with zstandard.ZstdDecompressor().stream_reader(bytes(compressed), read_across_frames=True) as reader:
        return reader.read(_START_BYTES)


async def _serve(port: int) -> None:
    """Listen until the process is ended."""
    arrivals = Arrivals()
    server = await get_running_loop().create_server(lambda: Receiving(arrivals), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers.sink", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
