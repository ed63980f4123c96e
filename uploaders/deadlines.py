"""The time-outs of one request: which phase it is in, how long that may take, and which one struck.

    CONNECT ─▶ SEND ─▶ FIRST_BYTE ─▶ ANSWER        each but the last with a time-out of its own
    └────────────────── total ──────────────────┘

A phase never comes back: an answer may begin while the request is still being sent.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from types import TracebackType
from typing import Self


class Phase(IntEnum):
    """What a request waits for."""

    CONNECT = 0
    """A connection: name, TCP, proxy and TLS."""
    SEND = 1
    """The peer to take more of the request."""
    FIRST_BYTE = 2
    """The answer to begin: its status and all of its headers, since these may trickle too."""
    ANSWER = 3
    """The rest of the answer."""


_LONGEST_TIMER_SECONDS = 60.0
"""While a wait of our own suspends everything, there is no deadline; so often it is looked for one again."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a request may take, in seconds."""

    connect: float = 10.0
    """Until there is a connection, TLS and proxy included."""
    send: float = 20.0
    """Without the peer taking any more of the request."""
    first_byte: float = 45.0
    """From the end of the request to the status and headers of the answer."""
    total: float = 120.0
    """All of it, but for the time that a bandwidth limit made it wait."""
    total_name: str = "total_timeout"
    """What the configuration calls the bound of all of it."""


class TimedOut(TimeoutError):
    """A time-out struck; `setting` is what the configuration calls it, `seconds` its value."""

    def __init__(self, phase: Phase, setting: str, seconds: float) -> None:
        super().__init__(setting)
        self.phase = phase
        """The phase in which it struck."""
        self.setting = setting
        self.seconds = seconds


class Deadlines:
    """Watches one request, as a context around it: raises `TimedOut` from the block when a time-out strikes.

    One timer serves all phases: when it ends, it is set anew if the deadline has moved on meanwhile, as almost always.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._limits = {
            Phase.CONNECT: ("connect_timeout", timeouts.connect),
            Phase.SEND: ("send_timeout", timeouts.send),
            Phase.FIRST_BYTE: ("first_byte_timeout", timeouts.first_byte),
        }
        self._total = (timeouts.total_name, timeouts.total)
        self._loop = asyncio.get_running_loop()
        self._phase = Phase.CONNECT
        now = self._loop.time()
        self._end = now + timeouts.total
        self._phase_end = now + timeouts.connect
        self._due = min(self._end, self._phase_end)
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ends = 0.0

    def begin(self, phase: Phase) -> None:
        """The request has come to this phase; in SEND, the peer has taken some more. Earlier phases are passed over."""
        if phase >= self._phase:
            self._phase = phase
            _, seconds = self._limits.get(phase, self._total)
            self._phase_end = self._loop.time() + seconds
            self._move(min(self._end, self._phase_end))

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """For a wait that is our own: no time-out strikes in it, and it counts for none."""
        began = self._loop.time()
        self._move(inf)
        try:
            yield
        finally:
            waited = self._loop.time() - began
            self._end += waited
            self._phase_end += waited
            self._move(min(self._end, self._phase_end))

    async def __aenter__(self) -> Self:
        """Begin to watch."""
        await self._timeout.__aenter__()
        self._set_timer()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say which time-out struck, if one did."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as expired:
            in_all = self._phase not in self._limits or self._end <= self._phase_end
            setting, seconds = self._total if in_all else self._limits[self._phase]
            raise TimedOut(self._phase, setting, seconds) from expired

    def _move(self, due: float) -> None:
        """From now on this is the deadline."""
        self._due = due
        if due < self._timer_ends and self._timer is not None:
            self._timer.cancel()
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer_ends = min(self._due, self._loop.time() + _LONGEST_TIMER_SECONDS)
        self._timer = self._loop.call_at(self._timer_ends, self._look)

    def _look(self) -> None:
        """The timer ended: strike, or wait for a deadline that lies later now."""
        if self._due > self._loop.time():
            self._set_timer()
        else:
            self._timer = None
            self._timeout.reschedule(self._due)
