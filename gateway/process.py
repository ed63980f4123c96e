"""What this process is to the machine: its priority, descriptors, signals and children, and what systemd hears of it.

The niceness and the I/O priority are set before this process has any threads: on Linux both belong to a thread and
are inherited by those that it starts, so a thread that is there already would keep its own. A setting that the system
refuses is logged, and the gateway runs on without it.
"""

import asyncio
import contextlib
import functools
import os
import resource
import signal
import socket
import sys
import threading
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import structlog
import uvloop

_log = structlog.get_logger("callspool")


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
"""For files, deliveries and the admin listener; of a very low limit, half."""


def raise_limit() -> None:
    """Allow this process as many as it may allow itself: the usual soft limit of 1024 is there for old programs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_possible() -> int:
    """How many connections can be open besides everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft - min(_KEPT_BACK, soft // 2)


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
        send_signal(process, signal.SIGKILL)
        await ended


def send_signal(process: Process, number: signal.Signals) -> None:
    """Send a signal to a child that has not ended.

    `Process.send_signal` and `Process.kill` reap a child that has just ended: asyncio, which waits for it in a thread,
    then misses its end, and says so on standard error.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


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
    return any(Path(word).name in {"callspool", "gateway.cli", "gateway.chaos.harness"} for word in command)


# Signals: what would end this process drains it first.

_THREAD_STACK_BYTES = 8 << 20
"""Whatever the C library or a limit of the system says: Python 3.13 decodes 10,000 levels of JSON, in up to 4 MB."""


def run_to_the_end(program: Coroutine[Any, Any, int]) -> int:
    """Run a program whose signals `on_signals` handles, in a loop of its own; returns its exit code.

    From then on those signals are ignored: the process is about to end, with that code.
    """
    threading.stack_size(_THREAD_STACK_BYTES)
    try:
        return uvloop.run(program)
    finally:
        for number in signal_handling(at_a_terminal=False):
            signal.signal(number, signal.SIG_IGN)


def on_signals(
    told_to_stop: asyncio.Event,
    hurried: asyncio.Event,
    reload: Callable[[], None] | None = None,
    *,
    at_a_terminal: bool,
) -> None:
    """Let the first signal that stops this process set `told_to_stop`, and a second one `hurried`.

    SIGHUP calls `reload`, unless it is ignored or means that the terminal is gone. The handlers are not the loop's,
    which would take them away when it is closed, and leave what is still to be done to the default: the end.
    """
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        _log.info("signal", signal=number.name)
        (hurried if told_to_stop.is_set() else told_to_stop).set()

    def in_loop(number: int, _frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(reactions[signal.Signals(number)])

    reactions: dict[signal.Signals, Callable[[], None]] = {}
    for number, handling in signal_handling(at_a_terminal=at_a_terminal).items():
        reactions[number] = functools.partial(stop if handling else _ignore_signal, number)
        if number is signal.SIGHUP and not handling and reload is not None:
            reactions[number] = reload
        signal.signal(number, in_loop)
        signal.siginterrupt(number, False)


def signal_handling(*, at_a_terminal: bool) -> dict[signal.Signals, bool]:
    """For each signal that would end the process without a drain: whether it shuts down gracefully, or is ignored.

    SIGHUP means that the terminal is gone, and to a daemon that it should read its configuration again (`on_signals`).
    What is ignored already stays so, such as SIGHUP under nohup.
    """
    handling = {
        signal.SIGQUIT: True,
        signal.SIGXCPU: True,
        signal.SIGHUP: at_a_terminal,
        signal.SIGUSR1: False,
        signal.SIGUSR2: False,
        signal.SIGALRM: False,
        signal.SIGVTALRM: False,
        signal.SIGPROF: False,
        signal.SIGIO: False,
    }
    if sys.platform == "linux":
        handling |= {signal.SIGPWR: True, signal.SIGSTKFLT: False}
    kept = {number: drains for number, drains in handling.items() if signal.getsignal(number) is not signal.SIG_IGN}
    # A shell ignores SIGINT for what it starts in the background, and yet somebody may send it on purpose.
    return {signal.SIGTERM: True, signal.SIGINT: True, **kept}


def _ignore_signal(number: signal.Signals) -> None:
    hint = "SIGHUP reloads the settings; SIGTERM shuts down gracefully"
    _log.warning("signal_ignored", signal=number.name, hint=hint)


# What systemd hears of this process: one datagram for each state, at the socket that `NOTIFY_SOCKET` names.
#
# The protocol is that of `sd_notify(3)`: lines of `NAME=value`. Beats of the watchdog are sent by the event loop, so
# that systemd restarts a process whose loop hangs; before it is ready, they ask for more time to start, since moving a
# large spool to a newer schema takes minutes. Without that variable nothing is sent.

BEAT_SECONDS = 10.0
"""How often the status is looked at; with a watchdog at least twice in its time."""
_SEND_SECONDS = 0.2
"""How long the event loop may wait for a systemd that does not read."""


class Systemd:
    """The service manager of this process; one that does nothing where there is none."""

    def __init__(self, address: str | None = None, watchdog_seconds: float | None = None) -> None:
        self._address = address
        self._watchdog = watchdog_seconds is not None
        self._every = min(BEAT_SECONDS, (watchdog_seconds or BEAT_SECONDS) / 2)
        self._ready = False
        self._stopping = False
        self._status: str | None = None
        self._failing = False

    def ready(self) -> None:
        """Posts are accepted; what systemd starts after this unit may start."""
        self._ready = True
        self._send("READY=1")

    def reloading(self) -> None:
        """Settings are being read again; `ready` ends it, applied or not."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """A shutdown has begun: from now on the unit's `TimeoutStopSec` counts."""
        self._stopping = True
        self._send("STOPPING=1")

    @contextlib.asynccontextmanager
    async def kept_informed(self, status: Callable[[], str]) -> AsyncIterator[None]:
        """Send what `status` says, in one line, whenever it has changed, and beats of the watchdog."""
        if self._address is None:
            yield
            return
        beating = asyncio.create_task(self._beat(status))
        try:
            yield
        finally:
            beating.cancel()

    async def _beat(self, status: Callable[[], str]) -> None:
        while True:
            lines = ["WATCHDOG=1"] if self._watchdog else []
            if not self._ready and not self._stopping:
                lines.append(f"EXTEND_TIMEOUT_USEC={round(4 * self._every * 1_000_000)}")
            said = " ".join(status().split())
            if said != self._status:
                lines.append(f"STATUS={said}")
                self._status = said
            if lines:
                self._send("\n".join(lines))
            await asyncio.sleep(self._every)

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # A leading @ stands for the zero byte of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_SECONDS)
                sender.sendto(message.encode(errors="backslashreplace"), address)
            self._failing = False
        except OSError as error:
            if not self._failing:  # systemd restarts whom it does not hear of
                _log.warning("systemd_unreachable", socket=self._address, reason=str(error), message=message)
            self._failing = True


def systemd_of(environment: MutableMapping[str, str]) -> Systemd:
    """The service manager that started this process. Its variables are removed: they are not for children."""
    address = environment.pop("NOTIFY_SOCKET", None) or None
    watchdog = _watchdog_seconds(environment)
    environment.pop("WATCHDOG_USEC", None)
    environment.pop("WATCHDOG_PID", None)
    if address is not None and address[0] not in "/@":
        _log.warning("systemd_unreachable", socket=address, reason="neither a path nor an abstract address")
        address = None
    return Systemd(address, watchdog)


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """The time of the watchdog, where it is meant for this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1_000_000 if microseconds.isdecimal() and int(microseconds) else None
