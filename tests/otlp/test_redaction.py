"""Spans wait in the spool until their call has ended: they are redacted before that."""

import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.otlp.assemble import redacted
from gateway.otlp.posts import from_json, from_protobuf
from gateway.otlp.spans import SpanRule
from uploaders.redaction.options import Detector, Redaction

CARD = "4111 1111 1111 1111"
RULE = SpanRule.of(("conversation.id",), ())


def _post(said: str) -> dict[str, Any]:
    span = {
        "traceId": "0" * 31 + "1", "spanId": "0" * 15 + "1", "name": f"turn {said}",
        "startTimeUnixNano": "1764399080123456789",
        "attributes": [
            {"key": "conversation.id", "value": {"stringValue": "+15551234567"}},
            {"key": "output", "value": {"arrayValue": {"values": [{"stringValue": f"it is {said}"}]}}},
        ],
        "events": [{"name": "said", "attributes": [{"key": "text", "value": {"stringValue": said}}]}],
        "status": {"message": said},
    }  # fmt: skip
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "agent"}, "spans": [span]}]}]}


def _groups(said: str, encoding: str) -> list[Any]:
    if encoding == "json":
        return from_json(json.dumps(_post(said)).encode(), RULE).groups
    post = _post(said)
    for span in post["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        span["traceId"], span["spanId"] = "AAAAAAAAAAAAAAAAAAAAAQ==", "AAAAAAAAAAE="
    return from_protobuf(ParseDict(post, ExportTraceServiceRequest()).SerializeToString(), RULE).groups


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
def test_texts_of_spans_are_redacted_in_their_encoding(encoding: str) -> None:
    """In attributes at any depth, events, names and statuses; times, keys and ids stay."""
    (before,) = _groups(CARD, encoding)
    (after,) = redacted([before], Redaction((Detector.CARD,)))
    assert before.data.count(CARD.encode()) == 4
    assert CARD.encode() not in after.data
    assert after.data.count(b"[card]") == 4
    assert (after.trace_id, after.spans, after.call_id) == (before.trace_id, before.spans, "+15551234567")
    read = json.loads(after.data) if encoding == "json" else ExportTraceServiceRequest.FromString(after.data)
    assert "1764399080123456789" in str(read)


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
def test_a_row_in_which_nothing_is_found_stays_as_it_came(encoding: str) -> None:
    """Byte for byte."""
    before = _groups("nothing", encoding)
    assert redacted(before, Redaction((Detector.CARD, Detector.EMAIL))) == before
