"""What is to be heard of objects, whichever way they went, for metrics."""

from typing import Protocol


class ObjectObserver(Protocol):
    """Hears of objects that a storage took."""

    def object_delivered(self, destination: str, size: int, seconds: float, *, large: bool) -> None:
        """An object of so many bytes was sent and confirmed; `large` says that it was a delivery of the detail lane."""
        ...
