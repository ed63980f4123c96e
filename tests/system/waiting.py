"""Waiting for something to hold, with a deadline and a name for what was waited for."""

import asyncio
from collections.abc import Awaitable, Callable

LOOK_SECONDS = 0.01


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, deadline: float = 60.0) -> None:
    """Return when the condition holds; raises `TimeoutError`, saying what was waited for, when it does not in time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while not await condition():
        if loop.time() > end:
            raise TimeoutError(f"waited {deadline:g} s in vain until {what}")
        await asyncio.sleep(LOOK_SECONDS)
