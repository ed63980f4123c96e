"""File systems that a test mounts, one whose power can be cut among them; a test that may not mount is skipped."""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.processes import wait_until

LET_GO_SECONDS = 20.0
"""For threads and processes that were told to end."""


@contextmanager
def mounted(folder: Path, *arguments: str | Path) -> Iterator[Path]:
    """`mount` with these arguments onto `folder`, which is made; unmounted afterwards, whatever it came to."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, folder], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Unmount, as soon as the threads and processes of a test that ended have let go of its files."""

    def done() -> bool:
        return not subprocess.run(["umount", folder], check=False, capture_output=True).returncode

    try:
        wait_until(done, f"nobody uses {folder}", LET_GO_SECONDS)
    except TimeoutError as error:
        error.add_note(f"in use: {sorted(users_of(folder))}")
        subprocess.run(["umount", "--lazy", folder], check=True)
        raise


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory with these options, such as `size=24m`."""
    with mounted(folder, "-t", "tmpfs", "-o", options, "tmpfs") as disk:
        yield disk


def remount(disk: Path, options: str) -> None:
    """Change the options of what is mounted."""
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def users_of(folder: Path) -> Iterator[str]:
    """Processes with what they have open or mapped below a folder."""
    for process in Path("/proc").glob("[0-9]*"):
        for link in [*process.glob("fd/*"), process / "cwd"]:
            with contextlib.suppress(OSError, ValueError):
                yield f"{process.name}: {link.readlink().relative_to(folder)}"
        with contextlib.suppress(OSError):
            if str(folder) in (process / "maps").read_text():
                yield f"{process.name}: something mapped"


# A disk whose power can be cut: a loop-mounted ext4, shut down by its own ioctl without flushing its log.
#
# What was synced is there after the next mount, what was not is gone, and everything between answers EIO.


SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN, an _IOR('X', 125, __u32)."""
WITHOUT_LOG_FLUSH = 2


@dataclass(frozen=True)
class PowerCutDisk:
    """`folder` is where its files are while it is on."""

    folder: Path
    image: Path

    def cut(self) -> None:
        """Cut the power: nothing more reaches the disk. Whoever uses it should be killed then."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def on(self) -> None:
        """Switch it on again: what its journal says is replayed."""
        unmount(self.folder)
        subprocess.run(["mount", "-o", "loop", self.image, self.folder], check=True)


@contextmanager
def power_cut_disk(base: Path, size: int) -> Iterator[PowerCutDisk]:
    """A disk of `size` bytes that is on; the test is skipped, and says so, where there can be none."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("a disk whose power can be cut needs root and mkfs.ext4")
    disk = PowerCutDisk(base / "disk", base / "image")
    disk.folder.mkdir(parents=True)
    with disk.image.open("wb") as image:
        image.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", disk.image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", disk.image, disk.folder], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        unmount(disk.folder)
