"""What systemd hears of this process: one datagram for each state, at the socket that `NOTIFY_SOCKET` names.

The protocol is that of `sd_notify(3)`: lines of `NAME=value`. Beats of the watchdog are sent by the event loop, so
that systemd restarts a process whose loop hangs; before it is ready, they ask for more time to start, since moving a
large spool to a newer schema takes minutes. Without that variable nothing is sent.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping

import structlog

BEAT_SECONDS = 10.0
"""How often the status is looked at; with a watchdog at least twice in its time."""
_SEND_SECONDS = 0.2
"""How long the event loop may wait for a systemd that does not read."""

_log = structlog.get_logger("callspool")


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
                sender.sendto(message.encode(), address)
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
