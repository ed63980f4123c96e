"""Tests of the metrics: names, labels, meanings, agreement with the spool, cost."""

import sys
from dataclasses import replace
from types import FrameType

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pytest_aiohttp import AiohttpClient

from gateway.admin.gauges import GaugeCollector
from gateway.admin.metrics import Metrics
from gateway.sdk_outbox.model import Outcome
from spool.records import Form
from spool.stats import SpoolStats
from tests.admin.admin_app import ENDPOINT_DOWN, AdminFigures, Client, View, delivery
from uploaders.stores.parts import PartKind
from uploaders.stores.store import CallPath, Swept, Written

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

PUBLISHED = {
    "callspool_posts_total": {"route", "result"},
    "callspool_ack_seconds": set(),
    "callspool_payload_bytes_total": {"stage"},
    "callspool_two_phase_total": set(),
    "callspool_nonfinite_numbers_total": set(),
    "callspool_redacted_total": {"rule"},
    "callspool_stray_tokens_total": set(),
    "callspool_backlog_records": {"destination", "lane"},
    "callspool_backlog_bytes": {"destination", "lane"},
    "callspool_oldest_pending_seconds": {"destination", "lane"},
    "callspool_deliveries_total": {"destination", "lane", "outcome"},
    "callspool_delivery_seconds": {"destination", "lane"},
    "callspool_dead_records": {"destination"},
    "callspool_dead_reasons": {"destination", "reason"},
    "callspool_spool_bytes": set(),
    "callspool_quarantined_databases": set(),
    "callspool_quarantined_bytes": set(),
    "callspool_spool_limit_bytes": set(),
    "callspool_spool_reserve_bytes": set(),
    "callspool_details_given_up_total": set(),
    "callspool_commit_seconds": set(),
    "callspool_commit_batch_size": set(),
    "callspool_unaccounted_records": set(),
    "callspool_destination_up": {"destination"},
    "callspool_breaker_state": {"destination", "state"},
    "callspool_breaker_open_since_seconds": {"destination", "reason"},
    "callspool_refused_tokens": {"destination"},
    "callspool_concurrency": {"destination", "lane"},
    "callspool_intake_posts_in_flight": set(),
    "callspool_intake_posts_waiting": set(),
    "callspool_intake_memory_bytes": set(),
    "callspool_intake_memory_limit_bytes": set(),
    "callspool_live_calls": set(),
    "callspool_drain_throttled": set(),
    "callspool_outbox_rows_total": {"path", "outcome"},
    "callspool_outbox_rescued_bytes_total": {"path"},
    "callspool_outbox_waiting_rows": {"path"},
    "callspool_outbox_up": {"path"},
    "callspool_admin_refusals_total": {"reason"},
    "callspool_store_rows_total": {"destination", "kind", "result"},
    "callspool_store_batch_size": {"destination"},
    "callspool_store_commit_seconds": {"destination"},
    "callspool_completion_calls_total": {"destination", "result"},
    "callspool_completion_open_calls": {"destination"},
    "callspool_pipeline_steps_total": {"step", "outcome"},
    "callspool_pipeline_step_seconds": {"step"},
    "callspool_pipeline_queued_calls": set(),
    "callspool_pipeline_oldest_queued_seconds": set(),
    "callspool_model_requests_total": {"purpose", "outcome"},
    "callspool_model_tokens_total": {"purpose"},
    "callspool_model_paid_again_total": set(),
    "callspool_callbacks_total": {"outcome"},
    "callspool_callback_late_seconds": set(),
    "callspool_completion_match_ratio": {"destination"},
    "callspool_completion_wait_seconds": {"destination"},
    "callspool_completion_lag_seconds": {"destination"},
    "callspool_reference_download_seconds": set(),
    "callspool_reference_download_bytes_total": set(),
    "callspool_log_messages_dropped_total": set(),
    "callspool_audit_lines_dropped_total": set(),
    "callspool_large_payloads_total": {"destination"},
    "callspool_upload_seconds": {"destination"},
    "callspool_upload_bytes_total": {"destination"},
    "callspool_upload_parts_total": {"destination", "result"},
    "callspool_uploads_aborted_total": {"destination", "result"},
    "callspool_upload_read_back_bytes_total": {"destination"},
    "callspool_route_queries_total": {"path"},
    "callspool_route_mismatch_total": set(),
    "callspool_ready": set(),
    "callspool_build_info": {"version"},
    "callspool_disk_free_bytes": set(),
    "callspool_held_records": {"destination"},
    "callspool_core_delivered_seconds": {"destination"},
    "callspool_webhooks_total": {"source", "type", "result"},
    "callspool_webhook_provider_dropped_total": {"source"},
    "callspool_webhook_clock_skew_seconds": {"source"},
    "callspool_webhook_last_accepted_timestamp_seconds": {"source"},
    "callspool_otlp_spans_total": {"result"},
    "callspool_trace_spans_total": {"result"},
    "callspool_otlp_open_calls": set(),
    "callspool_live_turns_total": set(),
    "callspool_agents_lost_total": set(),
    "callspool_watched_calls": set(),
}
"""The names and labels that dashboards and alerts build on."""


