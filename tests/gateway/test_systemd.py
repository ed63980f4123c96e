"""The protocol of systemd, over a real datagram socket."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.process import Systemd, systemd_of


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What systemd listens at, by a path or in the abstract namespace."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@callspool-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1))
        listener.settimeout(10)
        yield address, listener


async def test_states_are_told_in_the_words_of_systemd(manager: tuple[str, socket.socket]) -> None:
    """READY, RELOADING with the time by which systemd knows that it is newer, STOPPING: one datagram each."""
    address, listener = manager
    systemd = Systemd(address)
    systemd.ready()
    before = time.monotonic_ns() // 1000
    systemd.reloading()
    systemd.stopping()
    heard = [listener.recv(4096).decode() for _ in range(3)]
    assert heard[0] == "READY=1"
    assert heard[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert before <= int(heard[1].rpartition("=")[2]) <= time.monotonic_ns() // 1000
    assert heard[2] == "STOPPING=1"


async def test_the_event_loop_gives_signs_of_life(manager: tuple[str, socket.socket]) -> None:
    """Twice in the time of the watchdog, with more time while it starts, and a status when that has changed."""
    address, listener = manager
    systemd = Systemd(address, watchdog_seconds=0.02)
    status = "starting;\n none \udcff"
    async with systemd.kept_informed(lambda: status):
        first = (await asyncio.to_thread(listener.recv, 4096)).decode().splitlines()
        assert first == ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=40000", "STATUS=starting; none \\udcff"]
        systemd.ready()
        status = "running"
        while (heard := (await asyncio.to_thread(listener.recv, 4096)).decode()) != "WATCHDOG=1\nSTATUS=running":
            assert heard in {"READY=1", "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=40000"}
        assert (await asyncio.to_thread(listener.recv, 4096)) == b"WATCHDOG=1"
        hang(listener)


def hang(listener: socket.socket) -> None:
    """Hold up the event loop for five times the time of the watchdog: nothing comes but what was sent before."""
    listener.settimeout(0.1)
    heard = []
    with contextlib.suppress(TimeoutError):
        while True:
            heard.append(listener.recv(4096))
    assert len(heard) <= 1


def test_only_the_process_that_it_is_meant_for_uses_the_watchdog(tmp_path: Path) -> None:
    """A child that inherited the variables would beat for a gateway that hangs; they are removed, too."""
    path = str(tmp_path / "notify")
    theirs = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1", "PATH": "/bin"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(10)

        async def heard(environment: dict[str, str]) -> str:
            async with systemd_of(environment).kept_informed(lambda: "here"):
                return (await asyncio.to_thread(listener.recv, 4096)).decode()

        assert "WATCHDOG" not in asyncio.run(heard(theirs))
        assert "WATCHDOG=1" in asyncio.run(heard({**ours(path)}))
    assert theirs == {"PATH": "/bin"}


def ours(path: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}


@pytest.mark.parametrize(("address", "logged"), [("", []), ("vsock:2:1234", ["systemd_unreachable"])])
async def test_without_a_socket_nothing_is_sent(address: str, logged: list[str]) -> None:
    """No systemd, or one that can be reached in another way only, which is logged: nothing asks for a status."""
    asked: list[str] = []

    def status() -> str:
        asked.append("status")
        return "working"

    with capture_logs() as events:
        systemd = systemd_of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
        async with systemd.kept_informed(status):
            systemd.ready()
            await asyncio.sleep(0)
    assert asked == []
    assert [each["event"] for each in events] == logged


async def test_a_socket_that_is_gone_is_no_trouble(tmp_path: Path) -> None:
    """It is logged once; the gateway works on."""
    systemd = Systemd(str(tmp_path / "gone"), watchdog_seconds=1)
    with capture_logs() as logged:
        async with systemd.kept_informed(lambda: "working"):
            systemd.ready()
            systemd.stopping()
    assert [each["event"] for each in logged] == ["systemd_unreachable"]
