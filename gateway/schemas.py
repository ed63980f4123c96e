"""JSON schemas of call logs, cores, details and notices, and the parts of OpenAPI documents. Pure data.

The schemas list the members that callspool reads; all others pass unchanged, so every schema is open.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import msgspec

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
COMPONENTS: Final = "#/components/schemas/{name}"

_TEXT: Final[Schema] = {"type": ["string", "null"]}
_TIME: Final[Schema] = {"type": ["string", "number", "null"], "description": "ISO 8601, or seconds since the epoch."}
_TURNS: Final[Schema] = {
    "type": ["array", "null"],
    "items": {
        "type": "object",
        "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
    },
}
_HEAD: Final[Schema] = {
    "call_id": {
        "type": ["string", "integer"],
        "description": "The id of the call; not empty. A number stays a number.",
    },
    "agent_id": _TEXT,
    "wcall_event": {
        "type": ["string", "null"],
        "description": "The event: `call_started`, `call_ended`, or one of your own; by default `call_log`.",
    },
    "environment": _TEXT,
    "customer_number": _TEXT,
    "call_started_at": _TIME,
    "call_ended_at": _TIME,
    "call_ended_reason": _TEXT,
    "transcript_type": _TEXT,
    "transcript_json": _TURNS,
    "recording_url": _TEXT,
    "metadata": {"type": ["object", "null"]},
}
_LARGE: Final[Schema] = {
    "transcript_with_metrics": {
        "type": ["array", "null"],
        "description": "Turns with their metrics: `user_transcript`, `agent_response`, `llm_metrics` and others.",
        "items": {"type": "object"},
    },
    "telemetry_data": {
        "type": ["object", "null"],
        "description": "`session_traces`: the spans of the call.",
        "properties": {"session_traces": {"type": ["array", "null"], "items": {"type": "object"}}},
    },
}


def _document(name: str, title: str, about: str, required: Sequence[str], properties: Schema) -> Schema:
    return {
        "$schema": DIALECT,
        "$id": f"urn:callspool:{name}",
        "title": title,
        "description": about,
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": True,
    }


CALL_LOG: Final = _document(
    "call-log",
    "Call log",
    "What an agent posts about one call. Only `call_id` is required; members not listed here pass unchanged.",
    ["call_id"],
    {
        **_HEAD,
        **_LARGE,
        "token": {"description": "The agent's key: removed, and sent to the endpoint as `x-pype-token`."},
    },
)
CORE: Final = _document(
    "core",
    "Core (Phase 1)",
    "The small part of a large call log, at most 500 KB, delivered first. It has no `update_type`.",
    ["call_id"],
    {
        **_HEAD,
        "summary_metrics": {
            "type": "object",
            "description": "`total_turns`, `total_tokens`, averages, p50 and p95 of latencies, `duration_seconds`.",
        },
        "telemetry_summary": {
            "type": "object",
            "description": "`total_spans`, `operation_counts`, `error_count`, `slowest_operations`, average latencies.",
        },
        "deferred_fields": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Names of further fields that did not fit; they are in the detail.",
        },
        "update_type": False,
    },
)
DETAIL: Final = _document(
    "detail",
    "Detail (Phase 2)",
    "The rest of a large call log, sent to the same URL after the core was acknowledged. Answer 404 with 'Call log not "
    "found' if the core has not arrived yet: callspool retries the detail for up to a day.",
    ["call_id", "update_type"],
    {
        "call_id": _HEAD["call_id"],
        "update_type": {"const": "detailed_telemetry"},
        **_LARGE,
    },
)
NOTICE: Final = _document(
    "notice",
    "Notice",
    "Sent in place of a detail that is stored in a bucket; says where it is.",
    ["s3_reference", "s3_bucket", "s3_key", "call_id"],
    {
        "s3_reference": {"const": True},
        "s3_bucket": {"type": "string"},
        "s3_key": {"type": "string"},
        "call_id": {"type": "string"},
        "agent_id": _TEXT,
        "environment": _TEXT,
    },
)
ENVELOPE: Final = _document(
    "envelope",
    "Compressed envelope",
    "The compressed form of any of these documents, as the SDK sends it, and callspool above 10 KB: base64 of gzip.",
    ["compressed", "data"],
    {"compressed": {"const": True}, "data": {"type": "string", "contentEncoding": "base64"}},
)
FILES: Final[Mapping[str, Schema]] = {
    "call-log": CALL_LOG,
    "core": CORE,
    "detail": DETAIL,
    "notice": NOTICE,
    "envelope": ENVELOPE,
}
"""The schemas in docs/schemas, by the NAME of their NAME.schema.json."""

ERROR: Final[Schema] = {
    "type": "object",
    "required": ["success", "error"],
    "properties": {
        "success": {"const": False},
        "error": {
            "type": "object",
            "required": ["code", "message", "hint"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": "string", "description": "What to do about it."},
                "runbook": {"type": "string", "description": "Some codes have a runbook: its address."},
            },
        },
    },
}


def structs(types: Sequence[type]) -> Mapping[str, Schema]:
    """The schemas of these structs, and of all structs they refer to, by name."""
    _, components = msgspec.json.schema_components(types, ref_template=COMPONENTS)
    return components


def ref(name: str) -> Schema:
    """A reference to a schema of the document."""
    return {"$ref": COMPONENTS.format(name=name)}


def json_content(schema: Schema) -> Schema:
    """The content of a JSON body."""
    return {"application/json": {"schema": schema}}


def error_response() -> Schema:
    """The response for any error."""
    return {"description": "An error, with a hint what to do.", "content": json_content(ref("Error"))}


@cache
def version_of_callspool() -> str:
    """The installed version."""
    return version("callspool")


def document(title: str, about: str, paths: Schema, schemas: Mapping[str, Schema]) -> bytes:
    """An OpenAPI document."""
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": title, "description": about, "version": version_of_callspool()},
            "paths": paths,
            "components": {
                "schemas": {**schemas, "Error": ERROR},
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
        }
    )
