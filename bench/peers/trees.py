"""What several process trees use together: CPU time, and the most memory at any moment."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

import psutil

_INTERVAL_SECONDS = 0.1


def family(roots: Sequence[int]) -> list[psutil.Process]:
    """The processes and all that they started."""
    every: dict[int, psutil.Process] = {}
    for pid in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                every[process.pid] = process
    return list(every.values())


def cpu_seconds(roots: Sequence[int]) -> float:
    """CPU time of the trees since they were started, in the user's and the system's code, in seconds."""
    total = 0.0
    for process in family(roots):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def resident_bytes(roots: Sequence[int]) -> int:
    """Resident memory of the trees, what they share counted in each."""
    total = 0
    for process in family(roots):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


class Peak:
    """The most memory that was seen while it was watched."""

    def __init__(self) -> None:
        self.bytes = 0


@contextlib.contextmanager
def watched(roots: Sequence[int]) -> Iterator[Peak]:
    """Watch the memory of the trees until the block ends."""
    peak, ended = Peak(), threading.Event()

    def watch() -> None:
        """Sample until the end."""
        while not ended.wait(_INTERVAL_SECONDS):
            peak.bytes = max(peak.bytes, resident_bytes(roots))

    thread = threading.Thread(target=watch, name="peak of trees", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
