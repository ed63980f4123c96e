"""Threads for what would hold up the event loop: decoding, parsing and hashing large bodies, and staging files."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

import structlog

_log = structlog.get_logger(__name__)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Workers:
    """Runs functions in the threads of an executor, which whoever made it also shuts down. Made on the loop."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.current_thread()

    async def run(
        self, function: Callable[Parameters, Result], *arguments: Parameters.args, **keywords: Parameters.kwargs
    ) -> Result:
        """The function's result. Cancelling this does not stop a function that runs already."""
        return await asyncio.wrap_future(self._executor.submit(function, *arguments, **keywords))

    def start(self, function: Callable[[], None]) -> None:
        """Run the function some time and wait for nothing; a failure is logged."""
        self._executor.submit(function).add_done_callback(_report)

    def ask_loop(self, function: Callable[[], Result]) -> Result:
        """In a worker thread: have the event loop call the function, and wait for what it returns or raises."""
        assert threading.current_thread() is not self._loop_thread, "the loop cannot wait for itself"
        answer: Future[Result] = Future()

        def call() -> None:
            """In the loop's thread: call it, and hand over what comes of it."""
            try:
                answer.set_result(function())
            except Exception as error:  # noqa: BLE001  # raised again in the thread that asked
                answer.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        return answer.result()


def _report(future: "Future[None]") -> None:
    if not future.cancelled() and (error := future.exception()):
        _log.error("background work failed", exc_info=error)
