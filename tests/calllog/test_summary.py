"""The figures of a summary, and what becomes of values that no figure can be made of."""

import json
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from gateway.calllog.summary import (
    duration_between,
    percentile,
    read_spans,
    read_turns,
    summary_metrics,
    telemetry_summary,
    transcript_json,
)


def metrics(turns: object, duration_seconds: float | None = None) -> dict[str, int | float]:
    read = read_turns(json.dumps(turns).encode())
    assert read is not None
    return summary_metrics(read, duration_seconds=duration_seconds)


def telemetry(spans: object) -> dict[str, object]:
    read = read_spans(json.dumps({"other": 1, "session_traces": spans}).encode())
    assert read is not None
    return telemetry_summary(read)


def turn(ttft: object = None, ttfb: object = None, delay: object = None, **tokens: object) -> dict[str, object]:
    return {
        "llm_metrics": {"ttft": ttft, **tokens},
        "tts_metrics": {"ttfb": ttfb, "unknown": []},
        "eou_metrics": {"end_of_utterance_delay": delay},
    }


def test_metrics_of_ordinary_turns() -> None:
    """Averages, percentiles, tokens and latency are those of the turns that know them."""
    turns = [
        turn(0.5, 0.2, 0.3, prompt_tokens=100, completion_tokens=20),
        turn(1.0, 0.4, None, prompt_tokens=200),
        turn(None, 0.6, 0.5),
        turn(None, None, 0.7),
        {"llm_metrics": None, "tts_metrics": None, "eou_metrics": None},
    ]
    assert metrics(turns, 12.5) == {
        "total_turns": 5,
        "total_tokens": 320,
        "avg_latency": pytest.approx((1.0 + 1.4 + 1.1) / 3, abs=1e-6),
        "avg_ttft": 0.75,
        "p50_ttft": 0.75,
        "p95_ttft": 0.975,
        "avg_ttfb": 0.4,
        "p50_ttfb": 0.4,
        "p95_ttfb": 0.58,
        "avg_end_of_utterance_delay": 0.5,
        "p50_end_of_utterance_delay": 0.5,
        "p95_end_of_utterance_delay": 0.68,
        "duration_seconds": 12.5,
    }


@pytest.mark.parametrize("odd", ["0.5", True, {}, [], -1, 1e300, None])
def test_an_odd_figure_leaves_itself_out(odd: object) -> None:
    """A value of an unexpected type or size is left out, and the others of the same turn still count."""
    assert metrics([turn(odd, 0.2), turn(0.5, 0.4)]) == {
        "total_turns": 2,
        "avg_latency": 0.55,
        "avg_ttft": 0.5,
        "p50_ttft": 0.5,
        "p95_ttft": 0.5,
        "avg_ttfb": 0.3,
        "p50_ttfb": 0.3,
        "p95_ttfb": 0.39,
    }


@pytest.mark.parametrize("odd", [None, 1, "turn", [], {"llm_metrics": "none", "user_transcript": ["x"]}])
def test_an_odd_turn_is_counted_and_no_more(odd: object) -> None:
    """A turn that is none is a turn without figures; those beside it keep theirs."""
    assert metrics([odd, {**turn(0.5), "user_transcript": "hi"}])["avg_ttft"] == 0.5
    assert metrics([odd])["total_turns"] == 1


@pytest.mark.parametrize("raw", [b"null", b"{}", b"7", b'"text"'])
def test_what_is_no_list_has_no_turns_and_no_spans(raw: bytes) -> None:
    """Turns and spans are unknown, not none, where the value is no list."""
    assert read_turns(raw) is None
    assert read_spans(raw) is None
    assert read_spans(b'{"session_traces": ' + raw + b"}") is None


