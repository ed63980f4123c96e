"""The turns and spans of a call log: only the fields that summaries need, the rest is skipped while decoding.

Turns lie in `transcript_with_metrics`, spans in `telemetry_data.session_traces` and in each turn's `otel_spans`.
"""

from typing import Annotated

from msgspec import DecodeError, Meta, Raw, Struct
from msgspec.json import Decoder

from gateway.calllog.lenient import Readable, read_list, read_object, without_lone_surrogates

ERROR_CODE = 2
"""The number of OpenTelemetry's status ERROR."""

Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Milliseconds = Annotated[float, Meta(ge=0, le=1e12)]
Nanoseconds = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Tokens = Annotated[int, Meta(ge=0, le=2**53)]
"""Figures outside of these bounds measure nothing (an unknown time is -1 at some agents), and are left out."""


class LanguageModel(Struct, frozen=True):
    """`llm_metrics` of a turn; `ttft` (time to first token) in seconds."""

    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    ttft: Seconds | None = None


class Speech(Struct, frozen=True):
    """`tts_metrics` of a turn; `ttfb` (time to first byte of sound) in seconds."""

    ttfb: Seconds | None = None


class EndOfUtterance(Struct, frozen=True):
    """`eou_metrics` of a turn; the delay until the caller's turn was taken as ended, in seconds."""

    end_of_utterance_delay: Seconds | None = None


class Turn(Struct, frozen=True):
    """One turn of the conversation."""

    user_transcript: str | None = None
    agent_response: str | None = None
    llm_metrics: LanguageModel | None = None
    tts_metrics: Speech | None = None
    eou_metrics: EndOfUtterance | None = None

    @property
    def ttft(self) -> float | None:
        """Seconds to the first token."""
        return self.llm_metrics.ttft if self.llm_metrics else None

    @property
    def ttfb(self) -> float | None:
        """Seconds to the first sound."""
        return self.tts_metrics.ttfb if self.tts_metrics else None

    @property
    def end_of_utterance_delay(self) -> float | None:
        """Seconds until the caller's turn was taken as ended."""
        return self.eou_metrics.end_of_utterance_delay if self.eou_metrics else None

    @property
    def latency(self) -> float | None:
        """Seconds that the caller waited for the answer: all three, as far as known; None without ttft and ttfb."""
        if self.ttft is None and self.ttfb is None:
            return None
        return (self.end_of_utterance_delay or 0.0) + (self.ttft or 0.0) + (self.ttfb or 0.0)

    @property
    def tokens(self) -> int | None:
        """Prompt and completion tokens, as far as known."""
        metrics = self.llm_metrics
        if metrics is None or (metrics.prompt_tokens is None and metrics.completion_tokens is None):
            return None
        return (metrics.prompt_tokens or 0) + (metrics.completion_tokens or 0)


class Status(Struct, frozen=True):
    """The status of a span, by OpenTelemetry's number or name."""

    code: int | str | None = None
    name: str | None = None


class Span(Struct, frozen=True):
    """One measured operation."""

    name: str | None = None
    operation_type: str | None = None
    duration_ms: Milliseconds | None = None
    duration_ns: Nanoseconds | None = None
    start_time_ns: Nanoseconds | None = None
    end_time_ns: Nanoseconds | None = None
    status: Status | None = None
    exceptions: list[Raw] | None = None

    @property
    def milliseconds(self) -> float | None:
        """How long it took, from the first field that tells; None when none does."""
        if self.duration_ms is not None:
            duration = self.duration_ms
        elif self.duration_ns is not None:
            duration = self.duration_ns / 1e6
        elif self.start_time_ns is not None and self.end_time_ns is not None:
            duration = (self.end_time_ns - self.start_time_ns) / 1e6
        else:
            return None
        return duration if duration >= 0 else None

    @property
    def failed(self) -> bool:
        """Whether its status is an error, or it recorded an exception."""
        if self.exceptions:
            return True
        return self.status is not None and (self.status.code in {ERROR_CODE, "ERROR"} or self.status.name == "ERROR")


class _TelemetryData(Struct, frozen=True):
    session_traces: Raw = Raw(b"null")


class _SoundTelemetryData(Struct, frozen=True):
    session_traces: list[Span] | None = None


_decode_sound = Decoder(_SoundTelemetryData).decode


def read_turns(transcript_with_metrics: Readable) -> list[Turn] | None:
    """The turns; None when the value is no list that can be read."""
    turns = read_list(Turn, transcript_with_metrics)
    if turns is None and (repaired := without_lone_surrogates(transcript_with_metrics)):
        turns = read_list(Turn, repaired)
    return turns


def read_spans(telemetry_data: Readable) -> list[Span] | None:
    """The spans of the session; None when there is no list of them that can be read."""
    spans = _spans(telemetry_data)
    if spans is None and (repaired := without_lone_surrogates(telemetry_data)):
        spans = _spans(repaired)
    return spans


def _spans(telemetry_data: Readable) -> list[Span] | None:
    """In one pass where every field is of its type; otherwise the list is looked for first, and then read leniently."""
    try:
        return _decode_sound(telemetry_data).session_traces
    except (DecodeError, RecursionError):
        return read_list(Span, read_object(_TelemetryData, telemetry_data).session_traces)
