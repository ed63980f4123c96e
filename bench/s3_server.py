"""A real S3 server on loopback, SeaweedFS, for tests and benchmarks; and what starting any such server takes."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import ServerFailed

ACCESS_KEY = "loopback-key"
SECRET_KEY = "loopback-secret"
START_SECONDS = 60.0
POLL_SECONDS = 0.05
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)

_IDENTITIES = {
    "identities": [
        {
            "name": "all",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": "reader-key", "secretKey": "reader-secret"}],
            "actions": ["Read", "List"],
        },
        {
            "name": "writer",
            "credentials": [{"accessKey": "writer-key", "secretKey": "writer-secret"}],
            "actions": ["Write"],
        },
    ]
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running S3 server."""

    dialect: str
    endpoint: str
    port: int
    pid: int


def program(name: str) -> str:
    """The path of a program that the development dependencies bring along."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise ServerFailed(f"{name} is not installed: make setup")
    return found


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def seaweedfs(directory: Path) -> Iterator[Server]:
    """SeaweedFS with its data below `directory`. It makes no bucket by itself, and knows SSE with AES256."""
    ports = free_ports(8)
    config = directory / "s3.json"
    config.write_text(json.dumps(_IDENTITIES))
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    command = [
        program("weed"), "server", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.telemetry=false", *(f"-{name}={port}" for name, port in zip(names, ports, strict=False)),
        "-s3", f"-s3.port={ports[6]}", f"-s3.port.grpc={ports[7]}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-s3.autoCreateBucket=false", f"-s3.config={config}", "-volume.max=5000", "-master.volumeSizeLimitMB=64",
    ]  # fmt: skip
    environment = os.environ | {"WEED_S3_SSE_KEY": "k", "WEED_S3_SSE_KEK_PASSPHRASE": "p"}
    with answering("seaweedfs", command, ports[6], directory / "weed.log", environment) as server:
        yield server


@contextmanager
def answering(
    dialect: str, command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run an S3 server until the block ends, from when it answers at this port. Raises `ServerFailed`."""
    with _running(command, log, environment) as process:
        _wait_until_answered(process, port, log)
        yield Server(dialect, f"http://127.0.0.1:{port}", port, process.pid)


@contextmanager
def _running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, killed at the end of the block; None as environment: that of this process."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=environment,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call that takes no lock
        )
        try:
            yield process
        finally:
            process.kill()  # nothing of it is kept, and an orderly end takes it 10 s
            process.wait()


def _end_with_parent() -> None:
    """A test run that is killed leaves no server behind."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_until_answered(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until it refuses an unsigned request: then signatures are checked, and it is ready."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in {400, 403}:
                return
        except OSError:
            pass  # nobody listens yet: that is what is waited for
        time.sleep(POLL_SECONDS)
    raise ServerFailed(f"the server is not ready: {log.read_text()[-2000:]}")
