"""Waiting for something to hold, with a deadline and a name for what was waited for."""

import asyncio
from collections.abc import Awaitable, Callable

LOOK_SECONDS = 0.01
LOOK_SHARE = 1 / 8
"""The next wait is this share of what was waited so far: each look is a request to a gateway."""
LOOK_SECONDS_MOST = 0.25


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, deadline: float = 60.0) -> None:
    """Return when the condition holds; raises `TimeoutError`, saying what was waited for, when it does not in time."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not await condition():
        waited = loop.time() - began
        if waited > deadline:
            raise TimeoutError(f"waited {deadline:g} s in vain until {what}")
        await asyncio.sleep(min(max(LOOK_SECONDS, waited * LOOK_SHARE), LOOK_SECONDS_MOST))
