"""Settings of what comes while calls go on: spans, heartbeats, turns."""

from typing import Annotated

from pydantic import Field

from config.types import Duration, Table, Words
from config.values import MINUTE


class OtlpSettings(Table):
    """Spans that agents export by OpenTelemetry, to `/v1/traces` of the intake."""

    enabled: bool = True
    """Whether `/v1/traces` is served. Protobuf needs `callspool[otlp]`; JSON needs nothing."""
    call_id_attributes: Words = ()
    """Attributes that name the call, before those of LiveKit, Pipecat and OpenTelemetry; else the trace id does."""
    close_after: Duration = 5.0
    """A call whose root span came is put together when no span came for this long."""
    idle_after: Duration = 5 * MINUTE
    """A call is put together when no span came for this long, whatever came before."""
    drop_attributes: Words = ()
    """Attributes to leave out, such as the chat that each span repeats; `lk.pii.*` means all that begin so."""
    drop_pii: bool = False
    """Whether to leave out what was said: `lk.pii.*`, messages, prompts, tool calls; and so the transcript."""


class LiveSettings(Table):
    """Heartbeats and turns of calls that go on, to `/v1/calls/{call_id}/heartbeat` and `/turns` of the intake."""

    enabled: bool = True
    """Whether heartbeats and turns are taken."""
    lost_after: Annotated[Duration, Field(ge=5)] = 60.0
    """An agent whose call was watched counts as lost when nothing came from it for this long: three heartbeats."""
