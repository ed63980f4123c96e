"""The metrics that the gateway counts as it goes; what can be read at any time is in `gateway.admin.gauges`."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from gateway.admin.tallies import CounterTally, GaugeTally, HistogramTally
from gateway.sdk_outbox.model import Outcome
from spool.records import Clock, Delivery, Lane, system_clock
from uploaders.stores.parts import PartKind
from uploaders.stores.store import CallPath, Swept, Written

_ACK_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: from a 2 KB post alone on a fast disk to the time-out of the SDK (30 s)."""
_DELIVERY_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""Seconds: from an endpoint next door to a large upload over a thin line."""
_COMMIT_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: from a fast SSD to a disk that is about to fail."""
_UPLOAD_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""Seconds: from a small object to a server next door to a large one over a thin line."""
_WAIT_BOUNDS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 4 * 3600)
"""Seconds: from a call log without an event to a call that was given up long before."""
_ARRIVAL_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 3600.0, 24 * 3600.0)
"""Seconds: from an endpoint next door to one that was down for a day."""
_COMPLETED = ("complete", "late", "timed_out", "orphan")
_BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Requests: from a lone post to a burst."""


class Metrics:
    """Counts and times what happens.

    Implements the observers of the intake, the spool, the dispatcher, the uploads and the SDK's outboxes. For the
    event loop.
    """

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left this one without types
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._declare_intake()
        self._declare_webhooks()
        self._declare_spool()
        self._declare_deliveries()
        self._declare_uploads()
        self._declare_admin()
        self._declare_stores()
        self._declare_outboxes()
        self._declare_pipeline()

    def posted(self, route: str, result: str) -> None:
        """A post was answered; both words come from small fixed sets."""
        self._posts.inc(route, result)

    def acknowledged(self, seconds: float) -> None:
        """A post was acknowledged `seconds` after its headers came."""
        self._ack.observe(seconds)

    def payload(self, raw: int, stored: int) -> None:
        """A record of `raw` bytes was stored in `stored` bytes."""
        self._accepted_records += 1
        self._payload.inc("raw", by=raw)
        self._payload.inc("stored", by=stored)

    def stray_token(self) -> None:
        """A new record has a `token` that is no credential."""
        self._stray_tokens.inc()

    def redacted(self, counts: Mapping[str, int]) -> None:
        """Rules of redaction found something in a record."""
        for rule, count in counts.items():
            self._redacted.inc(rule, by=count)

    def nonfinite_numbers(self, count: int) -> None:
        """A record had `count` NaN or Infinity."""
        self._nonfinite.inc(by=count)

    def details_given_up(self, count: int) -> None:
        """Details were given up to make room."""
        self._given_up.inc(by=count)

    def two_phase(self) -> None:
        """A call log was split."""
        self._two_phase.inc()

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        """An attempt ended: `outcome` is one of those in `DispatchObserver.attempted`."""
        lane = str(delivery.lane)  # `.value` of an enum is a function of Python's
        self._deliveries.inc(delivery.destination, lane, outcome)
        if outcome == "delivered" and delivery.lane is Lane.CORE:
            self._arrival.observe((self._clock() - delivery.record.accepted_at) / 1000, delivery.destination)
        self._delivery.observe(seconds, delivery.destination, lane)

    def committed(self, seconds: float, batch: int) -> None:
        """The spool committed `batch` requests together."""
        self._commit.observe(seconds)
        self._batch.observe(batch)

    def part_sent(
        self,
        destination: str,
        size: int,  # noqa: ARG002  # objects are measured as a whole
        seconds: float,  # noqa: ARG002  # objects are measured as a whole
        *,
        repeated: bool,
    ) -> None:
        """A part arrived."""
        self._parts.inc(destination, "repeated" if repeated else "sent")

    def parts_resumed(self, destination: str, count: int) -> None:
        """Parts were at the server already."""
        self._parts.inc(destination, "resumed", by=count)

    def object_delivered(self, destination: str, size: int, seconds: float, *, large: bool) -> None:
        """An object was sent and confirmed."""
        self._upload.observe(seconds, destination)
        self._upload_bytes.inc(destination, by=size)
        if large:
            self._large.inc(destination)

    def uploads_aborted(self, destination: str, count: int, *, failed: int) -> None:
        """Uploads were aborted at the server, or could not be."""
        self._aborted.inc(destination, "aborted", by=count)
        self._aborted.inc(destination, "failed", by=failed)

    def read_back(self, destination: str, size: int) -> None:
        """An object was read back."""
        self._read_back.inc(destination, by=size)

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

    pace_bounds = (_ACK_BOUNDS, _ARRIVAL_BOUNDS, _COMMIT_BOUNDS)
    """The bounds of `pace_counts`."""

    def pace_counts(self) -> tuple[list[int], ...]:
        """How long acknowledgements, cores on their way, and commits took so far, by bucket."""
        return self._ack.counts(), self._arrival.counts(), self._commit.counts()

    def accepted(self) -> int:
        """Call logs that were accepted since the start, by whichever way."""
        return int(self._accepted_records)

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
        self._step = self._histogram(
            "pipeline_step_seconds", "How long a step of a pipeline took.", _DELIVERY_BOUNDS, "step"
        )
        self._model_requests = self._counter(
            "model_requests",
            "Requests to models: answered, bad_answer (paid for, and of no use), unavailable, refused or too_long.",
            "purpose",
            "outcome",
        )
        self._model_tokens = self._counter("model_tokens", "Tokens that models counted.", "purpose")
        self._paid_again = self._counter(
            "model_paid_again", "Answers that were asked for once more, because a kill lost them on their way."
        )
        self._queued = GaugeTally(
            "callspool_pipeline_queued_calls", "Calls that wait in the pipeline's queue.", (), registry=self.registry
        )
        self._oldest_queued = GaugeTally(
            "callspool_pipeline_oldest_queued_seconds",
            "Age of the oldest call in the pipeline's queue; 0 if there is none.",
            (),
            registry=self.registry,
        )
        self._callbacks = self._counter(
            "callbacks", "Callbacks: fired, moved (to a later time) or cancelled.", "outcome"
        )
        self._callback_late = self._histogram(
            "callback_late_seconds", "How long after its time a callback was fired.", _DELIVERY_BOUNDS
        )

    def _declare_intake(self) -> None:
        self._accepted_records = 0
        self._posts = self._counter("posts", "Posts by route and result.", "route", "result")
        self._ack = self._histogram("ack_seconds", "From the headers of a post to its durable answer.", _ACK_BOUNDS)
        self._payload = self._counter(
            "payload_bytes",
            "Bytes of accepted call logs: raw as decoded, stored as compressed in the spool.",
            "stage",
        )
        self._two_phase = self._counter("two_phase", "Call logs that were split into core and detail.")
        self._nonfinite = self._counter("nonfinite_numbers", "NaN and Infinity in accepted call logs, sent on as null.")
        self._redacted = self._counter("redacted", "What was replaced in accepted call logs, by rule.", "rule")
        self._stray_tokens = self._counter(
            "stray_tokens", "Accepted call logs whose top-level token is no credential: it stays in them."
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
            "webhook_provider_dropped", "Webhooks that the provider says it gave up before.", "source"
        )
        self._webhook_skew = GaugeTally(
            "callspool_webhook_clock_skew_seconds",
            "How far the time of the last signature lay in the past; negative for the future.",
            ("source",),
            registry=self.registry,
        )
        self._webhook_accepted = GaugeTally(
            "callspool_webhook_last_accepted_timestamp_seconds",
            "When the last genuine webhook was accepted.",
            ("source",),
            registry=self.registry,
        )
        self._otlp_spans = self._counter(
            "otlp_spans",
            "Spans by result: accepted, rejected (no valid id, too large), late (after the call), damaged (on disk).",
            "result",
        )
        self._otlp_open = GaugeTally(
            "callspool_otlp_open_calls", "Calls whose spans wait for their end.", (), registry=self.registry
        )
        self._spans_sent = self._counter(
            "trace_spans", "The gateway's own spans by result: sent, failed, dropped (the queue was full).", "result"
        )
        self._live_turns = self._counter("live_turns", "Turns of calls that go on, made durable.")
        self._agents_lost = self._counter("agents_lost", "Calls of which the end was made up: their agent is lost.")
        self._watched = GaugeTally(
            "callspool_watched_calls", "Calls that are watched by their heartbeats.", (), registry=self.registry
        )

    def _declare_spool(self) -> None:
        self._commit = self._histogram("commit_seconds", "How long a commit of the spool took.", _COMMIT_BOUNDS)
        self._batch = self._histogram("commit_batch_size", "Requests that shared one commit.", _BATCH_BOUNDS)
        self._given_up = self._counter(
            "details_given_up", "Details that were given up to make room in a full spool (spool.when_full)."
        )

    def _declare_deliveries(self) -> None:
        self._deliveries = self._counter(
            "deliveries",
            "Attempts to deliver, by outcome: delivered, retry, held, diverted, dead or corrupt.",
            "destination",
            "lane",
            "outcome",
        )
        self._delivery = self._histogram(
            "delivery_seconds", "How long an attempt to deliver took.", _DELIVERY_BOUNDS, "destination", "lane"
        )
        self._arrival = self._histogram(
            "core_delivered_seconds",
            "From the acceptance of a call log until its core, or all of it where it is small, was delivered.",
            _ARRIVAL_BOUNDS,
            "destination",
        )

    def _declare_uploads(self) -> None:
        """To buckets, and through upload addresses."""
        self._large = self._counter(
            "large_payloads",
            "Details and large wholes that were delivered as objects, to a bucket or through an upload address.",
            "destination",
        )
        self._upload = self._histogram(
            "upload_seconds",
            "How long it took to send an object and to confirm it, at a bucket or through an upload address.",
            _UPLOAD_BOUNDS,
            "destination",
        )
        self._upload_bytes = self._counter(
            "upload_bytes", "Bytes of the delivered objects, as the storage keeps them.", "destination"
        )
        self._parts = self._counter(
            "upload_parts",
            "Parts of objects: sent, repeated (sent again because the first result is unknown), or resumed "
            "(already at the server after a restart or a failure, not sent again).",
            "destination",
            "result",
        )
        self._aborted = self._counter(
            "uploads_aborted",
            "Abandoned multipart uploads: aborted at the server, or failed to abort.",
            "destination",
            "result",
        )
        self._read_back = self._counter(
            "upload_read_back_bytes",
            "Bytes that were read back because the server gave no checksum that proves the object.",
            "destination",
        )

    def _declare_admin(self) -> None:
        self._admin_refusals = self._counter(
            "admin_refusals",
            "Requests to the admin listener that were refused, by reason: no_token, wrong_token, too_many_guesses, "
            "remote, host or cross_site.",
            "reason",
        )

    def _declare_stores(self) -> None:
        """And the calls that are put together in them."""
        self._store_rows = self._counter(
            "store_rows",
            "Parts of calls that stores were given: new, duplicate (the store had it), or refused (a value of it).",
            "destination",
            "kind",
            "result",
        )
        self._store_batch = self._histogram(
            "store_batch_size", "Parts that shared one transaction of a store.", _BATCH_BOUNDS, "destination"
        )
        self._store_commit = self._histogram(
            "store_commit_seconds", "How long a transaction of a store took.", _DELIVERY_BOUNDS, "destination"
        )
        self._completed = self._counter(
            "completion_calls",
            "Calls: complete, late (completed after they had been given up), timed_out (no end came in time), or "
            "orphan (no start came in time).",
            "destination",
            "result",
        )
        self._match = GaugeTally(
            "callspool_completion_match_ratio",
            "Of the calls that were concluded since the start, the share that has both its start and its end.",
            ("destination",),
            registry=self.registry,
        )
        self._wait = self._histogram(
            "completion_wait_seconds",
            "From the first part of a call in the store to its completion, in whole seconds.",
            _WAIT_BOUNDS,
            "destination",
        )
        self._lag = self._histogram(
            "completion_lag_seconds",
            "How long ago the oldest part of a transaction was accepted when the store committed it.",
            _DELIVERY_BOUNDS,
            "destination",
        )
        self._waiting = GaugeTally(
            "callspool_completion_open_calls",
            "Calls that wait for their start or end, as of the last sweep.",
            ("destination",),
            registry=self.registry,
        )
        self._reference = self._histogram(
            "reference_download_seconds",
            "How long reading and decoding an object that a reference names took (S3DownloadDuration).",
            _DELIVERY_BOUNDS,
        )
        self._reference_bytes = self._counter(
            "reference_download_bytes", "Bytes of the objects that references named, once decoded."
        )
        self._routed = self._counter(
            "route_queries",
            "Questions about calls by the path that answered: complete (the new one), or merged (the old one).",
            "path",
        )
        self._mismatch = self._counter(
            "route_mismatch", "Questions that both paths were asked, and answered differently."
        )

    def _declare_outboxes(self) -> None:
        self._outbox_rows = self._counter(
            "outbox_rows",
            "Rows of the SDK's outbox: rescued, duplicate (its post had been accepted), superseded (an end without "
            "telemetry of a call whose end is known), or refused (not a call log; left there).",
            "path",
            "outcome",
        )
        self._outbox_bytes = self._counter(
            "outbox_rescued_bytes", "Bytes of the rows that became new records of the spool.", "path"
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> CounterTally:
        return CounterTally(f"callspool_{name}_total", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, bounds: tuple[float, ...], *labels: str) -> HistogramTally:
        return HistogramTally(f"callspool_{name}", meaning, bounds, labels, registry=self.registry)
