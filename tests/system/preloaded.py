"""Starts `callspool` without importing it: forked by a process that has done so, which saves half a second of CPU.

What starts is a process like any other, with its own arguments, environment, directory and standard streams; it gets
signals, is killed, and forks or starts others itself. What an interpreter does before it runs the program is left out,
as are variables that Python or libraries read when they are loaded: tests of these start the command itself.
"""

import asyncio
import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

PROGRAM = Path(sys.executable).with_name("callspool")
_SERVER = Path(__file__).with_name("preloaded_server.py")


class Process(Protocol):
    """What tests do with a process; `asyncio.subprocess.Process` is another one."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def send_signal(self, signal: int, /) -> None: ...

    def kill(self) -> None: ...

    async def wait(self) -> int: ...


class Forked:
    """A process that was started by `start`, for the event loop that did so."""

    def __init__(self, pid: int, answer: int) -> None:
        self.pid = pid
        self._answer = answer
        """Where its exit code will come."""
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(answer, self._end)

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    def send_signal(self, number: int, /) -> None:
        if not self._ended.done():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def _end(self) -> None:
        self._loop.remove_reader(self._answer)
        self._ended.set_result(_number(self._answer))
        os.close(self._answer)


async def start(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    streams: tuple[IO[bytes], IO[bytes], IO[bytes]],
    module: str | None = None,
) -> Forked:
    """Start `callspool` with these arguments, and standard input, output and error; or a module below `folder`."""
    request = {
        "arguments": [str(PROGRAM), *arguments], "environment": dict(environment), "folder": str(folder),
        "module": module,
    }  # fmt: skip
    answer, answers = os.pipe()
    descriptors = [*(stream.fileno() for stream in streams), answers]
    socket.send_fds(_server(), [json.dumps(request).encode()], descriptors)
    os.close(answers)
    # The first one waits for the imports.
    return Forked(await asyncio.to_thread(_number, answer), answer)


async def run(
    *arguments: str, environment: Mapping[str, str], stdin: bytes = b"", deadline: float = 60.0
) -> tuple[int, bytes]:
    """Exit code and output, standard error included, of a command. Raises `TimeoutError`."""
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as asked:
        asked.write(stdin)
        asked.seek(0)
        process = await start(arguments, environment=environment, folder=Path.cwd(), streams=(asked, told, told))
        try:
            async with asyncio.timeout(deadline):
                code = await process.wait()
        finally:
            process.kill()
        told.seek(0)
        return code, told.read()


@functools.cache
def _server() -> socket.socket:
    """To the process that forks; it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, str(_SERVER), str(theirs.fileno())]
    server = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    atexit.register(_close, ours, server)
    return ours


def _close(ours: socket.socket, server: subprocess.Popen[bytes]) -> None:
    ours.close()
    server.wait(30)


def _number(descriptor: int) -> int:
    read = os.read(descriptor, 4)
    assert len(read) == 4, "the process that starts callspool is gone"
    return int.from_bytes(read, "little", signed=True)
