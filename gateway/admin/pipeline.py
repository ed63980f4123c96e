"""The admin API of a pipeline: similar calls, search, its queue, and callbacks.

Summaries tell what was said on the phone, so they are shown only to clients that present a token.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from gateway.admin.answers import answer, check_parameters, order_of, refused, time_of
from gateway.admin.audit import note
from gateway.admin.auth import CALLER
from gateway.admin.view import GatewayView
from gateway.operations.pipeline import (
    BlockOrder,
    CallbackDone,
    CallbackEntry,
    CallbackList,
    CallbackOrder,
    InsightEntry,
    InsightList,
    NumberDone,
    PipelineDocument,
    RedoDone,
    RedoOrder,
    SearchOrder,
    SimilarOrder,
)
from gateway.trace import instant
from uploaders.pipeline.models import ModelError
from uploaders.redact import redact
from uploaders.stores.pipeline import Callback, CallbackState, FoundInsight, JobState, Redo, TextQuery
from uploaders.stores.store import StoreError

if TYPE_CHECKING:
    from uploaders.pipeline.service import Pipeline, SimilarCall

MOST = 200
"""Calls in one answer."""
Handler = Callable[[web.Request, "Pipeline"], Awaitable[web.Response]]


class PipelineHandlers:
    """Handles requests about the pipeline."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/api/calls/similar", self._with_pipeline(self.similar))
        app.router.add_post("/api/calls/search", self._with_pipeline(self.search))
        app.router.add_get("/api/pipeline", self._with_pipeline(self.status))
        app.router.add_post("/api/pipeline/redo", self._with_pipeline(self.redo))
        app.router.add_get("/api/callbacks", self._with_pipeline(self.callbacks))
        app.router.add_post("/api/callbacks/cancel", self._with_pipeline(self.cancel))
        app.router.add_post("/api/callbacks/run", self._with_pipeline(self.run))
        app.router.add_post("/api/callbacks/done", self._with_pipeline(self.finish))
        app.router.add_post("/api/callbacks/reopen", self._with_pipeline(self.reopen))
        app.router.add_post("/api/do-not-call", self._with_pipeline(self.block))

    async def similar(self, request: web.Request, pipeline: "Pipeline") -> web.Response:
        """The calls of the caller's tenant nearest to a text or to a call."""
        order = await order_of(request, SimilarOrder)
        if (order.text is None) == (order.call_id is None):
            raise ValueError("give either text or call_id")
        project, limit = request[CALLER].tenant or order.project, _limited(order.limit)
        if order.text is not None:
            found: list[SimilarCall] | None = await pipeline.similar_to_text(project, order.text, limit)
        else:
            found = await pipeline.similar_to_call(project, order.call_id or "", limit)
        if found is None:
            hint = "It may not have been worked on yet: `callspool pipeline status`."
            return refused(404, "unknown_call", "The pipeline has no vector of a call of this id.", hint)
        return answer(InsightList(tuple([_entry(each.call_id, each.score, each.insight) for each in found])))

    async def search(self, request: web.Request, pipeline: "Pipeline") -> web.Response:
        """The newest calls of the caller's tenant that contain all of these words."""
        order = await order_of(request, SearchOrder)
        query = TextQuery(
            request[CALLER].tenant or order.project, order.text, _limited(order.limit), order.agent, order.number,
            time_of(order.since, "since"), time_of(order.until, "until"),
        )  # fmt: skip
        found = await pipeline.search(query)
        return answer(InsightList(tuple([_entry(each.call_id, msgspec.UNSET, each) for each in found])))

    async def status(self, _request: web.Request, pipeline: "Pipeline") -> web.Response:
        """The state of the queue, and why it waits."""
        status = await pipeline.status()
        oldest = status.oldest_queued
        obstacle = pipeline.runner.obstacle if pipeline.runner else None
        return answer(
            PipelineDocument(
                pipeline.name,
                {state.name.lower(): status.jobs.get(state, 0) for state in JobState},
                None if oldest is None else instant(oldest),
                None if obstacle is None else redact(obstacle),
                dict(status.sources),
                {state.value: status.callbacks.get(state, 0) for state in CallbackState},
                dict(status.reasons),
            )
        )

    async def redo(self, request: web.Request, pipeline: "Pipeline") -> web.Response:
        """Queue calls again; with `dry_run`, only report how many paid answers that would take."""
        order = await order_of(request, RedoOrder)
        if order.state is not None and order.state.upper() not in JobState.__members__:
            raise ValueError(f"state should be one of {', '.join(JobState.__members__).lower()}")
        state = None if order.state is None else JobState[order.state.upper()]
        selection = Redo(order.step, order.project, time_of(order.since, "since"), state, order.source)
        plan = await pipeline.redo(selection, dry_run=order.dry_run)
        note(request, calls=plan.calls, dry_run=order.dry_run)
        return answer(RedoDone(plan.calls, plan.paid, order.dry_run))

    async def callbacks(self, request: web.Request, pipeline: "Pipeline") -> web.Response:
        """List callbacks, those that wait and those that ended."""
        query = request.query
        check_parameters(request, ("project", "state"))
        state = query.get("state")
        if state is not None and state not in set(CallbackState):
            raise ValueError(f"state should be one of {', '.join(CallbackState)}")
        found = await pipeline.callbacks.find(query.get("project"), state, MOST)
        return answer(CallbackList(tuple([_callback(each) for each in found])))

    async def cancel(self, request: web.Request, pipeline: "Pipeline") -> web.Response:
        """Cancel a callback that waits."""
        order = await order_of(request, CallbackOrder)
        note(request, call_id=order.call_id)
        done = await pipeline.callbacks.cancel(order.project, order.call_id, "an operator cancelled it")
        return answer(CallbackDone(order.call_id, "cancelled")) if done else _no_callback()

    async def run(self, request: web.Request, pipeline: "Pipeline") -> web.Response:
        """Make a callback due now; calling hours and limits still apply."""
        order = await order_of(request, CallbackOrder)
        note(request, call_id=order.call_id)
        done = await pipeline.callbacks.hasten(order.project, order.call_id)
        return answer(CallbackDone(order.call_id, "waiting")) if done else _no_callback()

    async def finish(self, request: web.Request, pipeline: "Pipeline") -> web.Response:
        """Mark a callback as made by hand."""
        order = await order_of(request, CallbackOrder)
        note(request, call_id=order.call_id)
        done = await pipeline.callbacks.cancel(order.project, order.call_id, "called by hand", CallbackState.DONE)
        return answer(CallbackDone(order.call_id, "done")) if done else _no_callback()

    async def reopen(self, request: web.Request, pipeline: "Pipeline") -> web.Response:
        """Reopen a callback that was cancelled or made by hand."""
        order = await order_of(request, CallbackOrder)
        note(request, call_id=order.call_id)
        if await pipeline.callbacks.reopen(order.project, order.call_id):
            return answer(CallbackDone(order.call_id, "waiting"))
        sentence = "No callback of a call of this id was cancelled or done by hand."
        return refused(404, "no_callback", sentence, "`callspool callbacks list`.")

    async def block(self, request: web.Request, pipeline: "Pipeline") -> web.Response:
        """Put a number on the do-not-call list, or take it off."""
        order = await order_of(request, BlockOrder)
        if not order.number.strip():
            raise ValueError("number should be a telephone number")
        note(request, blocked=order.blocked)
        await pipeline.callbacks.block_number(order.project, order.number.strip(), blocked=order.blocked)
        return answer(NumberDone(order.number.strip(), order.blocked))

    def _with_pipeline(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            """Answer for a gateway without a pipeline, and where a request, a model or the store fails."""
            pipeline = self._gateway.pipeline
            if pipeline is None:
                hint = "Set CALLSPOOL_PIPELINE=local beside CALLSPOOL_DATABASE_URL: docs/pipeline.md."
                return refused(404, "no_pipeline", "This gateway has no pipeline.", hint)
            try:
                return await handler(request, pipeline)
            except ValueError as error:
                hint = "docs/pipeline.md describes the requests."
                return refused(400, "bad_request", f"Invalid request: {error}.", hint)
            except StoreError as error:
                return refused(503, "store_unavailable", redact(str(error)), "Try again when the database answers.")
            except ModelError as error:
                return refused(503, "model_unavailable", redact(str(error)), "Try again when the model answers.")

        return handle


def _limited(limit: int) -> int:
    if not 1 <= limit <= MOST:
        raise ValueError(f"limit should be a number from 1 to {MOST}")
    return limit


def _entry(call_id: str, score: float | msgspec.UnsetType, insight: FoundInsight | None) -> InsightEntry:
    if insight is None:
        return InsightEntry(call_id=call_id, score=score)
    return InsightEntry(
        call_id=call_id,
        score=score,
        summary=insight.summary,
        summary_source=insight.summary_source,
        sentiment=insight.sentiment,
        agent_id=insight.agent_id,
        customer_number=insight.customer_number,
        started_at=instant(insight.listed_at),
    )


def _callback(one: Callback) -> CallbackEntry:
    fired = None if one.fired_at is None else instant(one.fired_at)
    return CallbackEntry(
        one.call_id, one.project, instant(one.due_at), one.zone, one.words, one.number, one.agent_id, one.state,
        one.reason, fired, one.record_uid,
    )  # fmt: skip


def _no_callback() -> web.Response:
    return refused(404, "no_callback", "No callback of a call of this id waits.", "`callspool callbacks list`.")
