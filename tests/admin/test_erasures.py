"""An order to erase: what its report says, whatever happens beside it."""

import asyncio
from pathlib import Path

import pytest

from gateway.admin.events import Observers, RecentEvents
from gateway.admin.metrics import Metrics
from gateway.operations import erasure
from gateway.operations.erasure import CallEraser, ErasureFailed, ErasureOrder, ErasureProgress, ErasureReport
from spool.store import Spool
from tests.spool.spool_parts import Clock, becomes, opened
from tests.uploaders.dispatcher_stage import Gate, a_stage
from uploaders.base import Uploader
from uploaders.dispatch.dispatcher import Dispatcher


def an_eraser(spool: Spool, dispatcher: Dispatcher, **uploaders: Uploader) -> CallEraser:
    """Of a gateway without stores and tenants."""
    return CallEraser(
        spool, dispatcher, uploaders, {}, None, (), (), None, lambda principal, _agent, _key: principal, None
    )


async def the_report(eraser: CallEraser, call_id: str) -> ErasureReport:
    """What the last line says."""
    *_, last = [line async for line in eraser.carry_out(ErasureOrder((call_id,)))]
    assert isinstance(last, ErasureReport), last
    return last


async def test_an_erasure_that_fails_says_why(tmp_path: Path) -> None:
    """An answer had begun: a second one in it would be no line of it."""
    clock = Clock()
    async with opened(tmp_path, clock=clock) as spool:
        pass
    dispatcher = Dispatcher(spool, {}, clock, lambda: 0.0, Observers(Metrics(), RecentEvents(clock)))
    first, last = [line async for line in an_eraser(spool, dispatcher).carry_out(ErasureOrder(("c",)))]
    assert isinstance(first, ErasureProgress)
    assert isinstance(last, ErasureFailed)
    assert last.reason


async def test_a_repeated_order_waits_for_the_attempt_that_the_first_one_gave_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the call is owed any more, but the attempt goes on: each order waits for it, and says where it goes if
    it takes too long. Once it has ended, nothing is left to be waited for."""
    async with a_stage(core_slots=2) as stage, opened(tmp_path, clock=Clock()) as spool:
        gate = Gate()
        stage.uploader.answer = gate
        await stage.post_all("gone", "other")
        eraser = an_eraser(spool, stage.dispatcher, endpoint=stage.uploader)
        monkeypatch.setattr(erasure, "ATTEMPT_SECONDS", 0)
        for _ in range(2):
            (place,) = [each for each in (await the_report(eraser, "gone")).places if each.place == "endpoint"]
            assert place.again
            assert "order it again" in (place.unreached or "")
        monkeypatch.setattr(erasure, "ATTEMPT_SECONDS", 60)
        again = asyncio.create_task(the_report(eraser, "gone"))
        await becomes(lambda: again.done() or bool(stage.dispatcher._pumps))
        assert not again.done()
        gate.open()
        assert (await again).complete
