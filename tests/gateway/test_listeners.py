"""Listeners: Unix sockets with their modes and owners, what a dead process left there, and who is at the other end."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.listeners import Listener, ListenOptions, Peer, SocketOptions, owner_ids, peer_of

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


class Greeter(asyncio.Protocol):
    """Says who is at the other end, and ends the connection."""

    def connection_made(self, transport: Any) -> None:
        transport.write(repr(peer_of(transport)).encode())
        transport.close()


@asynccontextmanager
async def listening(path: Path, options: SocketOptions | None = None) -> AsyncIterator[Listener]:
    listener = Listener(ListenOptions(path=path, socket=options or SocketOptions()), Greeter, 16)
    await listener.start(None)
    try:
        yield listener
    finally:
        listener.close()


async def greeting(path: Path) -> str:
    reader, writer = await asyncio.open_unix_connection(str(path))
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return text


@pytest.mark.parametrize("make_loop", LOOPS)
def test_a_socket_has_its_mode_and_is_removed_at_the_end(
    tmp_path: Path, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Whatever the umask says; the kernel says which user connects."""
    path = tmp_path / "run" / "admin.sock"

    async def check() -> None:
        async with listening(path, SocketOptions(mode=0o660)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            expected = Peer(f"unix uid {os.geteuid()}", os.geteuid(), None, is_unix=True)
            assert await greeting(path) == repr(expected)
        assert not path.exists()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(check())


async def test_a_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    """Nobody answers there: the next start listens in its place."""
    path = tmp_path / "in.sock"
    left = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()"
    subprocess.run([sys.executable, "-c", left, str(path)], check=True)
    assert path.is_socket()
    async with listening(path):
        assert "uid" in await greeting(path)


async def test_a_socket_at_which_somebody_answers_is_left_alone(tmp_path: Path) -> None:
    """A second gateway does not take the address of the first, and does not remove its socket when it gives up."""
    path = tmp_path / "in.sock"
    async with listening(path):
        with pytest.raises(OSError, match="another process answers there"):
            await Listener(ListenOptions(path=path), Greeter, 16).start(None)
        assert "uid" in await greeting(path)


@pytest.mark.parametrize("there", ["file", "link"])
async def test_what_is_no_socket_is_never_removed(tmp_path: Path, there: str) -> None:
    """Neither a file, nor a link, nor what it leads to."""
    path, other = tmp_path / "in.sock", tmp_path / "other"
    other.write_text("keep me")
    path.symlink_to(other) if there == "link" else other.rename(path)
    with pytest.raises(FileExistsError, match="no socket"):
        await Listener(ListenOptions(path=path), Greeter, 16).start(None)
    assert path.read_text() == "keep me"


async def test_a_socket_that_another_process_made_is_not_removed(tmp_path: Path) -> None:
    """Only what this listener bound is its own to remove."""
    path = tmp_path / "in.sock"
    async with listening(path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.is_socket()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_a_socket_belongs_to_whom_it_should(tmp_path: Path) -> None:
    """User and group by name or number."""
    uid, gid = owner_ids("nobody:1234")
    path = tmp_path / "in.sock"
    async with listening(path, SocketOptions(0o660, uid, gid)):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (uid, 1234)
    assert owner_ids(":1234") == (-1, 1234)
    with pytest.raises(LookupError):
        owner_ids("nobody-of-this-name")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
async def test_another_user_is_known_by_the_kernel() -> None:
    """SO_PEERCRED says whose process connected: that one is not trusted as the gateway's own user is."""
    ask = (
        "import os, socket, sys; os.setuid(4321); s = socket.socket(socket.AF_UNIX); "
        "s.connect(sys.argv[1]); print(s.recv(999).decode())"
    )
    # Not in a folder of pytest's: those are closed to others.
    with tempfile.TemporaryDirectory(prefix="callspool-test-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "in.sock")
        async with listening(path, SocketOptions(mode=0o666)):
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", ask, str(path), stdout=subprocess.PIPE)
            said, _ = await process.communicate()
    assert b"uid=4321" in said
    assert not Peer("unix uid 4321", 4321, is_unix=True).is_own_user


def test_users_of_another_namespace_are_nobody_in_particular(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel calls all of them 65534: a gateway of that user does not take them for itself."""
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    assert not Peer("unix", 65534, is_unix=True).is_own_user
    assert Peer("unix", 0, is_unix=True).is_own_user
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert Peer("unix", 1000, is_unix=True).is_own_user


async def test_a_port_is_known_before_and_after_it_is_listened_on() -> None:
    """Pages name it while a gateway starts and while it stops."""
    listener = Listener(ListenOptions(port=7717), Greeter, 16)
    assert listener.port == 7717
    chosen = Listener(ListenOptions(), Greeter, 16)
    assert chosen.port == 0
    await chosen.start(None)
    port = chosen.port
    assert port > 0
    chosen.close()
    assert chosen.port == port
