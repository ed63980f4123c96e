"""OTLP posts as real agents sent them (LiveKit Agents 1.8.9 and Pipecat 1.14.0), and posts that are made of them."""

import json
from pathlib import Path
from typing import Any

import zstandard
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

POSTS = Path(__file__).parent / "posts"
NAMES = ("livekit-3-turns-with-tool", "livekit-10-turns", "livekit-50-turns", "pipecat-pipeline")


def post(name: str) -> bytes:
    """A captured post."""
    plain = POSTS / f"{name}.pb"
    if plain.exists():
        return plain.read_bytes()
    compressed = (POSTS / f"{name}.pb.zst").read_bytes()
    return zstandard.ZstdDecompressor().decompress(compressed, max_output_size=1 << 24)


def request(name: str) -> ExportTraceServiceRequest:
    """The same as a message."""
    return ExportTraceServiceRequest.FromString(post(name))


def as_json(message: ExportTraceServiceRequest) -> bytes:
    """The message in OTLP's own JSON: ids are hexadecimal there, where protobuf's JSON has base64."""
    plain = MessageToDict(message)
    for of_resource in plain["resourceSpans"]:
        for in_scope in of_resource["scopeSpans"]:
            for span in in_scope["spans"]:
                _hex(span, "traceId", "spanId", "parentSpanId")
                for link in span.get("links", ()):
                    _hex(link, "traceId", "spanId")
    return json.dumps(plain).encode()


def _hex(holder: dict[str, Any], *names: str) -> None:
    import base64

    for name in names:
        if name in holder:
            holder[name] = base64.b64decode(holder[name]).hex()


def renamed(message: ExportTraceServiceRequest, number: int) -> ExportTraceServiceRequest:
    """The same spans in another trace."""
    other = ExportTraceServiceRequest()
    other.CopyFrom(message)
    for of_resource in other.resource_spans:
        for in_scope in of_resource.scope_spans:
            for span in in_scope.spans:
                span.trace_id = number.to_bytes(16, "big")
    return other


def in_posts(message: ExportTraceServiceRequest, count: int) -> list[bytes]:
    """Its spans in so many posts, in their order, as an exporter's batches bring them."""
    spans = [span for resource in message.resource_spans for scope in resource.scope_spans for span in scope.spans]
    size = -(-len(spans) // count)
    posts = []
    for start in range(0, len(spans), size):
        one = ExportTraceServiceRequest()
        of_resource = one.resource_spans.add()
        of_resource.resource.CopyFrom(message.resource_spans[0].resource)
        of_resource.scope_spans.add().spans.extend(spans[start : start + size])
        posts.append(one.SerializeToString())
    return posts
