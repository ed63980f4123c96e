"""Details with fewer spans: which stay, what is said of it, and that all else passes unchanged."""

import json

import pytest

from gateway.calllog.document import parse
from gateway.calllog.errors import CallLogError
from gateway.calllog.reduce import Critical, Policy, TopN, reduce_detail
from gateway.calllog.shape import Costly
from gateway.calllog.split import split
from tests.calllog.joined_documents import detail, top_level

SPANS = [
    '{"name": "slow", "duration_ms": 1000.5}',
    '{"name": "edge", "duration_ms": 1e3}',
    '{"name": "tool", "operation_type": "tool", "duration_ms": 1}',
    '{"name": "error", "status": {"code": 2}, "x": 1.10}',
    '{"name": "plain", "duration_ns": 900000000}',
    "7",
]


def reduced(document: str | bytes, policy: Policy) -> dict[str, object]:
    pieces = reduce_detail(document.encode() if isinstance(document, str) else document, policy)
    return dict(top_level(b"".join(pieces)))


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Critical(), ["slow", "tool", "error"]),
        (Critical(slower_than_ms=10), ["slow", "edge", "tool", "error", "plain"]),
        (TopN(2), ["slow", "edge"]),
        (TopN(3), ["slow", "edge", "plain"]),
        (TopN(0), []),
        (TopN(99), ["slow", "edge", "tool", "error", "plain", None]),
    ],
)
def test_policy_decides_which_spans_stay(policy: Policy, kept: list[str | None]) -> None:
    """The spans that a policy keeps stay in their order; the detail says how many of how many."""
    document = f'{{"call_id": "a", "telemetry_data": {{"session_traces": [{", ".join(SPANS)}], "b": 1.0}}}}'
    result = reduced(document, policy)
    assert isinstance(result["telemetry_data"], dict)
    spans = result["telemetry_data"]["session_traces"]
    assert [span["name"] if isinstance(span, dict) else None for span in spans] == kept
    assert result["reduced"] == {"policy": policy.name, "kept": len(kept), "total": 6}
    assert result["telemetry_data"]["b"] == 1.0


def test_spans_of_turns_are_reduced_together() -> None:
    """The policy applies once more to the spans of all turns together; turns keep all that is no span."""
    turns = [
        {"turn_id": 1, "otel_spans": [{"duration_ms": 5}, {"duration_ms": 50}], "llm_metrics": {"ttft": 0.1}},
        {"turn_id": 2, "otel_spans": "none"},
        {"turn_id": 3, "otel_spans": [{"duration_ms": 40}]},
        "turn",
    ]
    result = reduced(json.dumps({"transcript_with_metrics": turns}), TopN(1))
    assert result["transcript_with_metrics"] == [
        {"turn_id": 1, "otel_spans": [{"duration_ms": 50}], "llm_metrics": {"ttft": 0.1}},
        {"turn_id": 2, "otel_spans": "none"},
        {"turn_id": 3, "otel_spans": []},
        "turn",
    ]
    assert result["reduced"] == {"policy": "top_n", "kept": 1, "total": 3}


def test_what_stays_keeps_its_bytes() -> None:
    """Spans and members that stay are the bytes that came."""
    span = '{"name":  "é \\u00e9", "duration_ms": 1795.2494150}'
    document = f'{{"x": 1.7976931348623157e308, "telemetry_data": {{"a": -0, "session_traces": [ {span} , 5 ]}}}}'
    pieces = b"".join(reduce_detail(document.encode(), Critical()))
    assert (
        pieces
        == (
            f'{{"x":1.7976931348623157e308,"telemetry_data":{{"a":-0,"session_traces":[{span}]}},'
            '"reduced":{"policy":"critical","kept":1,"total":2}}'
        ).encode()
    )


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"telemetry_data": None, "transcript_with_metrics": {}},
        {"telemetry_data": {"session_traces": {}}, "transcript_with_metrics": [1, None]},
        {"telemetry_data": [], "reduced": {"policy": "mine"}},
    ],
)
def test_what_has_no_spans_passes_unchanged(document: dict[str, object]) -> None:
    """Where there are no lists of spans nothing is taken out, and a note of an earlier reduction is replaced."""
    note = {"policy": "critical", "kept": 0, "total": 0}
    assert reduced(json.dumps(document), Critical()) == {**document, "reduced": note}


def test_names_and_texts_with_lone_surrogates_pass() -> None:
    """A detail with half surrogate pairs is reduced without losing them."""
    document = b'{"\\ud800": "\\udc00", "telemetry_data": {"session_traces": [{"duration_ms": 1}, {"duration_ms": 2}]}}'
    result = reduced(document, TopN(1))
    assert result["\ud800"] == "\udc00"
    assert result["telemetry_data"] == {"session_traces": [{"duration_ms": 2}]}


def test_a_broken_detail_is_refused() -> None:
    """What is no JSON object cannot be reduced."""
    with pytest.raises(CallLogError):
        reduce_detail(b"[1]", Critical())


@pytest.mark.parametrize(
    "detail",
    [
        b'{"telemetry_data":{"session_traces":[%b1]}}' % (b"1," * 300_000),
        b'{"telemetry_data":{%b"session_traces":[]}}' % (b'"a":1,' * 300_000),
        b'{"call_id":"k",%b"z":0}' % (b'"a":1,' * 300_000),
    ],
    ids=["spans", "telemetry", "members"],
)
def test_a_dense_detail_is_not_taken_apart(detail: bytes) -> None:
    """A detail whose members and elements would take a gigabyte as objects is left as it is."""
    with pytest.raises(Costly):
        reduce_detail(detail, TopN(5))


def test_spans_of_which_too_many_are_odd_stay() -> None:
    """Where spans would have to be read one by one, and there are tens of thousands, none is left out."""
    detail = b'{"telemetry_data":{"session_traces":[%b{}]}}' % (b'{"duration_ms":-1,"name":"llm"},' * 30_000)
    reduced = b"".join(reduce_detail(detail, TopN(5)))
    assert detail[:-1] in reduced


def test_the_detail_of_a_split_can_be_reduced() -> None:
    """The detail that a split makes is what is reduced, its call_id and update_type included."""
    call_log = parse(json.dumps({"call_id": "a", "telemetry_data": {"session_traces": [{"duration_ms": 1}]}}).encode())
    assert reduced(detail(split(call_log), "a"), Critical()) == {
        "call_id": "a",
        "update_type": "detailed_telemetry",
        "telemetry_data": {"session_traces": []},
        "reduced": {"policy": "critical", "kept": 0, "total": 1},
    }
