"""A body on its way from the socket into the memory that is reserved for it, past the HTTP parser: copied by nobody."""

import asyncio
from collections.abc import Callable

from gateway.intake.doorway import READ_MOST
from gateway.intake.refusals import stalled

PROGRESS_BYTES = 64 * 1024
"""What a body must advance by within each progress timeout; a client below 6.5 KB/s would hold memory for hours."""


class Filling:
    """A buffer that is filled. For one reader."""

    __slots__ = ("_full", "_left", "_on_full")

    def __init__(self, buffer: memoryview, on_full: Callable[[], None]) -> None:
        """`buffer` is not empty. `on_full` is called before anything else is read."""
        self._left = buffer
        self._on_full = on_full
        self._full = asyncio.get_running_loop().create_future()

    @property
    def room(self) -> memoryview:
        """Where to read to next."""
        return self._left[:READ_MOST]

    def add(self, byte_count: int) -> None:
        """So much was read into its room."""
        self._left = self._left[byte_count:]
        if not self._left:
            self._on_full()
            self._full.set_result(None)

    def end(self, error: Exception) -> None:
        """Nothing more will come."""
        if not self._full.done():
            self._full.set_exception(error)

    async def filled(self, progress_timeout: float) -> None:
        """Wait until it is full. Raises `Refusal` (408) when it does not advance, and what it was ended with."""
        while not self._full.done():
            left = len(self._left)
            await asyncio.wait((self._full,), timeout=progress_timeout)
            if not self._full.done() and left - len(self._left) < PROGRESS_BYTES:
                raise stalled(progress_timeout)
        self._full.result()
