"""Mounting what a test needs; where that is not allowed the test is skipped, and says so."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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
