"""Spans as agents export them: a gateway that is killed between and during posts makes one call log of each call."""

import asyncio
from pathlib import Path
from random import Random

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, set_span_in_context

from bench.endpoint import Endpoint
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.prove)])
async def test_spans_of_the_real_exporter_survive_kills(tmp_path: Path, kills: int) -> None:
    """Three calls in the same batches, a kill in the middle of each flush: each span is in one call log, once."""
    chance = Random(7)
    async with Endpoint() as endpoint:
        settings = {"CALLSPOOL_ENDPOINT_URL": endpoint.url, "CALLSPOOL_OTLP_CLOSE_AFTER": "1s"}
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            exporter = OTLPSpanExporter(f"{gateway.intake_url}/v1/traces", timeout=10)
            provider = TracerProvider(shutdown_on_exit=False)
            provider.add_span_processor(BatchSpanProcessor(exporter, max_export_batch_size=16))
            tracer = provider.get_tracer("agent")
            roots = [tracer.start_span("conversation", attributes={"conversation.id": f"c{n}"}) for n in range(3)]
            made = 0

            def turns(count: int) -> None:
                nonlocal made
                for _ in range(count):
                    for root in roots:
                        inside = set_span_in_context(root)
                        with tracer.start_as_current_span("llm", inside, attributes={"output": f"said {made}"}):
                            made += 1

            try:
                for _ in range(kills):
                    turns(20)
                    flushing = asyncio.create_task(asyncio.to_thread(provider.force_flush))
                    await asyncio.sleep(chance.random() * 0.02)
                    await gateway.kill()
                    await gateway.start()
                    assert await flushing, "the exporter repeats within its ten seconds"
                _end(roots)
                assert await asyncio.to_thread(provider.force_flush)
            finally:
                await asyncio.to_thread(provider.shutdown)

            async def arrived() -> bool:
                spans = sum(int(log["otel"]["spans"]) for log in endpoint.call_logs)
                return spans >= made + len(roots)

            await until(arrived, "all spans are at the endpoint")
            await gateway.delivered()
            assert await gateway.metric("callspool_unaccounted_records") == 0
        logs = endpoint.call_logs
        assert {log["call_id"] for log in logs} == {"c0", "c1", "c2"}
        spans = [span["context"]["span_id"] for log in logs for span in log["telemetry_data"]["session_traces"]]
        assert len(spans) == len(set(spans)) == made + len(roots)
        said = [turn["content"] for log in logs for turn in log["transcript_json"]]
        assert sorted(said) == sorted(f"said {number}" for number in range(made))


def _end(roots: list[Span]) -> None:
    for root in roots:
        root.end()
