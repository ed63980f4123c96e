"""The servers that tests run in their own process leave no client without an end (`no_forgotten_connections`)."""

import asyncio
import socket
from contextlib import suppress

import pytest
from aiohttp import web


async def hears_of_the_end(client: socket.socket) -> bool:
    """Whether the other end closes the connection, or resets it."""
    with suppress(ConnectionResetError):
        async with asyncio.timeout(5):
            return await asyncio.get_running_loop().sock_recv(client, 1) == b""
    return True


def connected(address: tuple[str, int]) -> socket.socket:
    client = socket.create_connection(address)
    client.setblocking(False)
    return client


@pytest.mark.parametrize("turns", range(6))
async def test_who_connects_while_a_server_is_closed_is_turned_away(turns: int) -> None:
    """However far the loop has come with the connection: queued, accepted, with a transport, with a protocol."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    with connected(server.sockets[0].getsockname()) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        server.close()
        assert await hears_of_the_end(client)


@pytest.mark.parametrize("turns", range(6))
async def test_who_connects_while_an_application_is_closed_is_turned_away(turns: int) -> None:
    """It shuts down the connections that it knows, and no others."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with connected(runner.addresses[0][:2]) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        await runner.cleanup()
        assert await hears_of_the_end(client)
