"""A real gateway tells systemd, over a real socket, what `systemctl` then waits for."""

import asyncio
import signal
import socket
from pathlib import Path

from bench.endpoint import Endpoint
from tests.system.gateway_process import GatewayProcess

FILE = '[[destinations]]\nname = "endpoint"\ntype = "http"\nurl = "{url}"\ntoken = "{token}"\n'


async def test_systemd_is_told_of_start_reload_and_stop(tmp_path: Path) -> None:
    """READY comes when posts are accepted, and after each reload, applied or refused, so that none waits for ever; in
    between come signs of life, and the status that `systemctl status` shows."""
    path, file = tmp_path / "notify", tmp_path / "callspool.toml"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(30)

        async def heard(line: str) -> list[str]:
            """All lines up to the datagram that has this one."""
            lines: list[str] = []
            async with asyncio.timeout(60):  # signs of life come for ever
                while line not in lines:
                    lines += (await asyncio.to_thread(listener.recv, 4096)).decode().splitlines()
            return lines

        environment = {"CALLSPOOL_CONFIG": str(file), "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "500000"}
        async with Endpoint() as endpoint:
            file.write_text(FILE.format(url=endpoint.url, token="one"))
            async with GatewayProcess(tmp_path / "gateway", environment) as gateway:
                start = await heard("READY=1")
                assert {"WATCHDOG=1", "STATUS=starting"} <= set(start)
                assert await gateway.ready() == 200
                await heard("STATUS=running; 0 queued, 0 dead")
                file.write_text(FILE.format(url=endpoint.url, token="two"))
                gateway.process.send_signal(signal.SIGHUP)
                assert any(line.startswith("MONOTONIC_USEC=") for line in await heard("RELOADING=1"))
                await heard("READY=1")
                file.write_text("[nonsense]\n")
                gateway.process.send_signal(signal.SIGHUP)
                await heard("RELOADING=1")
                await heard("READY=1")
                gateway.terminate()
                await heard("STOPPING=1")
                assert await gateway.ended() == 0
