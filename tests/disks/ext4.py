"""A disk whose power can be cut: a loop-mounted ext4, shut down by its own ioctl without flushing its log.

What was synced is there after the next mount, what was not is gone, and everything between answers EIO.
"""

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

from tests.disks.mounting import unmount

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
