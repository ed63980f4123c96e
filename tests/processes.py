"""What processes of this machine use, and which run."""

import os
from contextlib import suppress

import psutil


def cpu_seconds(pid: int | None = None) -> float:
    """What a process, or this one, and its children have used so far, those that ended among them."""
    root = psutil.Process(pid)
    times = root.cpu_times()
    used = times.user + times.system + times.children_user + times.children_system
    for child in root.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            used += sum(child.cpu_times()[:2])
    return used


def open_descriptors() -> set[str]:
    """Those of this process, the one that looks among them."""
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names are all there is


def children_that_run(module: str) -> list[psutil.Process]:
    """The children of this process that run this module."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            found += [child] if module in child.cmdline() else []
    return found
