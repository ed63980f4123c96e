"""The spans of a detail as columns."""

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from uploaders.stores import spans
from uploaders.stores.spans import SpansLeftOut, holds_telemetry, read_spans
from uploaders.stores.store import Span

CALLS = Path(__file__).parents[3] / "shared" / "calls"
FILES = sorted(CALLS.glob("*.json.zst"))


def spans_of(*traces: Any) -> list[Span]:
    return list(read_spans(json.dumps({"call_id": "c", "telemetry_data": {"session_traces": traces}}).encode()))


def test_a_span_has_its_columns() -> None:
    """Names, ids, times and status are taken from where the SDK writes them."""
    (span,) = spans_of(
        {
            "name": "llm_node", "operation_type": "llm", "start_time_ns": 1795300689901305067, "duration_ns": 176817698,
            "status": {"code": 2, "name": "ERROR"}, "context": {"trace_id": "0xb", "span_id": "0x4"},
            "parent_span_id": "0x6", "attributes": {"prompt": "x" * 100}, "exceptions": [],
        }
    )  # fmt: skip
    assert span == Span(0, "0xb", "0x4", "0x6", "llm_node", "llm", 1795300689901305067, 176817698, 2, True)


@pytest.mark.parametrize(
    ("trace", "known"),
    [
        ({"start_time_ns": 5, "end_time_ns": 12}, {"start_ns": 5, "duration_ns": 7}),
        ({"start_time_ns": 5.0, "duration_ns": 1.6}, {"start_ns": 5, "duration_ns": 2}),
        ({"duration_ns": 1 << 70, "start_time_ns": "now", "name": 7, "status": "OK", "context": []}, {}),
        ({"status": {"code": True}}, {}),
        ({"status": {"code": 1 << 20}}, {}),
        ({"status": {"code": "ERROR"}}, {"error": True}),
        ({"exceptions": [{"type": "E"}]}, {"error": True}),
        ({"exceptions": None}, {}),
        ({"name": "a\0b\ud800"}, {"name": "a\ufffdb\ufffd"}),
        ("no object", {}),
        (None, {}),
    ],
)
def test_what_is_unexpected_is_left_out_of_its_span(trace: Any, known: dict[str, Any]) -> None:
    """No value makes a span disappear, or the others."""
    odd, sound = spans_of(trace, {"name": "next"})
    empty = Span(0, None, None, None, None, None, None, None, None, False)
    assert {name: getattr(odd, name) for name in Span.__struct_fields__} == {
        name: known.get(name, getattr(empty, name)) for name in Span.__struct_fields__
    }
    assert (sound.seq, sound.name) == (1, "next")


@pytest.mark.parametrize(
    "document",
    [
        b"{}",
        b'{"telemetry_data": null}',
        b'{"telemetry_data": {"session_traces": {}}}',
        b'{"telemetry_data": {}}',
        b'{"telemetry_data": null, "x": "\\ud800"}',
    ],
)
def test_a_detail_may_have_no_spans(document: bytes) -> None:
    """Without a list of spans there are none."""
    assert list(read_spans(document)) == []


@pytest.mark.parametrize("document", [b"[]", b"no JSON", b'{"telemetry_data": 7}'])
def test_a_detail_that_cannot_be_read_is_said_to_be(document: bytes) -> None:
    """Its spans are left out, for a reason that is logged."""
    with pytest.raises(SpansLeftOut):
        read_spans(document)


@pytest.mark.parametrize(
    ("document", "holds"),
    [
        (b'{"telemetry_data": {}}', True),
        (b'{"x": "\\ud800", "telemetry_data": {}}', True),
        (b'{"telemetry_data": null}', False),
        (b'{"metadata": {"telemetry_data": {}}}', False),
        (b'{"fields": ["telemetry_data"]}', False),
        (b'["telemetry_data"', False),
    ],
)
def test_telemetry_is_a_member_of_its_own(document: bytes, holds: bool) -> None:
    """Its name elsewhere in a call log says nothing."""
    assert holds_telemetry(document) is holds


def test_too_many_objects_are_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detail of a million tiny objects would take gigabytes."""
    monkeypatch.setattr(spans, "MOST_OBJECTS", 100)
    with pytest.raises(SpansLeftOut, match="objects"):
        spans_of(*[{}] * 100)
    assert len(spans_of(*[{}] * 98)) == 98


@pytest.mark.skipif(not FILES, reason=f"no real call logs in {CALLS}")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_spans_of_a_real_call_log_are_all_there(path: Path) -> None:
    """What LiveKit Agents and the SDK wrote has a name, ids, times and a type for each span."""
    posted = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    traces = json.loads(posted)["telemetry_data"]["session_traces"]
    found = list(read_spans(posted))
    assert [span.name for span in found] == [trace["name"] for trace in traces]
    assert all(span.trace_id and span.span_id and span.operation and span.start_ns for span in found)
