"""Senders that go away while what they said of a call is written."""

from pathlib import Path

import pytest

from spool.live_calls import HeardCall
from tests.heartbeats.watching import LOST_AFTER, watching
from tests.spool.spool_parts import cancelled_once_durable


async def test_a_call_whose_agent_went_away_during_its_first_commit_is_lost_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is durable: unwatched, it would count among the live calls until a restart, and never be said to be lost."""
    async with watching(tmp_path) as calls:
        await cancelled_once_durable(calls.watch.hear(HeardCall("c", "", about=b'"a":1'), None), monkeypatch)
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert log["call_ended_reason"] == "agent_lost"
