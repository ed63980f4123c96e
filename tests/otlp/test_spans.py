"""Spans of OTLP in the form of call logs: protobuf and JSON alike, ids and values as they came."""

import json
from collections import Counter
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from gateway.otlp.assemble import SpanLines
from gateway.otlp.posts import ROW_BYTES, Unreadable, from_json, from_protobuf
from gateway.otlp.spans import SpanRule, encoded, spans_of
from spool.records import TraceRow
from tests.otlp.captured import NAMES, as_json, post, request

RULE = SpanRule()
TRACE, SPAN = bytes(range(1, 17)), bytes(range(1, 9))


def made_of(export: Any, rule: SpanRule = RULE) -> list[dict[str, Any]]:
    """The spans as they stand in a call log."""
    return [json.loads(encoded(span)) for group in export.groups for span in spans_of(group.data, rule)]


@pytest.mark.parametrize("name", NAMES)
def test_json_gives_what_protobuf_gives(name: str) -> None:
    """The same spans in both encodings are the same spans here."""
    message = request(name)
    assert made_of(from_json(as_json(message), RULE)) == made_of(from_protobuf(post(name), RULE))


@pytest.mark.parametrize(
    ("name", "count"), [("livekit-10-turns", 58), ("livekit-50-turns", 258), ("pipecat-pipeline", 3)]
)
def test_every_span_is_there_with_its_ids(name: str, count: int) -> None:
    """Ids are 16 and 8 bytes, as hexadecimal text; one trace is one group, and its root ends it."""
    export = from_protobuf(post(name), RULE)
    spans = made_of(export)
    assert (export.accepted, export.rejected, len(spans)) == (count, 0, count)
    assert {len(span["context"]["trace_id"]) for span in spans} == {32}
    assert {len(span["context"]["span_id"]) for span in spans} == {16}
    assert len({group.trace_id for group in export.groups}) == 1
    assert any(group.ended for group in export.groups)


def test_operations_are_called_as_in_call_logs() -> None:
    """A dashboard counts llm, tts, stt and tool calls by these words."""
    kinds = Counter(span["operation_type"] for span in made_of(from_protobuf(post("livekit-3-turns-with-tool"), RULE)))
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
    assert made_of(from_json(as_json(message), RULE)) == made_of(from_protobuf(message.SerializeToString(), RULE))


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
    names = {name for span in made_of(from_protobuf(post("livekit-10-turns"), rule)) for name in span["attributes"]}
    assert not any(name.startswith("lk.pii.") for name in names)
    assert "gen_ai.input.messages" not in names
    assert "gen_ai.output.messages" in names


def test_rows_are_bounded() -> None:
    """A large post of one trace is stored in several rows, of which only the last says that it ended."""
    export = from_protobuf(post("livekit-50-turns"), RULE)
    assert len(export.groups) > 1
    assert all(len(group.data) <= ROW_BYTES for group in export.groups)
    assert [group.ended for group in export.groups] == [False] * (len(export.groups) - 1) + [True]


def test_a_call_id_is_found_in_any_span_of_a_post() -> None:
    """Also where thousands of spans have none, and in the order in which the names are configured."""
    message = one_span()
    scope = message.resource_spans[0].scope_spans[0]
    for number in range(2, 40):
        scope.spans.add(trace_id=TRACE, span_id=number.to_bytes(8, "big"), name="x")
    for number, (key, value) in enumerate((("lk.job_id", "AJ_1"), ("session.id", " "), ("conversation.id", "c-1"))):
        pair = KeyValue(key=key, value=AnyValue(string_value=value))
        scope.spans.add(trace_id=TRACE, span_id=(90 + number).to_bytes(8, "big"), attributes=[pair])
    for export in (from_protobuf(message.SerializeToString(), RULE), from_json(as_json(message), RULE)):
        assert {group.call_id for group in export.groups} == {"c-1"}


