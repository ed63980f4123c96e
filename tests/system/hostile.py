"""Hostile clients, all at once, as a process of their own: `python -m tests.system.hostile INTAKE ADMIN SECONDS SEED`.

Every loop is bounded by the time. What they are answered matters to nobody here. `... hostile sink` is an endpoint that
reads everything and keeps nothing; it prints its port.
"""

import asyncio
import gzip
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random

import aiohttp
from aiohttp import web

from tests.intake.shapes import SHAPES, WAYS, Shape, Way

TIME_OUT = aiohttp.ClientTimeout(total=30)
SLOW_BYTES_PER_SECOND = 7_000
KEPT_BYTES = 1_000_000
FLOODS = (b"x\n", b"{}\n", b"\n", b'{"call_id":1}\n')


class Attack:
    """What the clients know of their victim."""

    def __init__(self, intake: int, admin: int, seconds: float, seed: int) -> None:
        self.intake = f"http://127.0.0.1:{intake}"
        self.admin = f"http://127.0.0.1:{admin}"
        self.port = intake
        self.ends_at = time.monotonic() + seconds
        self.rng = Random(seed)
        self.attempts = 0
        self._packed: dict[tuple[str, str], bytes] = {}
        """Bodies that are small as they are sent: made once, so that it is the gateway that works."""

    @property
    def goes_on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self.ends_at

    async def all(self) -> None:
        """Everything at once."""
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=TIME_OUT) as session:
            clients: list[Awaitable[None]] = [
                *(self._again(session, self._shape) for _ in range(4)),
                *(self._again(session, self._small_and_slow_to_parse) for _ in range(4)),
                *(self._again(session, self._lines) for _ in range(4)),
                *(self._again(session, self._parts) for _ in range(2)),
                *(self._again(session, self._address) for _ in range(2)),
                self._again(session, self._page),
                self._again(session, self._guess),
                *(self._slow(b"Content-Length: 14000000\r\n", SLOW_BYTES_PER_SECOND // 10, 0.1) for _ in range(4)),
                *(self._slow(b"Content-Length: 60000\r\n", 1, 2.0) for _ in range(100)),
                *(self._slow(b"Transfer-Encoding: chunked\r\n", 0, 2.0) for _ in range(50)),
                *(self._slow(b"Content-Length: 60000000\r\n", 1, 2.0, b"/v1/calls/batch") for _ in range(50)),
            ]
            await asyncio.gather(*clients)

    async def _again(
        self, session: aiohttp.ClientSession, attack: Callable[[aiohttp.ClientSession], Awaitable[None]]
    ) -> None:
        while self.goes_on:
            self.attempts += 1
            try:
                await attack(session)
            except (aiohttp.ClientError, TimeoutError, OSError):
                await asyncio.sleep(0.05)

    async def _post(self, session: aiohttp.ClientSession, body: bytes, way: Way, key: str | None = None) -> None:
        """As one of many senders, half of the time."""
        name = key or ("evil" if self.rng.random() < 0.5 else os.urandom(8).hex())
        headers = {"x-pype-token": name, **way.headers}
        async with session.post(self.intake + way.path, data=body, headers=headers) as response:
            await response.read()

    async def _shape(self, session: aiohttp.ClientSession) -> None:
        shape, name = self.rng.choice(list(SHAPES)), self.rng.choice(list(WAYS))
        way = WAYS[name]
        body = self._packed.get((shape, name), b"")
        body = body or await asyncio.to_thread(lambda: way.pack(SHAPES[shape].body()))
        if len(body) < KEPT_BYTES:
            self._packed[shape, name] = body
        if name != "upload":
            await self._post(session, body, way)
            return
        wanted = {"call_id": "k", "content_type": "application/json"}
        async with session.post(self.intake + "/get-upload-url", json=wanted) as response:
            url = (await response.json())["upload_url"]
        async with session.put(url, data=body) as response:
            await response.read()

    async def _small_and_slow_to_parse(self, session: aiohttp.ClientSession) -> None:
        shape = self.rng.choice(list(SHAPES.values()))
        await self._post(session, Shape(shape.prefix, shape.unit, shape.suffix, 0.06).body(), WAYS["plain"])

    async def _lines(self, session: aiohttp.ClientSession) -> None:
        flood = self.rng.choice(FLOODS)
        await self._post(session, flood * 20_000, WAYS["line of a batch"])

    async def _parts(self, session: aiohttp.ClientSession) -> None:
        if self.rng.random() < 0.5:
            await self._post(session, gzip.compress(b"") * 400_000, WAYS["gzip"])
            return

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(100_000):
                yield b" "

        async with session.post(self.intake + "/v1/calls", data=chunks()) as response:
            await response.read()

    async def _address(self, session: aiohttp.ClientSession) -> None:
        wanted = {"call_id": "x" * 512, "content_type": "application/json"}
        headers = {"x-pype-token": os.urandom(4_000).hex()}
        async with session.post(self.intake + "/get-upload-url", json=wanted, headers=headers) as response:
            await response.read()

    async def _page(self, session: aiohttp.ClientSession) -> None:
        """Of another site, or by a rebound name."""
        headers = self.rng.choice([{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
        async with session.post(self.intake + "/v1/calls", data=b'{"call_id":"page"}', headers=headers) as response:
            assert response.status in {403, 421, 503}, response.status

    async def _guess(self, session: aiohttp.ClientSession) -> None:
        headers = {"Authorization": f"Bearer {os.urandom(16).hex()}"}
        async with session.post(self.admin + "/api/deliveries/discard", json={}, headers=headers) as response:
            assert response.status in {401, 403, 404, 405, 429}, response.status

    async def _slow(self, framing: bytes, piece: int, pause: float, path: bytes = b"/v1/calls") -> None:
        """A client that announces much, and sends hardly anything."""
        head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nx-pype-token: evil\r\n%b\r\n" % (path, framing)
        while self.goes_on:
            self.attempts += 1
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(head)
                while self.goes_on and not reader.at_eof() and not writer.transport.is_closing():
                    writer.write(b" " * piece if piece else b"1\r\n \r\n")
                    await writer.drain()
                    await asyncio.sleep(pause)
                writer.transport.abort()
            except OSError:
                await asyncio.sleep(0.1)


def tell(what: object) -> None:
    """Print it for the test that started this process."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def sink() -> None:
    """An endpoint that accepts all there is."""

    async def accept(request: web.Request) -> web.Response:
        async for _ in request.content.iter_any():
            continue
        return web.json_response({"success": True})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", accept)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    tell(runner.addresses[0][1])
    await asyncio.Event().wait()


async def main(arguments: list[str]) -> None:
    """See the module."""
    if arguments == ["sink"]:
        await sink()
        return
    intake, admin, seconds, seed = arguments
    attack = Attack(int(intake), int(admin), float(seconds), int(seed))
    await attack.all()
    tell(attack.attempts)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
