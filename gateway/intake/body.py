"""A body: what a request carried, in memory within the budget or in a staging file, and given back when done."""

from mmap import mmap

from gateway.intake.budget import SMALL_POST_BYTES, Reservation
from gateway.intake.staging import Staged, StagedFile


class Body:
    """The bytes of one posted document, decoded.

    `data` is valid until `release`; views into it that others still hold stay valid after it, but are counted
    nowhere then. `staged` takes what must be written beside it; a small body has none. `file` is the one that `data`
    is a map of, if it is.
    """

    __slots__ = ("_reservation", "data", "file", "staged")

    def __init__(
        self,
        data: bytes | bytearray | memoryview,
        reservation: Reservation | None,
        staged: Staged | None,
        file: StagedFile | None = None,
    ) -> None:
        self.data = data
        self.staged = staged
        self.file = file
        self._reservation = reservation

    @property
    def small(self) -> bool:
        """Whether it can be looked at on the event loop: 64 KiB parse in less than 0.1 ms."""
        return len(self.data) <= SMALL_POST_BYTES

    def become(self, decoded: "Body") -> None:
        """Hold what was decoded from this body instead of it."""
        self.release()
        self.data = decoded.data
        self.staged = decoded.staged
        self.file = decoded.file
        self._reservation = decoded._reservation

    def scratch(self, size: int) -> bytearray | mmap:
        """A writable buffer of `size` bytes that lives as long as this body. For worker threads, unless small.

        A file, unless the body is small: the budget has no room for a second copy of it.
        """
        return bytearray(size) if self.small or self.staged is None else self.staged.scratch(size)

    def new_file(self, size: int) -> StagedFile:
        """A file of `size` bytes that lives as long as this body, which must not be small. For worker threads."""
        assert self.staged is not None, "only a small body has nothing staged"
        return self.staged.new_file(size)

    def release(self) -> None:
        """Give back memory and files; harmless when repeated."""
        self.data = b""
        self.file = None
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None
        if self.staged is not None:
            self.staged.discard()
            self.staged = None