def test_several_resources_and_scopes_of_a_trace_are_told_apart() -> None:
    """Each span keeps its instrumentation; the resource of the root is in the root span."""
    message = ExportTraceServiceRequest()
    for number, (service, scope) in enumerate((("a", "one"), ("b", "two"), ("a", "one"))):
        of_resource = message.resource_spans.add()
        of_resource.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value=service)))
        in_scope = of_resource.scope_spans.add()
        in_scope.scope.name, in_scope.scope.version = scope, "1"
        parent = b"" if number == 1 else SPAN
        in_scope.spans.add(trace_id=TRACE, span_id=(number + 1).to_bytes(8, "big"), parent_span_id=parent, name="x")
    for export in (from_protobuf(message.SerializeToString(), RULE), from_json(as_json(message), RULE)):
        spans = made_of(export)
        assert [span["instrumentation"]["name"] for span in spans] == ["one", "two", "one"]
        assert [span.get("resource") for span in spans] == [None, {"service.name": "b"}, None]


def test_attributes_that_are_left_out_are_not_stored() -> None:
    """What was said is not on the disk either while the call goes on."""
    rule = SpanRule.of((), ("lk.pii.*", "gen_ai.*"))
    for export in (
        from_protobuf(post("livekit-10-turns"), rule),
        from_json(as_json(request("livekit-10-turns")), rule),
    ):
        stored = b"".join(group.data for group in export.groups)
        assert b"lk.pii." not in stored
        assert b"gen_ai.input" not in stored
        assert len(made_of(export)) == 58


@pytest.mark.parametrize("value", [b'"\xff"', b"1e999", b'"' + b"\xed\xa0\x80" + b'"', b"[" * 900 + b"]" * 900])
def test_a_span_of_json_that_cannot_be_read_whole_is_kept_as_text(value: bytes) -> None:
    """Its ids can be read, so it was acknowledged: the call log has it, and the spans beside it."""
    span = b'{"traceId":"%b","spanId":"%b","name":"x","attributes":[{"key":"k","value":{"stringValue":%b}}]}'
    spans = [span % (TRACE.hex().encode(), each.hex().encode(), inner) for each, inner in
             ((SPAN, value), (SPAN[::-1], b'"fine"'))]  # fmt: skip
    export = from_json(b'{"resourceSpans":[{"scopeSpans":[{"spans":[%b]}]}]}' % b",".join(spans), RULE)
    assert (export.accepted, export.rejected) == (2, 0)
    unread, fine = made_of(export)
    assert unread["context"]["span_id"] == SPAN.hex()
    assert fine["attributes"] == {"k": "fine"}


def test_whole_numbers_beyond_64_bits_stay_as_they_are() -> None:
    """JSON allows them; nothing of the call is lost by it."""
    text = json.dumps({
        "traceId": TRACE.hex(), "spanId": SPAN.hex(), "startTimeUnixNano": "-99999999999999999999999", "kind": 10**20,
        "attributes": [{"key": "k", "value": {"intValue": "123456789012345678901234"}}],
    })  # fmt: skip
    export = from_json(b'{"resourceSpans":[{"scopeSpans":[{"spans":[%b]}]}]}' % text.encode(), RULE)
    (span,) = made_of(export)
    assert span["attributes"] == {"k": 123456789012345678901234}


@pytest.mark.parametrize(
    "members",
    [
        {"startTimeUnixNano": 1, "endTimeUnixNano": 10**400},
        {"startTimeUnixNano": -(10**400), "endTimeUnixNano": 1},
        {"startTimeUnixNano": -1.7e308, "endTimeUnixNano": 1.7e308},
        {"attributes": [{"key": "k", "value": {"doubleValue": 10**400}}]},
        {"attributes": [{"key": "session.id", "value": {"doubleValue": -(10**400)}}]},
    ],
    ids=["an end", "a start", "both", "an attribute", "what names the call"],
)
def test_a_number_beyond_all_bounds_makes_no_span_unreadable(members: dict[str, Any]) -> None:
    """It is kept as JSON can hold it, and measures nothing; its call can be put together."""
    span = json.dumps({"traceId": TRACE.hex(), "spanId": SPAN.hex(), **members})
    export = from_json(b'{"resourceSpans":[{"scopeSpans":[{"spans":[%b]}]}]}' % span.encode(), RULE)
    (row,) = export.groups
    (made,) = spans_of(row.data, RULE)
    assert (made["duration_ns"], made["duration_ms"]) == (0, 0.0)
    lines = SpanLines(Mock(), RULE)
    lines.add(TraceRow(1, 1, len(row.data), row.data))
    with lines.call_log(TRACE.hex(), "call", None, update=False) as body:
        (kept,) = json.loads(bytes(body.data))["telemetry_data"]["session_traces"]
    assert kept["attributes"] in ({}, {"k": "Infinity"}, {"session.id": "-Infinity"})
    assert lines.damaged == 0