def count_everything(metrics: Metrics) -> None:
    metrics.posted("send-call-log", "accepted")
    metrics.posted("send-call-log", "accepted")
    metrics.acknowledged(0.004)
    metrics.payload(1000, 200)
    metrics.two_phase()
    metrics.redacted({"card": 2})
    metrics.details_given_up(3)
    metrics.step_ended("summary", "done", 0.5)
    metrics.model_asked("summary", "answered", 700)
    metrics.paid_again()
    metrics.pipeline_queued(4, 12.5)
    metrics.callback_ended("fired", 0.5)
    metrics.attempted(delivery(Form.DETAIL), "retry", 1.5)
    metrics.attempted(delivery(Form.DETAIL), "delivered", 2.5)
    metrics.committed(0.002, 16)
    metrics.row_settled("/tmp/outbox.db", Outcome.RESCUED, 2000)
    metrics.part_sent("s3", 8_000_000, repeated=False)
    metrics.part_sent("s3", 8_000_000, repeated=True)
    metrics.parts_resumed("s3", 3)
    metrics.object_delivered("s3", 40_000_000, 2.0, large=True)
    metrics.object_delivered("s3", 1_000, 0.1, large=False)
    metrics.uploads_aborted("s3", 2, failed=1)
    metrics.read_back("s3", 1_000)
    metrics.admin_refused("no_token")
    written = Written(new={PartKind.START: 1}, completed=1, waits={70: 1})
    metrics.parts_written("db", {PartKind.START: 2}, 0.01, 1.5, written)
    metrics.part_refused("db", PartKind.END)
    metrics.reference_downloaded(0.5, 4_000)
    metrics.calls_swept("db", Swept(timed_out=1, orphans=2, waiting=3))
    metrics.attempted(delivery(Form.CORE), "delivered", 0.5)
    metrics.webhook("retell", "call_ended", "accepted")
    metrics.webhook_dropped("livekit", 2)
    metrics.webhook_skew("retell", 0.5)
    metrics.webhook_accepted_at("retell", 1_700_000_000_000)
    metrics.otlp_spans("accepted", 27)
    metrics.spans_exported("sent", 1)
    metrics.otlp_open_calls(1)
    metrics.turns_kept(3)
    metrics.agent_lost()
    metrics.calls_watched(2)
    metrics.query_routed(CallPath.COMPLETE)


async def scrape(client: Client) -> tuple[str, Samples]:
    answer = await client.get("/metrics")
    assert answer.status == 200
    text = await answer.text()
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return text, samples


def base_name(sample: str) -> str:
    for suffix in ("_bucket", "_sum", "_count"):
        if sample.removesuffix(suffix) in PUBLISHED:
            return sample.removesuffix(suffix)
    return sample


