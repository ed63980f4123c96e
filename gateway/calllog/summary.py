"""The figures that a dashboard shows of a call before its detail has come, from its turns and spans.

Each figure that cannot be known is left out. Times of turns are seconds, as their metrics are; times of operations
are milliseconds, as theirs are. Averages are arithmetic; the percentiles p50 and p95 are interpolated linearly
between the two nearest ranks of the sorted values, (n - 1) * p / 100 counted from 0.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from gateway.calllog.telemetry import Span, Turn

Figures = dict[str, int | float]

_SECONDS_DIGITS: Final = 6
_MILLISECONDS_DIGITS: Final = 3
_OTHER: Final = "other"
"""What a span without an operation type is counted as, and what comes after too many different ones."""
_MAX_OPERATION_TYPES: Final = 32
_MAX_NAME: Final = 200
"""Characters of a span's name or type in a summary: the sizes of all figures together stay bounded."""
_SLOWEST: Final = 5
_TIMED_OPERATIONS: Final = ("llm", "tts", "stt")


def summary_metrics(turns: Sequence[Turn], *, duration_seconds: float | None = None) -> Figures:
    """The `summary_metrics` of the core.

    `total_turns`; `total_tokens` (prompt and completion, where any turn knows them); of `ttft`, `ttfb` and
    `end_of_utterance_delay` the average, p50 and p95; `duration_seconds` if given; and `avg_latency`: the average
    time that a caller waited for the answer, which for a turn is its end_of_utterance_delay, ttft and ttfb, as
    far as each is known, and where at least one of ttft and ttfb is.
    """
    figures: Figures = {"total_turns": len(turns)}
    figures.update(_average("latency", _known(turn.latency for turn in turns)))
    if tokens := [turn.tokens for turn in turns if turn.tokens is not None]:
        figures["total_tokens"] = sum(tokens)
    for name, values in (
        ("ttft", _known(turn.ttft for turn in turns)),
        ("ttfb", _known(turn.ttfb for turn in turns)),
        ("end_of_utterance_delay", _known(turn.end_of_utterance_delay for turn in turns)),
    ):
        figures.update(_average(name, values))
        figures.update(_percentiles(name, values))
    if duration_seconds is not None:
        figures["duration_seconds"] = duration_seconds
    return figures


def telemetry_summary(spans: Sequence[Span]) -> dict[str, object]:
    """The `telemetry_summary` of the core.

    `total_spans`; `avg_llm_latency`, `avg_tts_latency`, `avg_stt_latency` (ms) of the spans with that operation
    type and a known duration; `operation_counts` by type; `error_count`: spans with an error status or an
    exception; `slowest_operations`: the 5 slowest, the earlier one first where two took the same time.
    """
    summary: dict[str, object] = {"total_spans": len(spans)}
    timed = [(duration, span) for span in spans if (duration := span.milliseconds) is not None]
    for operation in _TIMED_OPERATIONS:
        durations = [duration for duration, span in timed if span.operation_type == operation]
        if durations:
            summary[f"avg_{operation}_latency"] = round(math.fsum(durations) / len(durations), _MILLISECONDS_DIGITS)
    summary["operation_counts"] = _operation_counts(spans)
    summary["error_count"] = sum(span.failed for span in spans)
    timed.sort(key=lambda entry: -entry[0])
    summary["slowest_operations"] = [_operation(span, duration) for duration, span in timed[:_SLOWEST]]
    return summary


def transcript_json(turns: Iterable[Turn]) -> list[dict[str, str]]:
    """The conversation as plain turns, `{"role": "user" | "assistant", "content"}`, without the silent ones."""
    transcript = []
    for turn in turns:
        if turn.user_transcript:
            transcript.append({"role": "user", "content": turn.user_transcript})
        if turn.agent_response:
            transcript.append({"role": "assistant", "content": turn.agent_response})
    return transcript


def duration_between(started_at: object, ended_at: object) -> float | None:
    """Seconds from start to end, each an ISO 8601 string or a Unix number in seconds.

    None when either is missing or unreadable, when the end is before the start, and when only one names its
    offset from UTC, because the agent's own zone is not known here.
    """
    started, ended = _moment(started_at), _moment(ended_at)
    if isinstance(started, datetime) and isinstance(ended, datetime):
        if (started.tzinfo is None) != (ended.tzinfo is None):
            return None
        duration = (ended - started).total_seconds()
    elif (from_seconds := _unix(started)) is not None and (to_seconds := _unix(ended)) is not None:
        duration = to_seconds - from_seconds
    else:
        return None
    return round(duration, _SECONDS_DIGITS) if duration >= 0 else None


def _moment(value: object) -> datetime | float | None:
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _unix(moment: datetime | float | None) -> float | None:
    if isinstance(moment, datetime):
        return None if moment.tzinfo is None else moment.timestamp()
    return moment


def _known(values: Iterable[float | None]) -> list[float]:
    return sorted(value for value in values if value is not None)


def _average(name: str, values: Sequence[float]) -> Figures:
    return {f"avg_{name}": round(math.fsum(values) / len(values), _SECONDS_DIGITS)} if values else {}


def _percentiles(name: str, ascending: Sequence[float]) -> Figures:
    if not ascending:
        return {}
    return {f"p{p}_{name}": round(percentile(ascending, p), _SECONDS_DIGITS) for p in (50, 95)}


def percentile(ascending: Sequence[float], p: float) -> float:
    """The p-th percentile of at least one value in ascending order, interpolated linearly."""
    rank = (len(ascending) - 1) * p / 100
    below = math.floor(rank)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (ascending[above] - ascending[below]) * (rank - below)


def _operation_counts(spans: Iterable[Span]) -> dict[str, int]:
    counts = Counter((span.operation_type or _OTHER)[:_MAX_NAME] for span in spans)
    kept = dict(counts.most_common(_MAX_OPERATION_TYPES))
    if rest := counts.total() - sum(kept.values()):
        kept[_OTHER] = kept.get(_OTHER, 0) + rest
    return kept


def _operation(span: Span, duration: float) -> dict[str, object]:
    return {
        "name": span.name and span.name[:_MAX_NAME],
        "operation_type": (span.operation_type or _OTHER)[:_MAX_NAME],
        "duration_ms": round(duration, _MILLISECONDS_DIGITS),
    }