def test_lone_surrogates_do_not_hide_the_figures() -> None:
    """Turns and spans with half surrogate pairs are read, with U+FFFD in place of each half."""
    turns = read_turns(b'[{"user_transcript": "a\\ud800b \\\\ud800 \\ud83d\\ude00", "llm_metrics": {"ttft": 1}}]')
    assert turns is not None
    assert transcript_json(turns, max_bytes=1_000) == [{"role": "user", "content": "a\ufffdb \\ud800 😀"}]
    assert turns[0].ttft == 1
    spans = read_spans(b'{"session_traces": [{"name": "\\udc00", "duration_ms": 2}]}')
    assert spans is not None
    assert [(span.name, span.milliseconds) for span in spans] == [("\ufffd", 2)]


def test_deep_nesting_leaves_the_figures_out() -> None:
    """What is nested too deep for the decoder has no figures, and is no failure."""
    deep = b"[" * 100_000 + b"]" * 100_000
    assert read_turns(b'[{"x": ' + deep + b"}]") is None
    assert read_spans(b'{"session_traces": [{"x": ' + deep + b"}]}") is None


def test_telemetry_of_ordinary_spans() -> None:
    """Latencies by type, counts, errors and the five slowest are those of the spans."""
    spans = [
        {"name": f"s{n}", "operation_type": kind, "duration_ms": duration}
        for n, (kind, duration) in enumerate(
            [("llm", 100), ("llm", 200.5), ("tts", 50), ("stt", 7), ("tool", 900), ("llm", 50)]
        )
    ]
    assert telemetry(spans) == {
        "total_spans": 6,
        "avg_llm_latency": 116.833,
        "avg_tts_latency": 50.0,
        "avg_stt_latency": 7.0,
        "operation_counts": {"llm": 3, "tts": 1, "stt": 1, "tool": 1},
        "error_count": 0,
        "slowest_operations": [
            {"name": "s4", "operation_type": "tool", "duration_ms": 900.0},
            {"name": "s1", "operation_type": "llm", "duration_ms": 200.5},
            {"name": "s0", "operation_type": "llm", "duration_ms": 100.0},
            {"name": "s2", "operation_type": "tts", "duration_ms": 50.0},
            {"name": "s5", "operation_type": "llm", "duration_ms": 50.0},
        ],
    }


@pytest.mark.parametrize(
    ("span", "milliseconds"),
    [
        ({"duration_ms": 2}, 2.0),
        ({"duration_ms": "2", "duration_ns": 3_000_000}, 3.0),
        ({"duration_ns": 3_500_000}, 3.5),
        ({"start_time_ns": 1795300690087249415, "end_time_ns": 1795300690089699941}, 2.450526),
        ({"start_time_ns": 5, "end_time_ns": 4}, None),
        ({"start_time_ns": 5}, None),
        ({"duration_ms": -1}, None),
        ({"duration_ns": 10**400}, None),
        ({}, None),
        (None, None),
        ("span", None),
    ],
)
def test_duration_comes_from_the_first_field_that_tells(span: object, milliseconds: float | None) -> None:
    """A span's duration is its milliseconds, else its nanoseconds, else its end less its start."""
    slowest = telemetry([span])["slowest_operations"]
    assert isinstance(slowest, list)
    assert [operation["duration_ms"] for operation in slowest] == (
        [] if milliseconds is None else [pytest.approx(milliseconds, abs=1e-3)]
    )


@pytest.mark.parametrize(
    ("span", "failed"),
    [
        ({"status": {"code": 2}}, True),
        ({"status": {"code": "ERROR"}}, True),
        ({"status": {"code": True, "name": "ERROR"}}, True),
        ({"exceptions": [{"type": "x"}]}, True),
        ({"status": {"code": 1, "name": "OK"}, "exceptions": []}, False),
        ({"status": "ERROR", "exceptions": "none"}, False),
        ({"status": None}, False),
    ],
)
def test_errors_are_counted_by_status_or_exception(span: object, failed: bool) -> None:
    """A span counts as an error by its status, in numbers or words, or by an exception it recorded."""
    assert telemetry([span])["error_count"] == int(failed)


def test_operation_types_are_bounded() -> None:
    """More types than a summary can hold are counted together, and none is missing from the sum."""
    counts = telemetry([{"operation_type": f"type {number // 2}"} for number in range(2_000)] + [{}])[
        "operation_counts"
    ]
    assert isinstance(counts, dict)
    assert len(counts) <= 33
    assert sum(counts.values()) == 2_001