async def test_every_published_metric_is_there_with_its_labels_and_no_other(aiohttp_client: AiohttpClient) -> None:
    """Names and labels are an interface: none is missing, none is renamed, none comes without being published."""
    world = AdminFigures()
    count_everything(world.metrics)
    _, samples = await scrape(await aiohttp_client(world.app))
    found: dict[str, set[str]] = {}
    for name, labels in samples:
        if name.startswith("callspool_"):
            found.setdefault(base_name(name), set()).update(key for key, _ in labels if key != "le")
    assert found == PUBLISHED


async def test_every_metric_has_a_help_text_that_is_a_sentence(aiohttp_client: AiohttpClient) -> None:
    """Whoever finds a metric finds out what it means."""
    world = AdminFigures()
    count_everything(world.metrics)
    text, _ = await scrape(await aiohttp_client(world.app))
    helps = dict(line.split(" ", 3)[2:] for line in text.splitlines() if line.startswith("# HELP callspool_"))
    assert len(helps) == len(PUBLISHED)
    assert all(len(meaning) > 15 and meaning.endswith(".") for meaning in helps.values()), helps


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("callspool_posts_total", {"route": "send-call-log", "result": "accepted"}, 2),
        ("callspool_payload_bytes_total", {"stage": "raw"}, 1000),
        ("callspool_payload_bytes_total", {"stage": "stored"}, 200),
        ("callspool_two_phase_total", {}, 1),
        ("callspool_ack_seconds_count", {}, 1),
        ("callspool_ack_seconds_bucket", {"le": "0.005"}, 1),
        ("callspool_commit_seconds_sum", {}, 0.002),
        ("callspool_commit_batch_size_sum", {}, 16),
        ("callspool_deliveries_total", {"destination": "endpoint", "lane": "detail", "outcome": "retry"}, 1),
        ("callspool_delivery_seconds_sum", {"destination": "endpoint", "lane": "detail"}, 4.0),
        ("callspool_backlog_records", {"destination": "endpoint", "lane": "core"}, 10),
        ("callspool_backlog_bytes", {"destination": "endpoint", "lane": "detail"}, 480_000_000),
        ("callspool_backlog_records", {"destination": "gone", "lane": "core"}, 3),
        ("callspool_oldest_pending_seconds", {"destination": "endpoint", "lane": "core"}, 90.0),
        ("callspool_oldest_pending_seconds", {"destination": "gone", "lane": "core"}, 0.0),
        ("callspool_dead_records", {"destination": "endpoint"}, 2),
        ("callspool_dead_records", {"destination": "gone"}, 0),
        ("callspool_dead_reasons", {"destination": "endpoint", "reason": "refused"}, 2),
        ("callspool_spool_bytes", {}, 3_400_000_000),
        ("callspool_spool_limit_bytes", {}, 10_000_000_000),
        ("callspool_spool_reserve_bytes", {}, 500_000_000),
        ("callspool_details_given_up_total", {}, 3),
        ("callspool_unaccounted_records", {}, 0),
        ("callspool_outbox_rows_total", {"path": "/tmp/outbox.db", "outcome": "rescued"}, 1),
        ("callspool_outbox_rescued_bytes_total", {"path": "/tmp/outbox.db"}, 2000),
        ("callspool_outbox_waiting_rows", {"path": "/tmp/outbox.db"}, 2),
        ("callspool_store_rows_total", {"destination": "db", "kind": "start", "result": "duplicate"}, 1),
        ("callspool_store_rows_total", {"destination": "db", "kind": "end", "result": "refused"}, 1),
        ("callspool_completion_calls_total", {"destination": "db", "result": "orphan"}, 2),
        ("callspool_completion_match_ratio", {"destination": "db"}, 0.25),
        ("callspool_completion_wait_seconds_sum", {"destination": "db"}, 70),
        ("callspool_completion_lag_seconds_sum", {"destination": "db"}, 1.5),
        ("callspool_reference_download_bytes_total", {}, 4_000),
        ("callspool_completion_open_calls", {"destination": "db"}, 3),
        ("callspool_intake_posts_waiting", {}, 2),
        ("callspool_intake_memory_bytes", {}, 5_000_000),
        ("callspool_outbox_up", {"path": "/tmp/outbox.db"}, 0),
        ("callspool_destination_up", {"destination": "endpoint"}, 0),
        ("callspool_destination_up", {"destination": "local"}, 1),
        ("callspool_large_payloads_total", {"destination": "s3"}, 1),
        ("callspool_upload_seconds_sum", {"destination": "s3"}, 2.1),
        ("callspool_upload_seconds_count", {"destination": "s3"}, 2),
        ("callspool_upload_bytes_total", {"destination": "s3"}, 40_001_000),
        ("callspool_upload_parts_total", {"destination": "s3", "result": "sent"}, 1),
        ("callspool_upload_parts_total", {"destination": "s3", "result": "repeated"}, 1),
        ("callspool_upload_parts_total", {"destination": "s3", "result": "resumed"}, 3),
        ("callspool_uploads_aborted_total", {"destination": "s3", "result": "aborted"}, 2),
        ("callspool_uploads_aborted_total", {"destination": "s3", "result": "failed"}, 1),
        ("callspool_upload_read_back_bytes_total", {"destination": "s3"}, 1_000),
    ],
)
async def test_a_metric_says_what_happened_and_how_things_stand(
    aiohttp_client: AiohttpClient, name: str, labels: dict[str, str], value: float
) -> None:
    """Counters hold what was counted, gauges what the spool and the dispatcher say."""
    world = AdminFigures()
    count_everything(world.metrics)
    _, samples = await scrape(await aiohttp_client(world.app))
    assert samples[name, tuple(sorted(labels.items()))] == pytest.approx(value)


