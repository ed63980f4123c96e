"""Senders that go away while what they said of a call is written."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spool.db import write_connection
from spool.db.write_connection import WritePoint
from spool.live_calls import HeardCall
from tests.heartbeats.watching import LOST_AFTER, watching


async def test_a_call_whose_agent_went_away_during_its_first_commit_is_lost_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is durable: unwatched, it would count among the live calls until a restart, and never be said to be lost."""
    async with watching(tmp_path) as calls:
        loop = asyncio.get_running_loop()
        hearing = asyncio.create_task(calls.watch.hear(HeardCall("c", "", about=b'"a":1'), None))

        def go_away(point: WritePoint, group: Sequence[Any]) -> None:
            if point is WritePoint.COMMITTED and any(one.byte_count for one in group):
                loop.call_soon_threadsafe(hearing.cancel)

        with monkeypatch.context() as hooked:
            hooked.setattr(write_connection, "hook", go_away)
            with pytest.raises(asyncio.CancelledError):
                await hearing
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert log["call_ended_reason"] == "agent_lost"
