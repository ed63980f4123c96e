"""Which calls are open: a `call_started` came and its `call_ended` did not. A stop can wait for these."""

STARTED = "call_started"
ENDED = "call_ended"
_MOST = 10_000
_OLDEST = 4 * 3600 * 1000
"""Milliseconds; no call is remembered for longer."""


class OpenCalls:
    """Counts open calls, as far as this process saw them begin. Times in milliseconds since the epoch."""

    def __init__(self) -> None:
        self._started: dict[str, int] = {}
        self.last_post_at: int | None = None
        """When a call log was last accepted; None before the first."""

    def accepted(self, call_id: str, event: str, now: int) -> None:
        """A call log is durable; the oldest open call is forgotten when there are too many."""
        self.last_post_at = now
        if event == STARTED:
            self._started.pop(call_id, None)
            self._started[call_id] = now
            if len(self._started) > _MOST:
                del self._started[next(iter(self._started))]
        elif event == ENDED:
            self._started.pop(call_id, None)

    def open_calls(self, now: int, max_age: int = _OLDEST) -> int:
        """How many calls are open; one that began more than `max_age` ago has lost its end, and is forgotten."""
        for call_id, started in list(self._started.items()):
            if now - started <= max_age:
                break
            del self._started[call_id]
        return len(self._started)
