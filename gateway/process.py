"""What this process is to the machine: its priority, its file descriptors, and how it ends children.

The niceness and the I/O priority are set before this process has any threads: on Linux both belong to a thread and
are inherited by those that it starts, so a thread that is there already would keep its own. A setting that the system
refuses is logged, and the gateway runs on without it.
"""

import asyncio
import contextlib
import os
import resource
from asyncio.subprocess import Process
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Priority:
    """What to set; None leaves it as it is."""

    nice: int | None = None
    """0 to 19."""
    io_class: str | None = None
    """`best_effort` or `idle`."""
    io_level: int | None = None
    """0 to 7, with `best_effort`."""


def give_way(priority: Priority) -> Iterator[str]:
    """Set it; yields a sentence for each thing that could not be set, and why."""
    if priority.nice is not None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, priority.nice)
        except OSError as error:
            yield (
                f"priority.nice = {priority.nice} cannot be set ({error.strerror}): a process may only become nicer "
                f"than it is, which is {os.getpriority(os.PRIO_PROCESS, 0)}; start it with less, or leave this out"
            )
    if priority.io_class is not None:
        refused = _set_io(priority.io_class, priority.io_level)
        if refused is not None:
            yield f"priority.io_class = {priority.io_class} cannot be set ({refused}): leave it out here"


def _set_io(io_class: str, level: int | None) -> str | None:
    """Why the I/O priority could not be set; None where it is."""
    if not hasattr(psutil, "IOPRIO_CLASS_BE"):
        return "this system has no I/O priorities"
    kinds = {"best_effort": psutil.IOPRIO_CLASS_BE, "idle": psutil.IOPRIO_CLASS_IDLE}
    try:
        psutil.Process().ionice(kinds[io_class], level)
    except (OSError, psutil.Error) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


# File descriptors: each connection needs one, and so do the spool and each delivery.

_KEPT_BACK = 256
"""For files, deliveries and the admin listener; of a very low limit, a quarter."""


def raise_limit() -> None:
    """Allow this process as many as it may allow itself: the usual soft limit of 1024 is there for old programs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_possible() -> int:
    """How many connections can be open besides everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft - min(_KEPT_BACK, soft // 4)


# Children that were started with pipes.

_PIECE_BYTES = 1 << 16


async def end_process(process: Process, *, grace: float = 0.0) -> None:
    """Close the input of a child and wait until it has ended; after `grace` seconds it is killed.

    What it still writes is read and dropped. As long as something lies in its output, that pipe stays open, so each
    such child would cost a descriptor; before Python 3.12.4 asyncio's `Process.wait` does not even return.
    """
    if process.stdin is not None:
        process.stdin.close()
    ended = asyncio.create_task(_read_out(process))
    try:
        await asyncio.wait({ended}, timeout=grace)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                process.kill()
        await ended


async def _read_out(process: Process) -> None:
    with contextlib.suppress(RuntimeError):  # whoever is reading already reads to the end
        while process.stdout is not None and await process.stdout.read(_PIECE_BYTES):
            pass
    await process.wait()


def port_owner(port: int) -> str | None:
    """The process that listens at a TCP port of this machine; None where nobody does, or the system does not say."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr
            if listens and listens.port == port and connection.pid:
                process = psutil.Process(connection.pid)
                name = "another callspool" if _runs_callspool(process.cmdline()) else process.name()
                return f"{name} (process {connection.pid})"
    return None


def _runs_callspool(command: Iterable[str]) -> bool:
    """Whether a command line starts a gateway, by its script or as a module."""
    return any(Path(word).name in {"callspool", "gateway.cli", "gateway.cli.chaos_gateway"} for word in command)
