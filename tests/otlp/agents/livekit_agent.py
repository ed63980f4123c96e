"""A real LiveKit agent: calls in text mode, with a model that is a stub, exported by OpenTelemetry's own SDK.

python livekit_agent.py URL TURNS CALL_ID
"""

import asyncio
import sys

from livekit.agents import DEFAULT_API_CONNECT_OPTIONS, Agent, AgentSession, APIConnectOptions, llm
from livekit.agents.telemetry import set_tracer_provider
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


class Stream(llm.LLMStream):
    """Answers with what was said last."""

    async def _run(self) -> None:
        said = [item.text_content for item in self._chat_ctx.items if getattr(item, "role", "") == "user"][-1]
        delta = llm.ChoiceDelta(role="assistant", content=f"you said: {said}")
        self._event_ch.send_nowait(llm.ChatChunk(id="1", delta=delta))


class Model(llm.LLM):
    """A model that costs nothing."""

    def chat(
        self,
        *,
        chat_ctx: llm.ChatContext,
        tools: list[llm.Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        **_: object,
    ) -> Stream:
        """See `llm.LLM`."""
        return Stream(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


async def main(url: str, turns: int, call_id: str) -> None:
    """One call, as a job of a worker has one."""
    provider = TracerProvider(shutdown_on_exit=False)
    processor = BatchSpanProcessor(OTLPSpanExporter(url), max_export_batch_size=32, schedule_delay_millis=100)
    provider.add_span_processor(processor)
    set_tracer_provider(provider, metadata={"session.id": call_id})
    async with AgentSession(llm=Model()) as session:
        await session.start(Agent(instructions="Repeat what is said."))
        for turn in range(turns):
            await session.run(user_input=f"{call_id} says {turn}")
    await asyncio.to_thread(provider.shutdown)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