@pytest.mark.parametrize(
    ("values", "p", "expected"),
    [([7.0], 95, 7.0), ([1.0, 2.0], 50, 1.5), ([1.0, 2.0, 3.0], 50, 2.0), ([0.0, 10.0, 20.0, 30.0, 40.0], 95, 38.0)],
)
def test_percentiles_are_interpolated(values: list[float], p: float, expected: float) -> None:
    """A percentile lies between the two nearest ranks in proportion."""
    assert math.isclose(percentile(values, p), expected)


@pytest.mark.parametrize(
    ("started", "ended", "seconds"),
    [
        ("2026-11-21T10:00:00", "2026-11-21T10:05:00.25", 300.25),
        ("2026-11-21T10:00:00Z", "2026-11-21T12:05:00+02:00", 300.0),
        (1795300689.897847, 1795300690.0981426, 0.200296),
        (1795300689, "2026-11-21T00:00:00Z", None),
        (1795219200, "2026-11-21T00:00:09Z", 9.0),
        ("2026-11-21T10:00:00", "2026-11-21T10:05:00Z", None),
        ("2026-11-21T10:00:00", 1795300689, None),
        ("2026-11-21T10:00:00", "2026-11-21T09:59:59", None),
        ("yesterday", "2026-11-21T10:05:00", None),
        (None, 1795300689, None),
        (True, 5, None),
        ({}, [], None),
        (1795300689897, 1795300989897, 300.0),
        (1795300689897.5, 1795300689898, 0.0005),
        (1795300689, 1795300989000, 300.0),
        (1795300689897000, 1795300989897000, 300.0),
        (1795300689897000000, 1795300989897000000, 300.0),
        ("1795300689897", "1795300989897", 300.0),
        ("1795300689.5", 1795300689.75, 0.25),
        (1795219200000, "2026-11-21T00:00:09Z", 9.0),
        (1e308, 1e308, 0.0),
        ("0001-01-01T00:00:00", "0001-01-01T00:00:05", 5.0),
    ],
)
def test_duration_is_known_where_both_ends_are(started: object, ended: object, seconds: float | None) -> None:
    """Start and end give a duration only where both can be read and compared."""
    assert duration_between(started, ended) == seconds


@pytest.fixture(params=["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZoneInfo]:
    """The zone of this machine."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield ZoneInfo(request.param)
    monkeypatch.undo()
    time.tzset()


def changes(zone: ZoneInfo, year: int) -> list[datetime]:
    """The hours of a year, in UTC, after which the clocks of a zone show another offset."""
    hours = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(366 * 24)]
    local = [hour.astimezone(zone).utcoffset() for hour in hours]
    return [hours[n] for n in range(len(hours) - 1) if local[n] != local[n + 1]]


def test_naive_times_across_a_change_of_the_clocks_give_no_duration(zone: ZoneInfo) -> None:
    """The agent's zone is not known: a duration that would be wrong by an hour is left out, however long."""
    found = changes(zone, 2026)
    assert len(found) == 2
    for change in found:
        for minutes in (61, 130, 24 * 60):
            started, ended = change - timedelta(minutes=5), change + timedelta(minutes=minutes)
            naive = [moment.astimezone(zone).replace(tzinfo=None).isoformat() for moment in (started, ended)]
            aware = [moment.astimezone(zone).isoformat() for moment in (started, ended)]
            assert duration_between(*naive) is None
            assert duration_between(*aware) == 60 * (minutes + 5)


def test_naive_times_on_one_side_of_a_change_give_a_duration(zone: ZoneInfo) -> None:
    """Only what lies between the two times matters."""
    for change in changes(zone, 2026):
        for side in (-6, 6):
            started = (change + timedelta(hours=side)).astimezone(zone).replace(tzinfo=None)
            assert duration_between(started.isoformat(), (started + timedelta(minutes=5)).isoformat()) == 300.0
