"""A disk that fails when it is told to: a pass-through file system, run as a process of its own.

    python -m tests.disks.failing BASE MOUNT_POINT

What is written lies in BASE/seen at once, and in BASE/disk when it was synced. After a sync that failed, what it was to
sync stays visible and is not written by a later one, as on Linux, whose pages are clean after it. Orders come over the
socket BASE/orders, a line of JSON each; see `tests.disks.failing_disk`.
"""

import errno
import json
import os
import shutil
import socketserver
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfusepy import FUSE, FuseOSError, Operations


@dataclass
class Fault:
    """Which calls fail: the `first`th of them from now on, and `times` in all (None: until it is healed)."""

    calls: tuple[str, ...]
    error: int
    first: int
    times: int | None
    name: str
    """Only files whose name ends so."""
    seen: int = 0

    def strikes(self, call: str, path: str) -> bool:
        """Whether this call fails. Counts it."""
        if call not in self.calls or not path.endswith(self.name):
            return False
        self.seen += 1
        return self.seen >= self.first and (self.times is None or self.seen < self.first + self.times)


class FailingFileSystem(Operations):
    """Passes everything through to BASE/seen, except what is to fail."""

    use_ns = True

    def __init__(self, base: Path) -> None:
        self.seen, self.disk = base / "seen", base / "disk"
        self.seen.mkdir()
        self.disk.mkdir()
        self._guard = threading.RLock()
        self.fault: Fault | None = None
        self.struck = 0
        self._unsynced: dict[str, list[tuple[int, int]]] = {}

    def order(self, order: dict[str, Any]) -> dict[str, int]:
        """Do what a test wants; the answer says how often the fault has struck."""
        with self._guard:
            told = {"struck": self.struck}
            if order["do"] == "fail":
                self.fault = Fault(tuple(order["calls"]), order["error"], order["first"], order["times"], order["name"])
                self.struck = 0
            elif order["do"] == "heal":
                self.fault = None
            elif order["do"] == "image":
                shutil.copytree(self.disk, order["to"])
            return told

    def _check(self, call: str, path: str) -> None:
        if self.fault is not None and self.fault.strikes(call, path):
            self.struck += 1
            raise FuseOSError(self.fault.error)

    def _real(self, path: str) -> Path:
        return self.seen / path.lstrip("/")

    def _durable(self, path: str) -> Path:
        return self.disk / path.lstrip("/")

    # Content ---------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        return os.open(self._real(path), flags & ~os.O_APPEND)

    def create(self, path: str, mode: int, fi: object = None) -> int:
        with self._guard:
            self._check("create", path)
            self._durable(path).touch(mode)
            return os.open(self._real(path), os.O_RDWR | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        with self._guard:
            try:
                self._check("write", path)
            except FuseOSError:
                torn = data[: len(data) // 2]
                if torn and not path.endswith("-shm"):
                    os.pwrite(fh, torn, offset)
                    self._unsynced.setdefault(path, []).append((offset, len(torn)))
                raise
            self._unsynced.setdefault(path, []).append((offset, len(data)))
            return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        with self._guard:
            self._check("truncate", path)
            os.truncate(self._real(path), length)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        with self._guard:
            self._check("write", path)
            os.posix_fallocate(fh, offset, size)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        with self._guard:
            ranges = self._unsynced.pop(path, [])
            self._check("fsync", path)
            if self._real(path).exists():
                self._copy(path, ranges)
        return 0

    def _copy(self, path: str, ranges: list[tuple[int, int]]) -> None:
        with self._real(path).open("rb") as source, self._durable(path).open("r+b") as target:
            for offset, length in ranges:
                target.seek(offset)
                target.write(os.pread(source.fileno(), length, offset))
            target.truncate(os.fstat(source.fileno()).st_size)

    def flush(self, path: str, fh: int) -> int:
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    # Names: durable at once, which is the harder case for a log that is gone too early -----------------------------

    def unlink(self, path: str) -> int:
        with self._guard:
            self._check("unlink", path)
            self._real(path).unlink()
            self._durable(path).unlink(missing_ok=True)
            self._unsynced.pop(path, None)
        return 0

    def rename(self, old: str, new: str) -> int:
        with self._guard:
            self._check("rename", old)
            self._real(old).rename(self._real(new))
            self._durable(old).rename(self._durable(new))
            self._unsynced[new] = self._unsynced.pop(old, [])
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self._check("create", path)
        self._real(path).mkdir(mode)
        self._durable(path).mkdir(mode)
        return 0

    def rmdir(self, path: str) -> int:
        with self._guard:
            self._check("unlink", path)
            self._real(path).rmdir()
            self._durable(path).rmdir()
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._check("fsync", path)
        return 0

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(entry.name for entry in self._real(path).iterdir())]

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        try:
            found = os.lstat(self._real(path))
        except FileNotFoundError:
            raise FuseOSError(errno.ENOENT) from None
        wanted = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_ino")
        times = {f"st_{kind}time": getattr(found, f"st_{kind}time_ns") for kind in ("a", "m", "c")}
        return {name: getattr(found, name) for name in wanted} | times

    def chmod(self, path: str, mode: int) -> int:
        self._real(path).chmod(mode)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._real(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_") and name != "f_fsid"}


def serve(base: Path, mount_point: Path) -> None:
    """Mount it and serve orders until it is unmounted."""
    file_system = FailingFileSystem(base)

    class Orders(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            told = file_system.order(json.loads(self.rfile.readline()))
            self.wfile.write(json.dumps(told).encode() + b"\n")

    orders = socketserver.ThreadingUnixStreamServer(str(base / "orders"), Orders)
    threading.Thread(target=orders.serve_forever, daemon=True).start()
    FUSE(file_system, str(mount_point), foreground=True, nothreads=True, default_permissions=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
