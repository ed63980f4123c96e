"""The spool directory: who owns it, whether a spool can live there, and the quarantine of corrupt databases.

One process owns a spool at a time. The lock is an flock on a file of its own, so that the database file is
never opened outside SQLite (closing it would drop SQLite's own locks).
"""

import fcntl
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from spool.errors import SpoolLocked, UnsuitableDirectory
from spool.keys import KEYS_NAME, NEW_NAME
from spool.stats import QuarantinedDatabase

DATABASE_NAME = "spool.db"
LOCK_NAME = "spool.lock"
STAGING_NAME = "staging"
"""The directory of bodies still being received. The next start removes leftovers of a killed process."""
QUARANTINE_PREFIX = "quarantine-"
"""The prefix of directories that hold corrupt databases."""
OLD_QUARANTINE_PREFIX = "aside-"
"""The prefix before schema version 6."""
IMPORTED_NAME = "imported.json"
"""Marks a database whose readable records were all imported into another spool."""
OLD_IMPORTED_NAME = "brought.json"
"""The name of that mark before schema version 6."""

NETWORK_FILE_SYSTEMS = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "coda", "glusterfs", "lustre", "beegfs", "gfs2",
    "ocfs2", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.davfs",
})  # fmt: skip
"""File systems whose POSIX locks, shared memory or fsync SQLite's write-ahead log cannot rely on."""

EPHEMERAL_FILE_SYSTEMS = frozenset({"overlay", "tmpfs", "ramfs", "aufs"})
"""File systems that, in a container, are lost with the container."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system: its mount point and type, as in /proc/self/mountinfo."""

    mount_point: str
    file_system: str


def mounts(mountinfo: Path = Path("/proc/self/mountinfo")) -> Iterator[Mount]:
    """All mounts of this process; none if the kernel does not list them (see proc(5))."""
    if not mountinfo.exists():
        return
    for line in mountinfo.read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        # The kernel writes spaces, tabs, newlines and backslashes as octal escapes.
        mount_point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        yield Mount(mount_point, after.split()[0])


def mount_of(path: Path, all_mounts: Iterator[Mount]) -> Mount | None:
    """The mount of `path`: the longest mount point above it; of two at the same point, the later one."""
    best: Mount | None = None
    for mount in all_mounts:
        above = path.is_relative_to(mount.mount_point)
        if above and (best is None or len(mount.mount_point) >= len(best.mount_point)):
            best = mount
    return best


