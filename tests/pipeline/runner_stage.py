"""A runner of the pipeline on a fresh database, with a server of models: what its tests share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from tests.system.waiting import until
from uploaders.pipeline.runner import PipelineRunner, RunnerRule
from uploaders.stores.pipeline import CallText, FoundInsight, JobState, NewText
from uploaders.stores.pipeline_tables import PipelineTables

NOW = 1_800_000_000_000
TURNS = (("caller", "I have a terrible toothache since Monday."), ("agent", "Please come on Tuesday at ten."))
TEXT = CallText(TURNS, number="+15551234567", ended_at=NOW)
RULE = RunnerRule("me")


@dataclass
class Heard:
    """What the runner tells."""

    steps: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    again: int = 0

    def step_ended(self, step: str, outcome: str, _seconds: float) -> None:
        self.steps.append((step, outcome))

    def model_asked(self, purpose: str, outcome: str, tokens: int) -> None:
        self.asked.append((purpose, outcome, tokens))

    def paid_again(self) -> None:
        self.again += 1

    def pipeline_queued(self, _calls: int, _oldest: float) -> None:
        pass


@dataclass
class Stage:
    """A runner on a fresh database, with a server of models."""

    tables: PipelineTables
    runner: PipelineRunner
    heard: Heard

    async def queue(self, *names: str, text: CallText = TEXT, project: str = "") -> None:
        await self.tables.enqueue([NewText(project, name, NOW, text) for name in names])
        self.runner.wake()

    async def insight(self, call_id: str = "c", project: str = "") -> FoundInsight:
        return (await self.tables.insights(project, [call_id]))[call_id]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until this holds."""
        await until(condition, "the runner has come so far")

    async def all_ended(self) -> None:
        async def ended() -> bool:
            return not (await self.tables.status()).jobs.get(JobState.QUEUED)

        await self.until(ended)


Begin = Callable[..., Any]
"""Starts a runner: `tests.pipeline.conftest.begin`."""


def replace_text(**changes: Any) -> CallText:
    """`TEXT` with changes."""
    return replace(TEXT, **changes)
