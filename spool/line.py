"""The line of requests before the writer: light ones first, heavy ones a bounded amount at a time."""

from collections import deque
from queue import Empty, SimpleQueue

from spool.requests import Group, Request

GROUP_LIGHT_OPERATIONS = 512
GROUP_HEAVY_BYTES = 4 << 20
"""At 250 MB/s this much holds a small post up for 16 ms."""
HEAVY_BYTES = 256 << 10
"""A request that writes so much is heavy."""


class RequestLine:
    """Where requests wait. `put` and `end` may be called by any thread, the rest only by the writer's."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[Request[object] | None] = SimpleQueue()
        self._light: deque[Request[object]] = deque()
        self._heavy: deque[Request[object]] = deque()

    def __bool__(self) -> bool:
        """Whether anything sorted waits."""
        return bool(self._light or self._heavy)

    def put(self, request: Request[object]) -> None:
        """Add a request at the end."""
        self._inbox.put(request)

    def end(self) -> None:
        """Nothing comes after what is there now."""
        self._inbox.put(None)

    def sort(self, timeout: float | None = 0.0) -> bool:
        """Sort what has come into light and heavy; returns whether the end has come.

        Waits up to `timeout` seconds for the first, for ever with None.
        """
        try:
            request = self._inbox.get(timeout != 0, timeout)
            while request is not None:
                (self._heavy if request.byte_count >= HEAVY_BYTES else self._light).append(request)
                request = self._inbox.get(block=False)
        except Empty:
            return False
        return True

    def take_group(self) -> Group:
        """What shares the next transaction."""
        group = [self._light.popleft() for _ in range(min(len(self._light), GROUP_LIGHT_OPERATIONS))]
        heavy_bytes = 0
        while self._heavy and (not heavy_bytes or heavy_bytes + self._heavy[0].byte_count <= GROUP_HEAVY_BYTES):
            heavy_bytes += self._heavy[0].byte_count
            group.append(self._heavy.popleft())
        return group

    def take_all(self) -> Group:
        """Everything that waits, for nobody will write it any more."""
        while not self._inbox.empty():
            self.sort()
        left = [*self._light, *self._heavy]
        self._light.clear()
        self._heavy.clear()
        return left
