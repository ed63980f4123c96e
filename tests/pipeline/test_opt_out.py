"""A provider says that nothing of a call may be kept: what was made of it goes, whatever else is down."""

import pytest

from tests.pipeline.runner_stage import Begin, replace_text
from tests.spool.spool_parts import Clock
from tests.stores.engines import Engine
from uploaders.pipeline.models import ModelUnavailable
from uploaders.stores.pipeline import JobState

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


async def test_what_is_forbidden_later_is_deleted(begin: Begin, engine: Engine) -> None:
    """A provider says with a later event that nothing of a call may be kept: summary and vector go."""
    async with begin() as stage:
        await stage.queue("c", "other")
        await stage.all_ended()
        await stage.queue("c", text=replace_text(opted_out=True))
        await stage.all_ended()
        assert list(await stage.tables.insights("", ["c", "other"])) == ["other"]
        assert engine.rows("select call_id from call_vectors") == [("other",)]


async def test_what_is_forbidden_is_deleted_here_at_once_and_elsewhere_for_as_long_as_it_takes(
    begin: Begin, engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server of vectors does not answer: summary, words and callback go all the same, and the call is not set
    aside however often it fails."""

    async def down(*_: object) -> None:
        raise ModelUnavailable("vectors: no answer")

    async with begin() as stage:
        await stage.queue("c")
        await stage.all_ended()

        async def waits() -> bool:
            return "vectors: no answer" in (await stage.tables.status()).reasons

        with monkeypatch.context() as patch:
            patch.setattr(stage.runner._vectors, "forget", down)
            await stage.queue("c", text=replace_text(opted_out=True))
            await stage.until(waits)
            assert await stage.tables.insights("", ["c"]) == {}
            assert engine.rows("select call_id, attempts from pipeline_jobs") == [("c", 0)]
            assert engine.rows("select call_id from call_vectors") == [("c",)]
        clock.now += 3_600_000
        stage.runner._pauses.clear()
        stage.runner.wake()
        await stage.all_ended()
        assert engine.rows("select call_id from call_vectors") == []
        assert (await stage.tables.status()).jobs == {JobState.SKIPPED: 1}
