"""The exporter of OpenTelemetry's own Python SDK, as LiveKit Agents and Pipecat use it, against a running intake."""

import asyncio
import logging
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import set_span_in_context

from gateway.otlp import assembler as assembler_module
from tests.otlp.tracing import RULE, Tracing, tracing
from tests.system.waiting import until


class Agent:
    """What an agent traces, sent in batches of eight."""

    def __init__(self, traces: Tracing, compression: Compression = Compression.NoCompression) -> None:
        url = f"http://127.0.0.1:{traces.server.port}/v1/traces"
        exporter = OTLPSpanExporter(url, headers={"x-pype-token": "agents-key"}, timeout=10, compression=compression)
        self.provider = TracerProvider(resource=Resource.create({"service.name": "agent"}), shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(exporter, max_export_batch_size=8))
        self.tracer = self.provider.get_tracer("livekit-agents", "1.8.9")

    def call(self, name: str, turns: int) -> None:
        """One call of so many turns: its root ends last."""
        root = self.tracer.start_span("agent_session", attributes={"lk.room_sid": name})
        inside = set_span_in_context(root)
        for turn in range(turns):
            with self.tracer.start_as_current_span("agent_turn", inside) as span:
                span.set_attributes({"lk.user_input": f"{name} asks {turn}", "lk.response.text": f"é {turn}"})
                with self.tracer.start_as_current_span("llm_request", attributes={"gen_ai.usage.input_tokens": turn}):
                    span.add_event("said", {"turn": turn})
        root.end()

    async def flush(self) -> bool:
        """Send what waits; whether the exporter says so."""
        return await asyncio.to_thread(self.provider.force_flush)

    async def stop(self) -> None:
        await asyncio.to_thread(self.provider.shutdown)


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_calls_of_the_real_exporter_are_put_together(tmp_path: Path, compression: Compression) -> None:
    """Two calls in the same batches, the spans of each in several posts: two call logs with all that was said."""
    async with tracing(tmp_path) as traces:
        agent = Agent(traces, compression)
        try:
            for name, turns in (("one", 12), ("two", 7)):
                agent.call(name, turns)
            assert await agent.flush()
        finally:
            await agent.stop()
        await traces.later(RULE.close_after)
        for name, turns in (("one", 12), ("two", 7)):
            (call_log,) = await traces.call_logs(name)
            assert call_log["otel"]["spans"] == 2 * turns + 1
            assert call_log["agent_id"] == "agent"
            assert [turn["content"] for turn in call_log["transcript_json"]] == [
                said for turn in range(turns) for said in (f"{name} asks {turn}", f"é {turn}")
            ]
            (traced,) = await traces.world.spool.trace(name)
            assert await traces.world.spool.token(traced.record.token_id or 0) == "agents-key"


async def test_the_real_exporter_repeats_what_was_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A 503 with a Retry-After of one second is within its patience: nothing is dropped, and nothing is there twice."""
    caplog.set_level(logging.WARNING, "opentelemetry")  # a gateway that traces itself keeps that quiet for good
    async with tracing(tmp_path) as traces:
        agent = Agent(traces)
        try:
            agent.call("patient", 2)
            with monkeypatch.context() as full:
                full.setattr(assembler_module, "_OPEN_MOST", 0)
                flushing = asyncio.create_task(agent.flush())

                async def refused() -> bool:
                    return "ransient" in caplog.text

                await until(refused, "the exporter was refused")
            assert await flushing
        finally:
            await agent.stop()
        await traces.later(RULE.close_after)
        (call_log,) = await traces.call_logs("patient")
        assert call_log["otel"]["spans"] == 5
