"""Connections that wait for their next request, by the server that they lead to."""

import asyncio
import time
from collections import defaultdict

from uploaders.wire import Wire

KEEP_ALIVE_SECONDS = 4.0
"""Shorter than the 5 s after which Node servers close an idle connection: a POST on a closed one would fail."""


class IdleWires:
    """The one used last is taken first, so that those which are not needed grow old and are closed."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, list[tuple[float, Wire]]] = defaultdict(list)
        """Of each server the one used last at the end."""
        self._sweep: asyncio.TimerHandle | None = None

    def put(self, origin: str, wire: Wire) -> None:
        """Keep it for the next request to this server."""
        self._waiting[origin].append((time.monotonic(), wire))
        if self._sweep is None:
            self._sweep_later()

    def take(self, origin: str) -> Wire | None:
        """One that can still be used; None where there is none."""
        waiting = self._waiting[origin]
        oldest = time.monotonic() - KEEP_ALIVE_SECONDS
        while waiting:
            since, wire = waiting.pop()
            if since >= oldest and wire.is_free:
                return wire
            wire.abort()
        return None

    def close(self) -> None:
        """Close them all."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for waiting in self._waiting.values():
            for _, wire in waiting:
                wire.abort()
        self._waiting.clear()

    def _close_old(self) -> None:
        """Close what has waited for too long or is no longer connected, and look again while any waits."""
        self._sweep = None
        oldest = time.monotonic() - KEEP_ALIVE_SECONDS
        for origin, waiting in list(self._waiting.items()):
            young = [(since, wire) for since, wire in waiting if since > oldest and wire.is_free]
            for _, wire in set(waiting) - set(young):
                wire.abort()
            if young:
                self._waiting[origin] = young
            else:
                del self._waiting[origin]
        if self._waiting:
            self._sweep_later()

    def _sweep_later(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS, self._close_old)
