"""Posts through TLS and through a Unix socket: the same intake, on the event loop that the gateway runs on."""

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme

from gateway.listeners import ListenOptions
from tests.intake.bodies import call_log, large_call_log
from tests.intake.running_intake import RunningIntake, running

AUTHORITY = trustme.CA()


@pytest.fixture(scope="module")
def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    return context


@asynccontextmanager
async def session(connector: aiohttp.BaseConnector) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(10)) as made:
        yield made


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


async def posted(world: RunningIntake, client: aiohttp.ClientSession, url: str) -> None:
    """Small, large, announced and chunked posts over one connection; each is durable as it was sent."""
    for number, body in enumerate([call_log(), large_call_log()] * 2):
        document = {**json.loads(body), "call_id": f"call-{number}"}
        encoded = json.dumps(document).encode()
        data = _pieces(encoded) if number > 1 else io.BytesIO(encoded)
        async with client.post(f"{url}/v1/calls", data=data) as response:
            assert response.status == 202, await response.text()
        record = await world.only_record(f"call-{number}")
        assert record.record.raw_bytes > 0


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


async def test_posts_of_every_size_come_through_tls(tmp_path: Path, server_tls: ssl.SSLContext) -> None:
    """The same answers as without; an upload address begins with https."""
    async with running(tmp_path, tls=server_tls) as world, session(aiohttp.TCPConnector(ssl=trusting())) as client:
        url = f"https://127.0.0.1:{world.port}"
        await posted(world, client, url)
        async with client.post(f"{url}/get-upload-url", json={"call_id": "c"}) as response:
            assert (await response.json())["upload_url"].startswith(f"{url}/uploads/")


async def test_who_speaks_no_tls_gets_no_answer(tmp_path: Path, server_tls: ssl.SSLContext) -> None:
    """A plain request ends the connection, and others are served."""
    async with running(tmp_path, tls=server_tls) as world:
        reader, writer = await world.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        async with asyncio.timeout(5):
            assert not await reader.read()
        writer.close()
        async with (
            session(aiohttp.TCPConnector(ssl=trusting())) as client,
            client.get(f"https://127.0.0.1:{world.port}/v1/calls/x") as response,
        ):
            assert response.status == 404


async def test_posts_come_through_a_unix_socket(tmp_path: Path) -> None:
    """The same answers; an upload address begins with the name that the client asked for."""
    path = tmp_path / "in.sock"
    async with (
        running(tmp_path / "spool", listen=ListenOptions(path=path)) as world,
        session(aiohttp.UnixConnector(str(path))) as client,
    ):
        await posted(world, client, "http://localhost")
        async with client.post("http://localhost/get-upload-url", json={"call_id": "c"}) as response:
            assert (await response.json())["upload_url"].startswith("http://localhost/uploads/")
    assert not path.exists()