def prepare_directory(directory: Path, all_mounts: Callable[[], Iterator[Mount]] = mounts) -> str | None:
    """Create the directory (0700) if it is missing, and check that it is suitable for a spool.

    Returns a warning if the directory will be lost with its container; raises `UnsuitableDirectory`.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UnsuitableDirectory(
            f"cannot create the spool directory {directory}: {error.strerror}; "
            "choose another one with CALLSPOOL_SPOOL_DIR"
        ) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UnsuitableDirectory(
            f"cannot write to the spool directory {directory}; chown it to user id {os.geteuid()}, "
            "or choose another one with CALLSPOOL_SPOOL_DIR"
        )
    mount = mount_of(directory.resolve(), all_mounts())
    shared = _check_owner(directory, mount)
    check_components(directory)
    shared = shared or _make_private(directory)
    if mount is None:
        return shared
    if mount.file_system in NETWORK_FILE_SYSTEMS:
        raise UnsuitableDirectory(
            f"the spool directory {directory} is on a network file system ({mount.file_system} at "
            f"{mount.mount_point}), where neither locks nor fsync can be trusted; use a local disk"
        )
    if mount.file_system in EPHEMERAL_FILE_SYSTEMS and _in_container():
        return (
            f"the spool directory {directory} is on {mount.file_system}, not on a volume: "
            "it is lost with this container; mount a volume there"
        )
    return shared


def _check_owner(directory: Path, mount: Mount | None) -> str | None:
    """Refuse a directory in which other users may replace files, as ssh does; returns a warning, if any.

    Volumes of Kubernetes belong to root. They are writable for the pod's group (`fsGroup`) or for everybody
    (`emptyDir`), which means everybody in the pod.
    """
    status = directory.stat()
    me = os.geteuid()
    if status.st_uid not in {me, 0}:
        raise UnsuitableDirectory(
            f"the spool directory {directory} belongs to user id {status.st_uid}, who could replace files in it; "
            f"give it to user id {me} (chown -R {me} {directory}), or run callspool as its owner"
        )
    if not status.st_mode & 0o022:
        return None
    groups = {os.getegid(), *os.getgroups()}
    if status.st_uid == 0 != me and not status.st_mode & 0o002 and status.st_gid in groups:
        return None
    if status.st_uid == 0 and mount is not None and Path(mount.mount_point) == directory.resolve() and _in_container():
        return (
            f"everybody in this container and in others that mount {directory} may write to it; "
            "set CALLSPOOL_SPOOL_DIR to a directory below it, which callspool creates for its own user only"
        )
    raise UnsuitableDirectory(
        f"others may write to the spool directory {directory} (mode {stat.S_IMODE(status.st_mode):04o}), "
        f"and so replace files in it; remove that permission (chmod go-w {directory}), and any files of theirs"
    )


_COMPONENTS = (
    DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", f"{DATABASE_NAME}-journal", LOCK_NAME,
    "spool.headroom", KEYS_NAME, NEW_NAME, STAGING_NAME,
)  # fmt: skip
"""The names that a start opens."""


def check_components(directory: Path) -> None:
    """Refuse links in place of the spool's files, and files of other users: callspool would write to them.

    Raises `UnsuitableDirectory`.
    """
    for path in (directory / name for name in _COMPONENTS):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        right_kind = stat.S_ISDIR if path.name == STAGING_NAME else stat.S_ISREG
        if stat.S_ISLNK(status.st_mode):
            fault = "is a symbolic link"
        elif not right_kind(status.st_mode):
            fault = "is a directory" if stat.S_ISDIR(status.st_mode) else "is of the wrong kind"
        elif stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            fault = "has another name elsewhere (a hard link)"
        elif status.st_uid not in {os.geteuid(), 0}:
            fault = f"belongs to user id {status.st_uid}"
        else:
            continue
        raise UnsuitableDirectory(
            f"{path} {fault}, and callspool would write to it; find out where it came from, then remove it, "
            f"or give it to user id {os.geteuid()} if you put it there"
        )


def _make_private(directory: Path) -> str | None:
    """Make the spool's files private; returns a warning if other users may list the directory.

    Files of a restored copy are often readable for everybody. Files that belong to root are left as they are.
    """
    for path in (directory / name for name in _COMPONENTS):
        with suppress(FileNotFoundError):
            status = path.lstat()
            if status.st_mode & 0o077 and status.st_uid == os.geteuid():
                path.chmod(0o700 if stat.S_ISDIR(status.st_mode) else 0o600)
    status = directory.stat()
    if not status.st_mode & 0o077 or status.st_uid != os.geteuid():
        return None
    return (
        f"others may list the spool directory {directory} (mode {stat.S_IMODE(status.st_mode):04o}); they cannot read "
        f"its files, but see their names and sizes: chmod 700 {directory}"
    )


def _in_container() -> bool:
    return (
        Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() or "KUBERNETES_SERVICE_HOST" in os.environ
    )


def is_owned(directory: Path) -> bool:
    """Whether a process owns the spool in this directory at the moment. Changes nothing."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UnsuitableDirectory(
            f"cannot open {directory / LOCK_NAME}: {error.strerror}; run this as the user of the gateway"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class DirectoryLock:
    """The ownership of a spool directory. The kernel releases it when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_NAME
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UnsuitableDirectory(f"cannot open {self._path}: {error.strerror}") from error

    def acquire(self, timeout: float = 10.0) -> None:
        """Wait up to `timeout` seconds for a previous owner to stop; then raise `SpoolLocked`."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise SpoolLocked(self._explain(timeout)) from None
                time.sleep(0.05)
            else:
                with suppress(OSError):  # the pid is for people only, not worth a failed start on a full disk
                    os.ftruncate(self._descriptor, 0)
                    os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
                return

    def release(self) -> None:
        """Release the directory. Harmless if it is not held."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _explain(self, timeout: float) -> str:
        owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace") or "unknown"
        os.close(self._descriptor)
        self._descriptor = -1
        return (
            f"another process (pid {owner}) still owns {self._path.parent} after {timeout:g} s; "
            "stop it, or give this gateway a directory of its own with CALLSPOOL_SPOOL_DIR"
        )


# Quarantine: a corrupt database is moved whole, with its log, into a directory of its own beside the new one.
#
# callspool deletes a quarantined database only by an order to erase calls. The next start finishes a move that a crash
# interrupted: `moving.txt` stays in the directory until everything is moved.

REASON_NAME = "reason.txt"
MOVING_NAME = "moving.txt"
"""The name of the file with the reason until the move is complete."""
_PARTS = (f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", KEYS_NAME, DATABASE_NAME)
"""In the order of the move. The keys go with the data that they encrypt. The database goes last: while it is still
there, the other files belong to it and not to a new one."""


def quarantine(directory: Path, reason: str, now: int) -> Path:
    """Move the database of a closed spool into quarantine; returns the directory. `now` in ms. Raises `OSError`."""
    folder = _new_folder(directory, datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%dT%H%M%SZ"))
    with (folder / MOVING_NAME).open("w", encoding="utf-8") as file:
        file.write(reason + "\n")
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)
    _sync(directory)
    _move(directory, folder)
    return folder


def finish_quarantines(directory: Path) -> None:
    """Finish interrupted moves. Raises `OSError`."""
    for folder in _folders(directory):
        if (folder / MOVING_NAME).exists():
            _move(directory, folder)


def quarantined(directory: Path) -> tuple[QuarantinedDatabase, ...]:
    """The databases in quarantine, the oldest first."""
    return tuple(_described(folder) for folder in _folders(directory))


def remove_quarantined(folder: Path) -> None:
    """Delete a database in quarantine for good. Raises `OSError`."""
    shutil.rmtree(folder)


def fingerprint(folder: Path) -> dict[str, list[int]]:
    """The sizes and times of a database's files, to detect a change; a file that does not exist is left out."""
    found = {}
    for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal"):
        with suppress(FileNotFoundError):
            status = (folder / name).stat()
            found[name] = [status.st_size, status.st_mtime_ns]
    return found


