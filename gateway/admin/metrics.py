"""The metrics that the gateway counts as it goes; what can be read at any time is in `gateway.admin.gauges`.

What is counted of call logs on their way is in `spool_metrics`; here is what surrounds them: other ways in, the stores
and the pipeline of a receiver, the admin listener.
"""

from collections.abc import Mapping

from gateway.admin.spool_metrics import BATCH_BOUNDS, DELIVERY_BOUNDS, GaugeTally, SpoolMetrics
from gateway.sdk_outbox.model import Outcome
from spool.records import Clock, system_clock
from uploaders.stores.parts import PartKind
from uploaders.stores.store import CallPath, Swept, Written

_WAIT_BOUNDS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 4 * 3600)
"""Seconds: from a call log without an event to a call that was given up long before."""
_COMPLETED = ("complete", "late", "timed_out", "orphan")


class Metrics(SpoolMetrics):
    """Counts and times what happens in a gateway or a worker. For the event loop."""

    def __init__(self, clock: Clock = system_clock) -> None:
        super().__init__(clock)
        self._declare_webhooks()
        self._declare_admin()
        self._declare_stores()
        self._declare_outboxes()
        self._declare_pipeline()

    def admin_refused(self, reason: str) -> None:
        """A request to the admin listener was refused."""
        self._admin_refusals.inc(reason)

    def parts_written(
        self, destination: str, parts: Mapping[PartKind, int], seconds: float, lag: float, written: Written
    ) -> None:
        """A store committed parts."""
        for kind, count in parts.items():
            new = written.new.get(kind, 0)
            self._store_rows.inc(destination, kind.name.lower(), "new", by=new)
            self._store_rows.inc(destination, kind.name.lower(), "duplicate", by=count - new)
        self._store_batch.observe(sum(parts.values()), destination)
        self._store_commit.observe(seconds, destination)
        self._lag.observe(lag, destination)
        self._completed.inc(destination, "complete", by=written.completed)
        self._completed.inc(destination, "late", by=written.late)
        for waited, count in written.waits.items():
            for _ in range(count):
                self._wait.observe(waited, destination)
        if written.completed or written.late:
            self._set_match_ratio(destination)

    def part_refused(self, destination: str, kind: PartKind) -> None:
        """A store refused a value of a part."""
        self._store_rows.inc(destination, kind.name.lower(), "refused")

    def calls_swept(self, destination: str, swept: Swept) -> None:
        """Calls of a store were given up, and others wait still."""
        self._completed.inc(destination, "timed_out", by=swept.timed_out)
        self._completed.inc(destination, "orphan", by=swept.orphans)
        self._waiting.set(swept.waiting, destination)
        if swept.timed_out or swept.orphans:
            self._set_match_ratio(destination)

    def _set_match_ratio(self, destination: str) -> None:
        """What came late was counted as given up before."""
        counts = {result: self._completed.value(destination, result) for result in _COMPLETED}
        given_up = counts["timed_out"] + counts["orphan"]
        concluded = counts["complete"] + max(given_up, counts["late"])
        if concluded:
            self._match.set((counts["complete"] + counts["late"]) / concluded, destination)

    def reference_downloaded(self, seconds: float, size: int) -> None:
        """An object that a reference named was read."""
        self._reference.observe(seconds)
        self._reference_bytes.inc(by=size)

    def query_routed(self, path: CallPath) -> None:
        """A question about calls was answered from this path."""
        self._routed.inc(path.value)

    def paths_differ(self) -> None:
        """Both paths answered a question differently."""
        self._mismatch.inc()

    def row_settled(self, path: str, outcome: Outcome, size: int) -> None:
        """A row was taken, or will not be."""
        self._outbox_rows.inc(path, outcome.value)
        if outcome is Outcome.RESCUED:
            self._outbox_bytes.inc(path, by=size)

    def webhook(self, source: str, type_: str, result: str) -> None:
        """A webhook ended."""
        self._webhooks.inc(source, type_, result)

    def webhook_skew(self, source: str, seconds: float) -> None:
        """A signed time lies so far in the past."""
        self._webhook_skew.set(seconds, source)

    def webhook_accepted_at(self, source: str, at: int) -> None:
        """The last genuine one was accepted then."""
        self._webhook_accepted.set(at / 1000, source)

    def webhook_dropped(self, source: str, count: int) -> None:
        """The provider gave up so many before."""
        self._webhook_dropped.inc(source, by=count)

    def otlp_spans(self, result: str, count: int) -> None:
        """So many spans came."""
        self._otlp_spans.inc(result, by=count)

    def otlp_open_calls(self, count: int) -> None:
        """So many traces are open."""
        self._otlp_open.set(count)

    def turns_kept(self, count: int) -> None:
        """So many turns are durable that were not before."""
        self._live_turns.inc(by=count)

    def agent_lost(self) -> None:
        """A call log says that an agent is lost."""
        self._agents_lost.inc()

    def calls_watched(self, count: int) -> None:
        """So many calls are watched."""
        self._watched.set(count)

    def spans_exported(self, result: str, count: int) -> None:
        """So many of the gateway's own spans were sent, could not be, or found the queue full."""
        self._spans_sent.inc(result, by=count)

    def step_ended(self, step: str, outcome: str, seconds: float) -> None:
        """A step of a pipeline ended."""
        self._steps.inc(step, outcome)
        self._step.observe(seconds, step)

    def model_asked(self, purpose: str, outcome: str, tokens: int) -> None:
        """A pipeline asked a model."""
        self._model_requests.inc(purpose, outcome)
        self._model_tokens.inc(purpose, by=tokens)

    def paid_again(self) -> None:
        """An answer was lost by a kill."""
        self._paid_again.inc()

    def pipeline_queued(self, calls: int, oldest_seconds: float) -> None:
        """So many calls wait in the queue of a pipeline."""
        self._queued.set(calls)
        self._oldest_queued.set(oldest_seconds)

    def callback_ended(self, outcome: str, late_seconds: float | None) -> None:
        """A callback was fired, moved or cancelled."""
        self._callbacks.inc(outcome)
        if late_seconds is not None:
            self._callback_late.observe(late_seconds)

    def _declare_pipeline(self) -> None:
        self._steps = self._counter(
            "pipeline_steps",
            "Steps of a pipeline: done, kept (finished before), fallback (without the model), postponed or failed.",
            "step",
            "outcome",
        )
        self._step = self._histogram("pipeline_step_seconds", "Duration of a pipeline step.", DELIVERY_BOUNDS, "step")
        self._model_requests = self._counter(
            "model_requests",
            "Requests to models: answered, bad_answer (paid for but unusable), unavailable, refused or too_long.",
            "purpose",
            "outcome",
        )
        self._model_tokens = self._counter("model_tokens", "Tokens used, as counted by the models.", "purpose")
        self._paid_again = self._counter(
            "model_paid_again", "Model requests repeated because a kill lost the first answer."
        )
        self._queued = GaugeTally(
            "callspool_pipeline_queued_calls", "Calls in the pipeline's queue.", (), registry=self.registry
        )
        self._oldest_queued = GaugeTally(
            "callspool_pipeline_oldest_queued_seconds",
            "Age of the oldest call in the pipeline's queue; 0 if the queue is empty.",
            (),
            registry=self.registry,
        )
        self._callbacks = self._counter(
            "callbacks", "Callbacks: fired, moved (to a later time) or cancelled.", "outcome"
        )
        self._callback_late = self._histogram(
            "callback_late_seconds", "Delay of a callback after its due time.", DELIVERY_BOUNDS
        )

    def _declare_webhooks(self) -> None:
        """And spans."""
        self._webhooks = self._counter(
            "webhooks",
            "Webhooks by source, type of event and result: accepted, duplicate, ignored, forwarded, needs_answer, "
            "unconfigured, missing_signature, stale_signature or bad_signature.",
            "source",
            "type",
            "result",
        )
        self._webhook_dropped = self._counter(
            "webhook_provider_dropped", "Webhooks that the provider reports as given up.", "source"
        )
        self._webhook_skew = GaugeTally(
            "callspool_webhook_clock_skew_seconds",
            "Age of the last signature's timestamp; negative if it lies in the future.",
            ("source",),
            registry=self.registry,
        )
        self._webhook_accepted = GaugeTally(
            "callspool_webhook_last_accepted_timestamp_seconds",
            "When the last genuine webhook was accepted (Unix time).",
            ("source",),
            registry=self.registry,
        )
        self._otlp_spans = self._counter(
            "otlp_spans",
            "Spans by result: accepted, rejected (no valid id, too large), late (after the call), damaged (on disk).",
            "result",
        )
        self._otlp_open = GaugeTally(
            "callspool_otlp_open_calls", "Calls whose spans are kept until they end.", (), registry=self.registry
        )
        self._spans_sent = self._counter(
            "trace_spans", "The gateway's own spans by result: sent, failed, dropped (the queue was full).", "result"
        )
        self._live_turns = self._counter("live_turns", "Turns of calls in progress that were stored durably.")
        self._agents_lost = self._counter("agents_lost", "Calls ended by callspool because their agent was lost.")
        self._watched = GaugeTally(
            "callspool_watched_calls", "Calls in progress that send heartbeats.", (), registry=self.registry
        )

    def _declare_admin(self) -> None:
        self._admin_refusals = self._counter(
            "admin_refusals",
            "Requests that the admin listener refused, by reason: no_token, wrong_token, too_many_guesses, "
            "role, tenant, csrf, remote, host or cross_site.",
            "reason",
        )

    def _declare_stores(self) -> None:
        """And the calls that are put together in them."""
        self._store_rows = self._counter(
            "store_rows",
            "Parts written to stores: new, duplicate (already there), or refused (because of a value).",
            "destination",
            "kind",
            "result",
        )
        self._store_batch = self._histogram(
            "store_batch_size", "Parts that shared one transaction of a store.", BATCH_BOUNDS, "destination"
        )
        self._store_commit = self._histogram(
            "store_commit_seconds", "Duration of a store's transaction.", DELIVERY_BOUNDS, "destination"
        )
        self._completed = self._counter(
            "completion_calls",
            "Calls by result: complete, late (completed after being given up), timed_out (no end in time), or "
            "orphan (no start in time).",
            "destination",
            "result",
        )
        self._match = GaugeTally(
            "callspool_completion_match_ratio",
            "Share of the calls concluded since the start of the process that have both start and end.",
            ("destination",),
            registry=self.registry,
        )
        self._wait = self._histogram(
            "completion_wait_seconds",
            "Time from the first part of a call in the store to its completion, in whole seconds.",
            _WAIT_BOUNDS,
            "destination",
        )
        self._lag = self._histogram(
            "completion_lag_seconds",
            "Age of the oldest part of a transaction, since it was accepted, at the store's commit.",
            DELIVERY_BOUNDS,
            "destination",
        )
        self._waiting = GaugeTally(
            "callspool_completion_open_calls",
            "Calls waiting for their start or end, as of the last sweep.",
            ("destination",),
            registry=self.registry,
        )
        self._reference = self._histogram(
            "reference_download_seconds",
            "Time to read and decode an object named by a reference (S3DownloadDuration).",
            DELIVERY_BOUNDS,
        )
        self._reference_bytes = self._counter(
            "reference_download_bytes", "Decoded bytes of objects named by references."
        )
        self._routed = self._counter(
            "route_queries",
            "Queries about calls by the path that answered: complete (the new one), or merged (the old one).",
            "path",
        )
        self._mismatch = self._counter("route_mismatch", "Queries sent to both paths that were answered differently.")

    def _declare_outboxes(self) -> None:
        self._outbox_rows = self._counter(
            "outbox_rows",
            "Rows of the SDK's outbox: rescued, duplicate (already accepted), superseded (an end without telemetry, "
            "of a call whose end is known), or refused (not a call log; left in place).",
            "path",
            "outcome",
        )
        self._outbox_bytes = self._counter(
            "outbox_rescued_bytes", "Bytes of outbox rows that became new records.", "path"
        )
