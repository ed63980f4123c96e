"""A pipeline as the rest of the gateway sees it: it works in the background, and answers what is asked of calls."""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import Struct

from uploaders.pipeline.models import ModelError, VectorStore
from uploaders.pipeline.runner import Models, PipelineRunner
from uploaders.pipeline.summary import redacted
from uploaders.stores.parts import key_text
from uploaders.stores.pipeline import CallbackTables, FoundInsight, PipelineStatus, Redo, Step, TextQuery
from uploaders.stores.pipeline_tables import PipelineTables

__all__ = ["ModelError", "Pipeline", "SimilarCall"]


class SimilarCall(Struct, frozen=True):
    """A call that is like another one."""

    call_id: str
    score: float
    """Cosine similarity: 1 is the same."""
    insight: FoundInsight | None


@dataclass(frozen=True, slots=True)
class RedoPlan:
    """What working on calls once more comes to."""

    calls: int
    paid: int
    """Answers that would be paid for, at most."""


class Pipeline:
    """One pipeline. `runner` is None where others work on its queue."""

    def __init__(
        self, name: str, tables: PipelineTables, callbacks: CallbackTables, models: Models, vectors: VectorStore,
        runner: PipelineRunner | None, *, redact: bool,
    ) -> None:  # fmt: skip
        self.name = name
        self.tables = tables
        self.callbacks = callbacks
        self.runner = runner
        self._models = models
        self._vectors = vectors
        self._redact = redact
        self._prepared = False

    def start(self) -> None:
        """Begin to work."""
        if self.runner is not None:
            self.runner.start()

    async def stop(self, grace: float) -> None:
        """End it; calls under way have `grace` seconds."""
        if self.runner is not None:
            await self.runner.stop(grace)
        await self._vectors.close()
        await self._models.close()

    async def probe(self) -> str:
        """Ask for one vector, and say what came; nothing is written. Raises `ModelError`."""
        model = self._models.embedding
        await model.embed(["Is anybody there?"])
        chat = "" if self._models.chat is None else f"; {self._models.chat.name}, which summarises, was not asked"
        return f"{model.name} makes vectors of {model.dimensions} dimensions{chat}"

    async def similar_to_text(self, project: str, text: str, limit: int) -> list[SimilarCall]:
        """The calls nearest to a text, the nearest first. Raises `ModelError` and `StoreError`."""
        await self._prepare()
        model = self._models.embedding
        vectors, _ = await model.embed([redacted(text) if model.is_elsewhere and self._redact else text])
        return await self._similar(project, vectors[0], limit) if any(vectors[0]) else []

    async def similar_to_call(self, project: str, call_id: str, limit: int) -> list[SimilarCall] | None:
        """The calls nearest to a call, without itself; None for one that has no vector. Raises as above."""
        await self._prepare()
        key = key_text(call_id)
        made = await self.tables.step((project, key), Step.EMBEDDING)
        if made is None or not any(made.output):
            return None
        found = await self._similar(project, made.output, limit + 1)
        return [each for each in found if each.call_id != key][:limit]

    async def search(self, query: TextQuery) -> list[FoundInsight]:
        """The calls that have all of the words. Raises `StoreError`."""
        await self._prepare()
        return await self.tables.search(query)

    async def status(self, project: str | None = None) -> PipelineStatus:
        """The queue at this moment. Raises `StoreError`."""
        return await self.tables.status(project)

    async def redo(self, selection: Redo, *, dry_run: bool) -> RedoPlan:
        """Work on calls once more, or only say what that would come to. Raises `StoreError`."""
        found = await self.tables.redo(selection, dry_run=dry_run)
        calls = sum(found.values())
        answers = int(self._models.embedding.is_paid)
        if selection.step is Step.SUMMARY and self._models.chat is not None:
            answers += 1
        if self.runner is not None and not dry_run:
            self.runner.wake()
        return RedoPlan(calls, calls * answers)

    async def forget_call(self, project: str, call_id: str) -> bool:
        """Delete everything that it has of a call: job, journal, insight, callback, vector. Whether there was a job.

        Raises `StoreError`, and `ModelError` where all but the vector is deleted; it can be called again.
        """
        # The job first: whoever works on the call writes no vector after that.
        known = await self.tables.forget_call(project, call_id)
        await self._vectors.forget(project, key_text(call_id))
        return known

    async def _similar(self, project: str, vector: bytes, limit: int) -> list[SimilarCall]:
        found: Sequence[tuple[str, float]] = await self._vectors.nearest(project, vector, limit)
        insights = await self.tables.insights(project, [call_id for call_id, _ in found])
        return [SimilarCall(call_id, round(score, 6), insights.get(call_id)) for call_id, score in found]

    async def _prepare(self) -> None:
        """Once, and again as long as it fails."""
        if not self._prepared:
            await self.tables.prepare()
            await self._vectors.prepare(self._models.embedding.dimensions)
            self._prepared = True
