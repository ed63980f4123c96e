"""Which calls are live: a `call_started` came and its `call_ended` did not.

A stop can wait for these, and details make room for them. Every answer but the count takes constant time; a start
learns from the spool which calls began before it.
"""

from collections.abc import Iterable

STARTED = "call_started"
ENDED = "call_ended"
MOST = 10_000
OLDEST = 4 * 3600 * 1000
"""Milliseconds; no call is remembered for longer."""


class OpenCalls:
    """Counts live calls. Times in milliseconds since the epoch."""

    def __init__(self, began: Iterable[tuple[str, int]] = ()) -> None:
        """`began`: the calls that are live at a start and when they began, the oldest first."""
        self._started: dict[str, int] = dict(began)
        self.last_post_at: int | None = None
        """When a call log was last accepted; None before the first."""

    def accepted(self, call_id: str, event: str, now: int) -> None:
        """A call log is durable; the oldest live call is forgotten when there are too many."""
        self.last_post_at = now
        if event == STARTED:
            self._started.pop(call_id, None)
            self._started[call_id] = now
            if len(self._started) > MOST:
                del self._started[next(iter(self._started))]
        elif event == ENDED:
            self._started.pop(call_id, None)

    def any_live(self, now: int, max_age: int) -> bool:
        """Whether a call is live that began at most `max_age` ago."""
        newest = next(reversed(self._started.values()), None)
        return newest is not None and now - newest <= max_age

    def open_calls(self, now: int, max_age: int = OLDEST) -> int:
        """How many calls are live; one that began more than `max_age` ago has lost its end."""
        for call_id, started in list(self._started.items()):
            if now - started <= OLDEST:
                break
            del self._started[call_id]
        return sum(1 for started in self._started.values() if now - started <= max_age)
