"""Who hears of commits, for metrics."""

from typing import Protocol


class CommitObserver(Protocol):
    """Hears of every durable commit that changed something, on the event loop."""

    def committed(self, seconds: float, batch: int) -> None:
        """A transaction with `batch` operations took `seconds` from BEGIN to the end of its fsync."""
        ...
