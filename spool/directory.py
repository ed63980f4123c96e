"""The spool directory: who owns it, and whether a spool can live there.

One process owns a spool at a time. The lock is an flock on a file of its own, so that the database file is
never opened outside SQLite (closing it would drop SQLite's own locks).
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spool.errors import SpoolLocked, UnsuitableDirectory

DATABASE_NAME = "spool.db"
LOCK_NAME = "spool.lock"
STAGING_NAME = "staging"
"""Where bodies are kept that are still coming in; what a killed process left there is removed at the next start."""
ASIDE_PREFIX = "aside-"
"""What the directories are called into which damaged databases are moved."""

NETWORK_FILE_SYSTEMS = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "coda", "glusterfs", "lustre", "beegfs", "gfs2",
    "ocfs2", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.davfs",
})  # fmt: skip
"""Where POSIX locks, shared memory or fsync do not hold what SQLite's write-ahead log needs of them."""

EPHEMERAL_FILE_SYSTEMS = frozenset({"overlay", "tmpfs", "ramfs", "aufs"})
"""In a container, what lies on these is gone with the container."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system: where, and of which type (as in /proc/self/mountinfo)."""

    mount_point: str
    file_system: str


def mounts(mountinfo: Path = Path("/proc/self/mountinfo")) -> Iterator[Mount]:
    """All mounts of this process; nothing where the kernel does not say (see proc(5))."""
    if not mountinfo.exists():
        return
    for line in mountinfo.read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        # Spaces, tabs, newlines and backslashes are written as octal numbers.
        mount_point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        yield Mount(mount_point, after.split()[0])


def mount_of(path: Path, all_mounts: Iterator[Mount]) -> Mount | None:
    """The mount that `path` lies on: the longest mount point above it; the later one hides the earlier."""
    best: Mount | None = None
    for mount in all_mounts:
        above = path.is_relative_to(mount.mount_point)
        if above and (best is None or len(mount.mount_point) >= len(best.mount_point)):
            best = mount
    return best


def prepare_directory(directory: Path, all_mounts: Callable[[], Iterator[Mount]] = mounts) -> str | None:
    """Make the directory (0700) if it is missing and check that a spool can live there.

    Returns a warning when the directory will not outlive a container; raises `UnsuitableDirectory`.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UnsuitableDirectory(
            f"cannot make the spool directory {directory}: {error.strerror}; "
            "choose another one with CALLSPOOL_SPOOL_DIR"
        ) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UnsuitableDirectory(
            f"cannot write to the spool directory {directory}; give it to user id {os.geteuid()}, "
            "or choose another one with CALLSPOOL_SPOOL_DIR"
        )
    mount = mount_of(directory.resolve(), all_mounts())
    if mount is None:
        return None
    if mount.file_system in NETWORK_FILE_SYSTEMS:
        raise UnsuitableDirectory(
            f"the spool directory {directory} lies on a network file system ({mount.file_system} at "
            f"{mount.mount_point}), where neither locks nor fsync can be trusted; use a local disk"
        )
    if mount.file_system in EPHEMERAL_FILE_SYSTEMS and _in_container():
        return (
            f"the spool directory {directory} lies on {mount.file_system}, not on a volume: "
            "what is spooled is gone when this container is; mount a volume there"
        )
    return None


def _in_container() -> bool:
    return (
        Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() or "KUBERNETES_SERVICE_HOST" in os.environ
    )


def is_owned(directory: Path) -> bool:
    """Whether a process owns the spool in this directory at the moment. Changes nothing."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UnsuitableDirectory(
            f"cannot open {directory / LOCK_NAME}: {error.strerror}; do this as the user that the gateway runs as"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class DirectoryLock:
    """The ownership of a spool directory; the kernel gives it back when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_NAME
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnsuitableDirectory(f"cannot open {self._path}: {error.strerror}") from error

    def acquire(self, timeout: float = 10.0) -> None:
        """Wait up to `timeout` seconds for a predecessor that is stopping; then raise `SpoolLocked`."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise SpoolLocked(self._explain(timeout)) from None
                time.sleep(0.05)
            else:
                with suppress(OSError):  # for people only, and not worth a failed start on a full disk
                    os.ftruncate(self._descriptor, 0)
                    os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
                return

    def release(self) -> None:
        """Give the directory back. Harmless when it is not held."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _explain(self, timeout: float) -> str:
        owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace") or "unknown"
        os.close(self._descriptor)
        self._descriptor = -1
        return (
            f"another process (pid {owner}) has owned {self._path.parent} for the {timeout:g} s that were waited; "
            "stop it, or give this gateway a directory of its own with CALLSPOOL_SPOOL_DIR"
        )
