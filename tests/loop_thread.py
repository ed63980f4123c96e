"""An event loop in a thread of its own, for tests that block: commands, and pages in a browser."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Made = TypeVar("Made")


class LoopThread:
    """Runs from its construction until it is closed."""

    def __init__(self) -> None:
        self._life = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._life.get_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Made], seconds: float = 60.0) -> Made:
        """Wait for what is done in that thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(seconds)

    def close(self) -> None:
        """End the loop and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._life.close()
