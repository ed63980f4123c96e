"""A real Pipecat pipeline without services: turns of frames, exported by OpenTelemetry's own SDK.

python pipecat_agent.py URL TURNS CALL_ID
"""

import asyncio
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    EndFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.utils.tracing.setup import setup_tracing

_TURN = (UserStartedSpeakingFrame, UserStoppedSpeakingFrame, BotStartedSpeakingFrame, BotStoppedSpeakingFrame)


async def main(url: str, turns: int, call_id: str) -> None:
    """One call of so many turns."""
    setup_tracing("pipecat-agent", exporter=OTLPSpanExporter(url))
    task = PipelineTask(
        Pipeline([IdentityFilter()]), enable_tracing=True, enable_turn_tracking=True, conversation_id=call_id
    )

    async def talk() -> None:
        for _ in range(turns):
            for frame in _TURN:
                await task.queue_frame(frame())
        await task.queue_frame(EndFrame())

    talking = asyncio.create_task(talk())
    await PipelineRunner(handle_sigint=False).run(task)
    await talking
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    await asyncio.to_thread(provider.shutdown)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
