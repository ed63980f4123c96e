"""Starting a server as a user would, waiting until it is ready, and stopping it whatever happens."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path

_READY_SECONDS = 60.0
_STOP_SECONDS = 60.0


class ServerFailed(Exception):
    """A server did not start, or ended before it was told to; the message holds the end of its log."""


def free_port() -> int:
    """A loopback port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def server(
    command: Sequence[str], *, ready: Callable[[], bool], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends.

    `ready` says whether it can be used yet. `environment` is added to the present one, of which callspool's own
    settings are left out. It is stopped by SIGTERM, and by SIGKILL when that takes longer than a minute. One that ends
    before it is told to is a `ServerFailed`, also where what it left unanswered raised something else.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CALLSPOOL_")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=inherited | dict(environment or {})
        )

    def alive_and_ready() -> bool:
        if process.poll() is not None:
            raise ServerFailed(_told(f"ended with status {process.returncode}", command, log))
        return ready()

    try:
        wait_until(alive_and_ready, f"{command[0]} is ready", _READY_SECONDS)
        try:
            yield process
        finally:
            if process.poll() is not None:
                raise ServerFailed(_told(f"ended early with status {process.returncode}", command, log))
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started here and wait until it is gone."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_python(module: str, *arguments: str, timeout: float) -> str:
    """What a module of this project prints when it is run with these arguments."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        message = f"{module} failed:\n{done.stderr[-2000:]}"
        raise ServerFailed(message)
    return done.stdout


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Return when the condition holds; TimeoutError, naming what was waited for, when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            message = f"waited {seconds:.0f} s in vain until {what}"
            raise TimeoutError(message)
        time.sleep(0.02)


def answers(port: int, path: str) -> bool:
    """Whether GET of this path on the loopback address answers 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def listens(port: int) -> bool:
    """Whether something takes connections on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def _told(what: str, command: Sequence[str], log: Path) -> str:
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    return f"{' '.join(command)} {what}; the end of {log}:\n{tail}"
