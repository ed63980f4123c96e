"""Background tasks: referenced, so that none is lost to the garbage collector, and no error goes unlogged.

And work in threads, which ends before whoever waits for it does.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Final, ParamSpec, TypeVar

import structlog

P = ParamSpec("P")
T = TypeVar("T")

AGAIN_SECONDS: Final = 5.0
"""After a defect ended what is to go on."""

_log = structlog.get_logger(__name__)


class Tasks:
    """Tasks that run beside their owner until they end or are cancelled."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run it; an error that it raises is logged as a defect."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def keep(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run what is to go on until cancelled: an error is logged as a defect, and it begins anew in a moment."""
        self.spawn(_kept(work))

    async def wait(self, seconds: float) -> None:
        """Wait until all have ended, for at most `seconds`."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def cancel(self) -> None:
        """Cancel what runs and see its end."""
        while self._tasks:
            running = list(self._tasks)
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task_failed", error=type(error).__name__, exc_info=error)


async def _kept(work: Callable[[], Coroutine[object, object, None]]) -> None:
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  # a defect must not end what nobody else does; it is logged
            _log.error("task_failed", error=type(error).__name__, what_happens="it begins anew", exc_info=error)
        else:
            return
        await asyncio.sleep(AGAIN_SECONDS)


async def in_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run it in a thread, and see its end even when cancelled: no file is closed while a thread writes to it."""
    return await to_the_end(asyncio.to_thread(work, *args, **kwargs))


async def to_the_end(work: Coroutine[object, object, T]) -> T:
    """Do it, and see its end even when cancelled."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
