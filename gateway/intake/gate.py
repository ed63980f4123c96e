"""The gate of the intake: whether posts are let in at the moment, and how many are being worked on."""

import asyncio

from gateway.intake.refusals import stopping


class Gate:
    """Shut until `open`, shut again by `close`. For the event loop."""

    def __init__(self) -> None:
        self._open = False
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def is_open(self) -> bool:
        """Whether posts are let in."""
        return self._open

    @property
    def inside(self) -> int:
        """Requests that are being worked on."""
        return self._inside

    def open(self) -> None:
        """Let posts in."""
        self._open = True

    def close(self) -> None:
        """Let nobody in any more; those inside go on."""
        self._open = False

    async def emptied(self) -> None:
        """Wait until nobody is inside."""
        await self._empty.wait()

    def check(self) -> None:
        """Return if posts are let in; raises `Refusal` (503) otherwise."""
        if not self._open:
            raise stopping()

    def enter(self) -> None:
        """A request begins, whether it will be let in or not."""
        self._inside += 1
        self._empty.clear()

    def leave(self) -> None:
        """That request has its answer."""
        self._inside -= 1
        if not self._inside:
            self._empty.set()
