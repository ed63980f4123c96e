"""What is to be heard of uploads, for metrics and logs."""

from typing import Protocol

from uploaders.object_observer import ObjectObserver


class S3Observer(ObjectObserver, Protocol):
    """Hears what the uploader does. Sizes in bytes, durations in seconds."""

    def part_sent(self, destination: str, size: int, seconds: float, *, repeated: bool) -> None:
        """A part arrived; `repeated` says that it was begun before, by an attempt that did not see its end."""
        ...

    def parts_resumed(self, destination: str, count: int) -> None:
        """An upload went on: so many parts were there already and were not sent again."""
        ...

    def uploads_aborted(self, destination: str, count: int, *, failed: int) -> None:
        """So many uploads that nobody will complete were aborted at the server; others could not be, so far."""
        ...

    def read_back(self, destination: str, size: int) -> None:
        """The server told nothing that proves an object, so it was read back."""
        ...


class SilentObserver:
    """Tells nobody."""

    def part_sent(self, destination: str, size: int, seconds: float, *, repeated: bool) -> None:
        """Nothing."""

    def parts_resumed(self, destination: str, count: int) -> None:
        """Nothing."""

    def object_delivered(self, destination: str, size: int, seconds: float, *, large: bool) -> None:
        """Nothing."""

    def uploads_aborted(self, destination: str, count: int, *, failed: int) -> None:
        """Nothing."""

    def read_back(self, destination: str, size: int) -> None:
        """Nothing."""
