"""How a test holds a disk that fails when it is told to (`tests.disks.failing`)."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

MOUNT_SECONDS = 30.0


@dataclass(frozen=True)
class FailingDisk:
    """A mounted one: `folder` is where its files are."""

    folder: Path
    base: Path

    def fail(self, *calls: str, error: int, first: int = 1, times: int | None = None, name: str = "") -> None:
        """Let the `first`th of these calls from now on fail, `times` in all (None: until `heal`).

        Calls are write, fsync, truncate, create, unlink and rename; `name` is how the names of the files end.
        """
        self._order(do="fail", calls=calls, error=error, first=first, times=times, name=name)

    def struck(self) -> int:
        """How many calls have failed since `fail`."""
        return self._order(do="look")

    def heal(self) -> int:
        """Let nothing fail any more; returns how many calls have failed."""
        return self._order(do="heal")

    def image(self, to: Path) -> None:
        """Copy what would be there after a power cut now: all that was synced."""
        self._order(do="image", to=str(to))

    def _order(self, **order: object) -> int:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.base / "orders"))
            connection.sendall(json.dumps(order).encode() + b"\n")
            return int(json.loads(connection.makefile().readline())["struck"])


@contextmanager
def failing_disk(base: Path) -> Iterator[FailingDisk]:
    """Mount one below `base`; the test is skipped, and says so, where FUSE is not to be had."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists() or shutil.which("fusermount3") is None:
        pytest.skip("a file system of our own needs root, /dev/fuse and fusermount3")
    folder, inner = base / "mounted", base / "inner"
    folder.mkdir(parents=True)
    inner.mkdir()
    command = [sys.executable, "-W", "ignore", "-m", "tests.disks.failing", str(inner), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        _wait_until_mounted(folder, process)
        yield FailingDisk(folder, inner)
    finally:
        subprocess.run(["fusermount3", "-u", "-z", folder], check=False)
        process.terminate()
        process.communicate(timeout=30)


def _wait_until_mounted(folder: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + MOUNT_SECONDS
    while not folder.is_mount():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.skip(f"FUSE does not work here: {process.communicate()[0].decode()[-500:]}")
        time.sleep(0.02)
