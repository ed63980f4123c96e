"""Spans of OTLP in the form of call logs: protobuf and JSON alike, ids and values as they came."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from gateway.otlp.spans import ROW_BYTES, SpanRule, Unreadable, from_json, from_protobuf
from tests.otlp.captured import NAMES, as_json, post, request

RULE = SpanRule()
TRACE, SPAN = bytes(range(1, 17)), bytes(range(1, 9))


def spans_of(export: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for group in export.groups for line in group.data.split(b"\n")]


@pytest.mark.parametrize("name", NAMES)
def test_json_gives_what_protobuf_gives(name: str) -> None:
    """The same spans in both encodings are the same spans here."""
    message = request(name)
    assert spans_of(from_json(as_json(message), RULE)) == spans_of(from_protobuf(post(name), RULE))


@pytest.mark.parametrize(
    ("name", "count"), [("livekit-10-turns", 58), ("livekit-50-turns", 258), ("pipecat-pipeline", 3)]
)
def test_every_span_is_there_with_its_ids(name: str, count: int) -> None:
    """Ids are 16 and 8 bytes, as hexadecimal text; one trace is one group, and its root ends it."""
    export = from_protobuf(post(name), RULE)
    spans = spans_of(export)
    assert (export.accepted, export.rejected, len(spans)) == (count, 0, count)
    assert {len(span["context"]["trace_id"]) for span in spans} == {32}
    assert {len(span["context"]["span_id"]) for span in spans} == {16}
    assert len({group.trace_id for group in export.groups}) == 1
    assert any(group.ended for group in export.groups)


def test_operations_are_called_as_in_call_logs() -> None:
    """A dashboard counts llm, tts, stt and tool calls by these words."""
    kinds = Counter(span["operation_type"] for span in spans_of(from_protobuf(post("livekit-3-turns-with-tool"), RULE)))
    assert kinds["llm"] == 12
    assert kinds["tool"] == 1
    assert kinds["assistant_interaction"] == 6


def test_a_call_is_named_by_its_attributes() -> None:
    """Pipecat's `conversation.id`, or a configured one before it; the agent by its service."""
    (group,) = from_protobuf(post("pipecat-pipeline"), RULE).groups
    assert group.call_id is not None
    assert group.agent_id == "pc-demo"
    own = SpanRule.of(("langfuse.session.id",), ())
    (group,) = from_protobuf(post("livekit-3-turns-with-tool"), own).groups
    assert group.call_id is not None


@pytest.mark.parametrize("blank", ["", "  ", "\n", None])
def test_a_blank_id_names_no_call(blank: str | None) -> None:
    """No call log could be made of it: the trace id names the call then."""
    message = one_span()
    span = message.resource_spans[0].scope_spans[0].spans[0]
    span.attributes.append(
        KeyValue(key="session.id", value=AnyValue() if blank is None else AnyValue(string_value=blank))
    )
    (group,) = from_protobuf(message.SerializeToString(), RULE).groups
    assert group.call_id is None


def one_span(**fields: Any) -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    given = {"trace_id": TRACE, "span_id": SPAN, "name": "x", **fields}
    message.resource_spans.add().scope_spans.add().spans.add(**given)
    return message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trace_id": b""}, "trace id"),
        ({"trace_id": bytes(16)}, "trace id"),
        ({"trace_id": TRACE[:8]}, "trace id"),
        ({"span_id": b""}, "span id"),
        ({"span_id": bytes(8)}, "span id"),
        ({"name": "x" * (ROW_BYTES + 1)}, "larger"),
    ],
)
def test_a_span_that_is_none_is_rejected_and_the_others_are_kept(fields: dict[str, Any], reason: str) -> None:
    """Partial success: how many were rejected, and why."""
    message = one_span(**fields)
    message.resource_spans[0].scope_spans[0].spans.add(trace_id=TRACE, span_id=SPAN[::-1], name="fine")
    for export in (from_protobuf(message.SerializeToString(), RULE), from_json(as_json(message), RULE)):
        assert (export.accepted, export.rejected) == (1, 1)
        assert reason in export.reason


VALUES = st.recursive(
    st.builds(lambda text: AnyValue(string_value=text), st.text(max_size=12))
    | st.builds(lambda number: AnyValue(int_value=number), st.integers(-(2**63), 2**63 - 1))
    | st.builds(lambda number: AnyValue(double_value=number), st.floats(allow_nan=True))
    | st.builds(lambda flag: AnyValue(bool_value=flag), st.booleans())
    | st.builds(lambda data: AnyValue(bytes_value=data), st.binary(max_size=9)),
    lambda inner: (
        st.builds(lambda values: AnyValue(array_value=ArrayValue(values=values)), st.lists(inner, max_size=3))
        | st.builds(
            lambda pairs: AnyValue(
                kvlist_value=KeyValueList(values=[KeyValue(key=key, value=value) for key, value in pairs.items()])
            ),
            st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3),
        )
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pairs=st.dictionaries(st.text(min_size=1, max_size=8), VALUES, max_size=4),
    times=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    kind=st.integers(0, 5),
    status=st.integers(0, 2),
)
def test_any_span_is_the_same_in_both_encodings(pairs: dict[str, Any], times: Any, kind: int, status: int) -> None:
    """Every kind of value, times beyond 2^53 and 2^63, empty lists: JSON is what protobuf is."""
    message = one_span(start_time_unix_nano=times[0], end_time_unix_nano=times[1], kind=kind)
    span = message.resource_spans[0].scope_spans[0].spans[0]
    span.status.code = status  # type: ignore[assignment]  # an enum's number
    span.attributes.extend(KeyValue(key=key, value=value) for key, value in pairs.items())
    assert spans_of(from_json(as_json(message), RULE)) == spans_of(from_protobuf(message.SerializeToString(), RULE))


NAMES_OF_MEMBERS = ("resourceSpans", "scopeSpans", "spans", "traceId", "attributes", "key", "value", "name")
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES_OF_MEMBERS), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANY_JSON)
def test_json_of_any_shape_is_read_or_refused(value: object) -> None:
    """Whatever a sender writes: spans, rejected ones, or a reason."""
    if isinstance(value, dict):
        assert from_json(json.dumps(value).encode(), RULE).accepted == 0
    else:
        with pytest.raises(Unreadable, match="no JSON object"):
            from_json(json.dumps(value).encode(), RULE)


@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"not a message at all", b"\x0a\xff\x01"])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    """Only what does not decode is refused as a whole."""
    with pytest.raises(Unreadable):
        from_protobuf(body, RULE)


def test_an_empty_body_is_an_empty_request() -> None:
    """As the protocol says."""
    assert from_protobuf(b"", RULE).groups == []


def test_attributes_are_left_out_where_that_is_wanted() -> None:
    """The chat that each span repeats, by name or by what it begins with."""
    rule = SpanRule.of((), ("lk.pii.*", "gen_ai.input.messages"))
    names = {name for span in spans_of(from_protobuf(post("livekit-10-turns"), rule)) for name in span["attributes"]}
    assert not any(name.startswith("lk.pii.") for name in names)
    assert "gen_ai.input.messages" not in names
    assert "gen_ai.output.messages" in names


def test_rows_are_bounded() -> None:
    """A large post of one trace is stored in several rows, of which only the last says that it ended."""
    export = from_protobuf(post("livekit-50-turns"), RULE)
    assert len(export.groups) > 1
    assert all(len(group.data) <= ROW_BYTES for group in export.groups)
    assert [group.ended for group in export.groups] == [False] * (len(export.groups) - 1) + [True]