def test_what_an_earlier_version_stored_is_read() -> None:
    """Rows of spans in the form of call logs."""
    spans = made_of(from_protobuf(post("pipecat-pipeline"), RULE))
    row = b"\n".join(map(encoded, spans))
    assert list(spans_of(row, RULE)) == spans


def nested(depth: int) -> AnyValue:
    value = AnyValue(string_value="x")
    for _ in range(depth):
        value = AnyValue(array_value=ArrayValue(values=[value]))
    return value


def field(tag: int, content: bytes) -> bytes:
    """A field of protobuf by hand, for what the library does not write."""
    length = bytearray()
    size = len(content)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([tag, *length, size]) + content


def request_of(attributes: bytes) -> bytes:
    """A request with a span whose further attributes are these bytes."""
    span = one_span().resource_spans[0].scope_spans[0].spans[0].SerializeToString()
    return field(0x0A, field(0x12, field(0x12, span + attributes)))


def nested_beyond_limits() -> bytes:
    value = b"\x0a\x01x"
    for _ in range(10_000):
        value = field(0x2A, field(0x0A, value))
    return request_of(field(0x4A, b"\x0a\x01k" + field(0x12, value)))


BOMBS: dict[str, tuple[Any, bytes]] = {
    "values nested 10,000 deep": (from_protobuf, nested_beyond_limits()),
    "a million attributes": (from_protobuf, request_of(field(0x4A, b"\x0a\x01k") * 1_000_000)),
    "a list of empty objects": (from_json, b'{"resourceSpans":[' + b"{}," * 2_000_000 + b"{}]}"),
    "lists in lists": (from_json, b'{"resourceSpans":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "lengths that lie": (from_protobuf, b"\x0a\xff\xff\xff\xff\x0f" + b"x" * 100),
    "a number without an end": (from_protobuf, b"\x0a" + b"\xff" * 100),
    "groups": (from_protobuf, b"\x0b" * 100),
    "a length and no more": (from_protobuf, b"\x0a\x80\x80\x80\x01"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_or_rejected_within_bounds(name: str) -> None:
    """Whatever its shape: an answer soon, in little memory."""
    import tracemalloc

    read, body = BOMBS[name]
    tracemalloc.start()
    try:
        assert read(body, RULE).accepted == 0
    except Unreadable:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4 * len(body) + (4 << 20), f"{peak >> 20} MiB for {len(body) >> 20}"


def test_the_deepest_values_of_both_encodings_become_json() -> None:
    """What protobuf takes is 50 levels deep; JSON may be deeper, and is cut there."""
    deep = one_span()
    deep.resource_spans[0].scope_spans[0].spans[0].attributes.append(KeyValue(key="deep", value=nested(45)))
    assert made_of(from_protobuf(deep.SerializeToString(), RULE)) == made_of(from_json(as_json(deep), RULE))
    inner = '{"arrayValue":{"values":[' * 250 + '{"stringValue":"x"}' + "]}}" * 250
    span = '{"traceId":"%s","spanId":"%s","attributes":[{"key":"deep","value":%s}]}' % (TRACE.hex(), SPAN.hex(), inner)  # noqa: UP031
    export = from_json(f'{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}'.encode(), RULE)
    (made,) = made_of(export)
    assert "nested too deeply" in json.dumps(made["attributes"])


def test_a_request_of_many_traces_does_not_grow() -> None:
    """A resource is stored with each root span, but not more often than the request has room for."""
    message = ExportTraceServiceRequest()
    of_resource = message.resource_spans.add()
    of_resource.resource.attributes.append(KeyValue(key="big", value=AnyValue(string_value="x" * 15_000)))
    scope = of_resource.scope_spans.add()
    scope.scope.name = "y" * 100_000
    for number in range(1, 12_000):
        scope.spans.add(trace_id=number.to_bytes(16, "big"), span_id=SPAN)
    body = message.SerializeToString()
    export = from_protobuf(body, RULE)
    assert (export.accepted, export.rejected) == (10_000, 1_999)
    assert "10000 traces" in export.reason
    assert sum(len(group.data) for group in export.groups) < 6 * len(body) + (12 << 20)
