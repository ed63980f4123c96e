"""Whether an answer means that the disk has it: counted by strace, while nothing else is going on."""

import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.intake import post
from bench.peers.trees import family
from bench.processes import wait_until

POSTS = 25
_CALL = re.compile(r"\b(?:fsync|fdatasync|msync|sync_file_range)\(")
_ATTACH_SECONDS = 20.0


def syncs_per_post(roots: Sequence[int], port: int, body: Path, folder: Path) -> float | None:
    """How often the trees sync a file for each of some posts, sent one after the other; None without strace.

    No worker may run: what delivering syncs says nothing about the answer.
    """
    strace = shutil.which("strace")
    if strace is None:
        return None
    trace, told = folder / "strace.txt", folder / "strace.err"
    command = [strace, "-f", "-e", "trace=fsync,fdatasync,msync,sync_file_range", "-o", str(trace)]
    every = family(roots)
    for process in every:
        command += ["-p", str(process.pid)]
    with told.open("wb") as errors:
        tracing = subprocess.Popen(command, stderr=errors, stdin=subprocess.DEVNULL)
    try:
        wait_until(
            lambda: tracing.poll() is not None or _attached(told, len(every)), "strace is attached", _ATTACH_SECONDS
        )
        if tracing.poll() is not None:
            return None
        measured = post(port, [body], connections=1, seconds=30, warmup=0, max_posts=POSTS)
    finally:
        tracing.send_signal(signal.SIGINT)
        tracing.wait()
    return len(_CALL.findall(trace.read_text(errors="replace"))) / max(1, measured.posts)


def _attached(told: Path, processes: int) -> bool:
    """Whether strace says that it follows so many processes."""
    return told.read_text(errors="replace").count("attached") >= processes
