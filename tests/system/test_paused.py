"""A gateway that is stopped for a while, as a debugger, a container's pause and a machine that is moved do it."""

import asyncio
import json
import signal
import time
from pathlib import Path

from bench.endpoint import Endpoint
from tests.system.gateway_process import GatewayProcess

TIMEOUT, PAUSED = 1.0, 1.4
"""Seconds: what a client has for the next part of its post, of which half a second may pass while nothing runs, and for
how long nothing does."""
NEW_CLIENTS = 20


def a_post(call_id: str) -> bytes:
    body = json.dumps({"call_id": call_id, "wcall_event": "call_ended", "notes": "x" * 20_000}).encode()
    return b"POST /v1/calls HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body


HEAD_BYTES = a_post("").index(b"\r\n\r\n") + 4


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connected(cls, gateway: GatewayProcess) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", int(gateway.intake_url.rpartition(":")[2])))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def status(self) -> int:
        """Of the next answer, which is read to its end."""
        async with asyncio.timeout(10):
            head = await self._reader.readuntil(b"\r\n\r\n")
            (length,) = [int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:")]
            await self._reader.readexactly(length)
        return int(head.split()[1])

    def close(self) -> None:
        self._writer.close()


CUTS = {"in-the-headers": 30, "behind-the-headers": HEAD_BYTES, "in-the-body": 9_000, "idle": 0}
"""Clients, and how much of their posts the gateway has read when it is stopped."""


async def stopped_amid_posts(gateway: GatewayProcess) -> dict[str, Client]:
    """Stop the gateway while it waits for the rest of these posts. A busy machine may need some tries: what takes
    longer than their time-out to come is cut off, as it should be."""
    while True:
        clients = {call_id: await Client.connected(gateway) for call_id in CUTS}
        clients["idle"].send(a_post("before"))
        assert await clients["idle"].status() == 202
        began = time.monotonic()
        for call_id, cut in CUTS.items():
            clients[call_id].send(a_post(call_id)[:cut])
        assert (await gateway.post({"call_id": "read-by-now"})).status == 202
        gateway.process.send_signal(signal.SIGSTOP)
        if time.monotonic() - began < TIMEOUT / 4:
            return clients
        gateway.process.send_signal(signal.SIGCONT)
        for client in clients.values():
            client.close()


async def test_what_came_while_the_gateway_was_stopped_is_answered_and_delivered(tmp_path: Path) -> None:
    """Longer than every time-out: posts that were half there, on idle connections, and on new ones the kernel took."""
    async with Endpoint() as endpoint:
        settings = {"ENDPOINT_URL": endpoint.url, "INTAKE_HEADER_TIMEOUT": f"{TIMEOUT}s"}
        settings |= {"INTAKE_PROGRESS_TIMEOUT": f"{TIMEOUT}s"}
        environment = {f"CALLSPOOL_{name}": value for name, value in settings.items()}
        async with GatewayProcess(tmp_path / "gateway", environment) as gateway:
            clients = await stopped_amid_posts(gateway)
            for call_id, cut in CUTS.items():
                clients[call_id].send(a_post(call_id)[cut:])
            for number in range(NEW_CLIENTS):
                clients[f"new-{number}"] = await Client.connected(gateway)
                clients[f"new-{number}"].send(a_post(f"new-{number}"))
            await asyncio.sleep(PAUSED)  # what is waited for is time itself
            gateway.process.send_signal(signal.SIGCONT)
            assert {call_id: await client.status() for call_id, client in clients.items()} == dict.fromkeys(
                clients, 202
            )
            for client in clients.values():
                client.close()
            await gateway.delivered()
    assert {arrival.call_id for arrival in endpoint.accepted} == {"before", "read-by-now", *clients}
