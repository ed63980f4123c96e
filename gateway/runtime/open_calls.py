"""From the settings of calls that go on to what takes their spans, heartbeats and turns."""

from config.open_calls import LiveSettings, OtlpSettings
from gateway.admin.metrics import Metrics
from gateway.heartbeats.source import HeartbeatSource
from gateway.heartbeats.watch import HeartbeatWatch
from gateway.intake.accept import Acceptor
from gateway.intake.body_reader import BodyReader
from gateway.intake.routes import IntakeToken
from gateway.intake.staging import StagingArea, Workers
from gateway.otlp.assembler import ClosingRule, TraceAssembler
from gateway.otlp.source import TraceSource
from gateway.otlp.spans import SpanRule
from spool.records import system_clock
from spool.store import Spool

PII_ATTRIBUTES = (
    "lk.pii.*",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.call.*",
    "input",
    "output",
    "transcript",
    "text",
    "tools",
)
"""What was said, by the names of LiveKit Agents 1.8 and Pipecat 1.14."""


def trace_source(
    settings: OtlpSettings,
    spool: Spool,
    reader: BodyReader,
    acceptor: Acceptor,
    staging: StagingArea,
    token: IntakeToken,
    metrics: Metrics,
) -> TraceSource:
    """What answers `/v1/traces`, and puts calls together that are open from before."""
    rule = ClosingRule(round(settings.close_after * 1000), round(settings.idle_after * 1000))
    dropped = (*settings.drop_attributes, *(PII_ATTRIBUTES if settings.drop_pii else ()))
    spans = SpanRule.of(settings.call_id_attributes, dropped)
    assembler = TraceAssembler(spool.traces, acceptor, staging, rule, spans, spool.token, metrics, system_clock)
    return TraceSource(reader, staging.workers, assembler, spans, token, serves=settings.enabled)


def heartbeat_source(
    settings: LiveSettings,
    spool: Spool,
    reader: BodyReader,
    acceptor: Acceptor,
    workers: Workers,
    token: IntakeToken,
    metrics: Metrics,
) -> HeartbeatSource:
    """What answers heartbeats and turns, and watches the calls that are live from before."""
    watch = HeartbeatWatch(spool.live, acceptor, reader, settings.lost_after, spool.token, metrics, system_clock)
    return HeartbeatSource(reader, workers, watch, acceptor, token, serves=settings.enabled)