async def test_one_scrape_takes_one_snapshot_of_the_spool() -> None:
    """The gauges of a scrape agree with each other, because they come from the same moment."""

    class CountedView(View):
        asked = 0

        def spool_stats(self) -> SpoolStats | None:
            self.asked += 1
            return super().spool_stats()

    view = CountedView(AdminFigures())
    assert {family.name for family in GaugeCollector(view).collect()} >= {"callspool_spool_bytes"}
    assert view.asked == 1


async def test_while_the_spool_is_not_open_the_other_metrics_are_served(aiohttp_client: AiohttpClient) -> None:
    """A gateway that is starting or broken can still be scraped."""
    world = AdminFigures(stats=None)
    world.metrics.posted("batch", "starting")
    _, samples = await scrape(await aiohttp_client(world.app))
    assert ("callspool_posts_total", (("result", "starting"), ("route", "batch"))) in samples
    assert not any(name == "callspool_spool_bytes" for name, _ in samples)


async def test_a_destination_that_is_no_longer_configured_is_not_shown_as_down(aiohttp_client: AiohttpClient) -> None:
    """What the configuration no longer has does not alert; its backlog is still there to see."""
    gone = replace(ENDPOINT_DOWN, name="gone", configured=False)
    _, samples = await scrape(await aiohttp_client(AdminFigures(destinations=(gone,)).app))
    assert not any(name == "callspool_destination_up" for name, _ in samples)


async def test_the_process_is_measured_too(aiohttp_client: AiohttpClient) -> None:
    """Memory and CPU of the process are among the metrics."""
    _, samples = await scrape(await aiohttp_client(AdminFigures().app))
    assert samples["process_resident_memory_bytes", ()] > 1_000_000


async def test_openmetrics_is_served_to_those_who_ask(aiohttp_client: AiohttpClient) -> None:
    """The format is the one that the scraper accepts."""
    client = await aiohttp_client(AdminFigures().app)
    answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert (await answer.text()).endswith("# EOF\n")


def test_counting_a_post_costs_little() -> None:
    """Both calls run for every post: together they make a handful of others, and look no label up."""
    metrics = Metrics()
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    metrics.posted("send-call-log", "accepted")
    sys.setprofile(count)
    try:
        for _ in range(100):
            metrics.posted("send-call-log", "accepted")
            metrics.acknowledged(0.004)
    finally:
        sys.setprofile(None)
    assert calls / 100 <= 20, "it was 16 when this was written"
