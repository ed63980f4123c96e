"""Waiting for a time of the clock, which may be set meanwhile."""

import asyncio
from collections.abc import Callable

import pytest

from spool.records import system_clock
from uploaders.dispatch.scheduling import LONGEST_SLEEP_SECONDS, Timer, TimerHandle, sleep_until


async def test_it_calls_at_the_time() -> None:
    """A callback is made once its time has come, and time in the past is now."""
    called = asyncio.Event()
    Timer(system_clock).call_at(system_clock() + 20, called.set)
    assert not called.is_set()
    await asyncio.wait_for(called.wait(), 30)
    await asyncio.wait_for(sleep_until(Timer(system_clock), system_clock() - 1000), 30)


async def test_a_cancelled_call_is_not_made() -> None:
    """Cancelling a sleep cancels its timer."""
    handles: list[asyncio.TimerHandle] = []

    class Noted(Timer):
        def call_at(self, when: int, callback: Callable[[], None]) -> TimerHandle:
            handle = super().call_at(when, callback)
            assert isinstance(handle, asyncio.TimerHandle)
            handles.append(handle)
            return handle

    sleeping = asyncio.create_task(sleep_until(Noted(system_clock), system_clock() + 60_000))
    await asyncio.sleep(0)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert handles[0].cancelled()


async def test_a_clock_that_is_set_is_noticed_within_a_minute() -> None:
    """However far away a time seems, the callee looks at the clock again within a minute."""
    loop = asyncio.get_running_loop()
    handle = Timer(system_clock).call_at(system_clock() + 10**9, lambda: None)
    assert isinstance(handle, asyncio.TimerHandle)
    assert handle.when() - loop.time() <= LONGEST_SLEEP_SECONDS
    handle.cancel()
