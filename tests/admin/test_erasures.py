"""An order to erase that fails midway says so in its last line."""

from pathlib import Path

from gateway.admin.events import Observers, RecentEvents
from gateway.admin.metrics import Metrics
from gateway.operations.erasure import CallEraser, ErasureFailed, ErasureOrder, ErasureProgress
from tests.spool.spool_parts import Clock, opened
from uploaders.dispatch.dispatcher import Dispatcher


async def test_an_erasure_that_fails_says_why(tmp_path: Path) -> None:
    """An answer had begun: a second one in it would be no line of it."""
    clock = Clock()
    async with opened(tmp_path, clock=clock) as spool:
        pass
    dispatcher = Dispatcher(spool, {}, clock, lambda: 0.0, Observers(Metrics(), RecentEvents(clock)))
    eraser = CallEraser(spool, dispatcher, {}, {}, None, (), (), None, lambda principal, _agent, _key: principal, None)
    first, last = [line async for line in eraser.carry_out(ErasureOrder(("c",)))]
    assert isinstance(first, ErasureProgress)
    assert isinstance(last, ErasureFailed)
    assert last.reason
