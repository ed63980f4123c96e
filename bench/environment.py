"""Where a measurement was made: figures of two machines, or of two disks, must not be compared by accident."""

import os
import platform
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from bench.ceiling import loop_of_the_gateway

_IN_MEMORY = {"tmpfs", "ramfs"}


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine, the disk, and the versions."""

    python: str
    system: str
    processors: int
    memory_bytes: int
    file_system: str
    fsync_ms: float
    """The median of 100 small writes that were each followed by fsync; every commit waits for at least one."""
    event_loop: str
    packages: dict[str, str]
    commit: str


def file_system(folder: Path) -> str:
    """The type of the file system that holds this existing folder, such as ext4; "unknown" where none tells."""
    holding = [part for part in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(part.mountpoint)]
    return max(holding, key=lambda part: len(part.mountpoint)).fstype if holding else "unknown"


def on_disk(folder: Path) -> bool:
    """Whether an fsync in this folder reaches a disk; in memory it costs nothing and the figures are worthless."""
    return file_system(folder) not in _IN_MEMORY


def fsync_ms(folder: Path) -> float:
    """How long this disk takes to make 4 KB durable, in ms."""
    with tempfile.TemporaryFile(dir=folder) as file:
        durations = []
        for _ in range(100):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            durations.append((time.perf_counter() - began) * 1e3)
    return statistics.median(durations)


def describe(folder: Path) -> Environment:
    """What there is to know about the machine, with this folder as the place of the spools."""
    return Environment(
        python=platform.python_version(),
        system=platform.platform(),
        processors=os.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
        file_system=file_system(folder),
        fsync_ms=fsync_ms(folder),
        event_loop=loop_of_the_gateway(),
        packages={name: _version(name) for name in ("aiohttp", "msgspec", "zstandard", "isal")},
        commit=_commit(),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
