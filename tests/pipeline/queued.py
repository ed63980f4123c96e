"""Calls in the queue of a pipeline, and finished ones."""

from tests.pipeline.runner_stage import NOW
from uploaders.stores.pipeline import CallText, Insight, NewText
from uploaders.stores.pipeline_tables import PipelineTables

TURNS = (("caller", "I have a toothache"), ("agent", "Come on Tuesday"))
TEXT = CallText(TURNS, number="+1555", agent_id="a1", started_at=NOW)


def new(call_id: str, text: CallText = TEXT, at: int = NOW, project: str = "") -> NewText:
    return NewText(project, call_id, at, text)


async def done(
    tables: PipelineTables, call_id: str, insight: Insight, text: CallText = TEXT, project: str = ""
) -> None:
    """Queue a call and finish it."""
    await tables.enqueue([new(call_id, text, project=project)])
    for job in await tables.claim(project, "me", 10):
        await tables.finish(job, "me", insight)
