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
    """The server to read more of the request."""
    FIRST_BYTE = 2
    """The response to begin: its status and all of its headers, since these may trickle too."""
    ANSWER = 3
    """The rest of the response."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a request may take, in seconds."""

    connect: float = 10.0
    """Until there is a connection, TLS and proxy included."""
    send: float = 20.0
    """Without the server reading any more of the request."""
    first_byte: float = 45.0
    """From the end of the request to the status and headers of the response."""
    total: float = 120.0
    """The whole request, without the time that it waited for the rate limit."""
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


class Watch:
    """One timer for all requests of an event loop: a timer for each would take longer than sending it.

    It ends when the first deadline is due, which mostly lies later by then; only then the next one is looked for.
    """

    def __init__(self) -> None:
        self._watched: set[Deadlines] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.ends = inf
        """When the timer ends; nothing need be said of what is due later."""

    def add(self, deadlines: "Deadlines") -> None:
        """Watch this request until it is discarded."""
        self._watched.add(deadlines)
        self.look_at(deadlines.due)

    def discard(self, deadlines: "Deadlines") -> None:
        """It is watched no more."""
        self._watched.discard(deadlines)

    def look_at(self, due: float) -> None:
        """A deadline of what is watched is due then, on the event loop's clock."""
        if due < self.ends:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(due, self._strike)
            self.ends = due

    def _strike(self) -> None:
        """Strike what is due, and wait for the next."""
        self._timer, self.ends = None, inf
        now = asyncio.get_running_loop().time()
        for deadlines in tuple(self._watched):
            if deadlines.due <= now:
                deadlines.strike()
        self.look_at(min((deadlines.due for deadlines in self._watched if deadlines.due > now), default=inf))


class Deadlines:
    """Watches one request, as a context around it: raises `TimedOut` from the block when a time-out strikes."""

    def __init__(self, timeouts: Timeouts, watch: Watch) -> None:
        self._seconds = (timeouts.connect, timeouts.send, timeouts.first_byte, timeouts.total)
        self._settings = ("connect_timeout", "send_timeout", "first_byte_timeout", timeouts.total_name)
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._phase = Phase.CONNECT
        now = self._loop.time()
        self._end = now + timeouts.total
        self._phase_end = now + timeouts.connect
        self.due = min(self._end, self._phase_end)
        """When a time-out strikes, on the event loop's clock."""
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._struck = False

    def begin(self, phase: Phase) -> None:
        """The request is in this phase now; in SEND, the server has read some more. Earlier phases are ignored."""
        if phase >= self._phase:
            self._phase = phase
            self._phase_end = self._loop.time() + self._seconds[phase]
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

    def strike(self) -> None:
        """The deadline is over: the block is cancelled, as `asyncio.timeout` does it."""
        if self._task is not None and not self._struck:
            self._struck = True
            self._task.cancel()

    def __enter__(self) -> Self:
        """Begin to watch the task that is running."""
        self._task = asyncio.current_task()
        assert self._task is not None, "a request is made by a task"
        self._cancelling = self._task.cancelling()
        self._watch.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say which time-out struck, if one did and nobody else cancelled the task meanwhile."""
        self._watch.discard(self)
        task, self._task = self._task, None
        if not self._struck or task is None:
            return
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            phase = Phase.ANSWER if self._end <= self._phase_end else self._phase
            raise TimedOut(self._phase, self._settings[phase], self._seconds[phase]) from error

    def _move(self, due: float) -> None:
        """From now on this is the deadline."""
        self.due = due
        if due < self._watch.ends:
            self._watch.look_at(due)