def was_imported(folder: Path) -> bool:
    """Whether the database in this directory was imported, according to its mark, and has not changed since."""
    try:
        done = json.loads((folder / IMPORTED_NAME).read_text("utf-8"))
        return bool(done["files"] == fingerprint(folder))
    except FileNotFoundError:
        return _was_imported_before_6(folder)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _was_imported_before_6(folder: Path) -> bool:
    """Marks from before schema version 6 have no fingerprint: they are valid unless a file was written later."""
    try:
        marked_at = (folder / OLD_IMPORTED_NAME).stat().st_mtime_ns
    except OSError:
        return False
    return all(changed_at <= marked_at for _, changed_at in fingerprint(folder).values())


def _folders(directory: Path) -> list[Path]:
    """The quarantine directories, ordered by the time in their names."""
    prefixes = (QUARANTINE_PREFIX, OLD_QUARANTINE_PREFIX)
    folders = [folder for prefix in prefixes for folder in directory.glob(f"{prefix}*") if folder.is_dir()]
    return sorted(folders, key=lambda folder: folder.name.partition("-")[2])


def _described(folder: Path) -> QuarantinedDatabase:
    reason = folder / REASON_NAME
    text = reason.read_text("utf-8", "replace").strip() if reason.exists() else ""
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return QuarantinedDatabase(folder, text, size, was_imported(folder))


def _new_folder(directory: Path, time: str) -> Path:
    for name in _numbered(f"{QUARANTINE_PREFIX}{time}"):
        folder = directory / name
        if not folder.exists():
            folder.mkdir(mode=0o700)
            return folder
    raise AssertionError("unreachable: there are infinitely many names")


def _numbered(first: str) -> Iterator[str]:
    """Names with a number: two moves within a second need two names."""
    yield first
    number = 2
    while True:
        yield f"{first}-{number}"
        number += 1


def _move(directory: Path, folder: Path) -> None:
    for name in _PARTS:
        if (directory / name).exists():
            (directory / name).rename(folder / name)
    _sync(folder)
    _sync(directory)
    (folder / MOVING_NAME).rename(folder / REASON_NAME)
    _sync(folder)


def _sync(directory: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
