"""The OpenAPI document of the intake, served at /openapi.json. Made at the first request."""

from functools import cache
from typing import Any

from gateway import schemas
from gateway.schemas import error_response, json_content, ref
from gateway.trace import CallTrace

_ABOUT = "Where agents post call logs. A 2xx means that the call log is on disk."
_TOKEN: list[dict[str, list[str]]] = [{}, {"bearer": []}]
_ERRORS = {"default": error_response()}
_ACCEPTED = {
    "type": "object",
    "required": [
        "success",
        "call_id",
        "record_id",
        "upload_method",
        "duplicate",
        "sha256",
        "raw_bytes",
        "stored_bytes",
    ],
    "properties": {
        "success": {"const": True},
        "call_id": {"type": "string"},
        "record_id": {"type": "string"},
        "upload_method": {"enum": ["single", "two_phase"]},
        "duplicate": {"type": "boolean", "description": "Accepted before, so not stored again."},
        "superseded": {"type": "boolean", "description": "A later event of the call is known: recorded, not sent."},
        "sha256": {"type": "string", "description": "SHA-256 of the decoded body without its `token`."},
        "raw_bytes": {"type": "integer"},
        "stored_bytes": {"type": "integer"},
    },
}
_HEARD = {
    "type": "object",
    "required": ["success", "call_id", "live", "turns", "lost_after_seconds"],
    "properties": {
        "success": {"const": True},
        "call_id": {"type": "string"},
        "live": {"type": "boolean", "description": "False: the call has ended; stop."},
        "turns": {"type": "integer", "description": "How many turns of the call are durable."},
        "lost_after_seconds": {"type": "number", "description": "After this much silence, the agent counts as lost."},
    },
}
_ABOUT_CALL: dict[str, Any] = {
    "type": "object",
    "description": "Members of the call log that callspool makes if the agent is lost.",
    "properties": {"agent_id": {"type": "string"}, "call_started_at": {"type": "string"}},
}
_TURN = {
    "type": "object",
    "description": "A turn with an `index` or an `id`; a later one with the same replaces it.",
    "properties": {
        "index": {"type": "integer", "minimum": 0},
        "id": {"type": ["string", "integer"]},
        "role": {"type": "string"},
        "content": {},
    },
}
_BODY = {"required": True, "content": json_content({"anyOf": [ref("CallLog"), ref("Envelope"), ref("Notice")]})}


@cache
def document() -> bytes:
    """The document."""
    components = {
        **schemas.structs([CallTrace]),
        "CallLog": schemas.CALL_LOG,
        "Envelope": schemas.ENVELOPE,
        "Notice": schemas.NOTICE,
        "Accepted": _ACCEPTED,
        "Heard": _HEARD,
    }
    return schemas.document("callspool intake", _ABOUT, _paths(), components)


def _paths() -> dict[str, Any]:
    accepted = {"description": "Durable.", "content": json_content(ref("Accepted"))}
    found = {"description": "The trace of the call.", "content": json_content(ref("CallTrace"))}
    call_id = {"name": "call_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    address = {
        "type": "object",
        "required": ["success", "upload_url", "s3_key", "s3_bucket"],
        "properties": {name: {"type": "string"} for name in ("upload_url", "s3_key", "s3_bucket")},
    }
    asked = {"type": "object", "required": ["call_id"], "properties": {"call_id": {"type": ["string", "integer"]}}}
    heard = {"description": "Received; turns are durable.", "content": json_content(ref("Heard"))}
    many = {"type": "array", "minItems": 1, "maxItems": 1000, "items": _TURN}
    turns = {**_ABOUT_CALL, "required": ["turns"], "properties": {**_ABOUT_CALL["properties"], "turns": many}}
    lines = {"application/x-ndjson": {"schema": {"type": "string", "description": "One call log per line."}}}
    spans = {
        kind: {"schema": {"description": "An ExportTraceServiceRequest of OTLP."}}
        for kind in ("application/x-protobuf", "application/json")
    }
    return {
        "/v1/calls": {"post": _operation("Post a call log.", {"202": accepted}, _BODY)},
        "/send-call-log": {
            "post": _operation("Post a call log, as the SDK does; any prefix.", {"202": accepted}, _BODY)
        },
        "/v1/calls/batch": {
            "post": _operation(
                "Post many call logs; the response has a line for each.",
                {"200": {"description": "One result per line.", "content": lines}},
                {"required": True, "content": lines},
            )
        },
        "/v1/calls/{call_id}": {
            "parameters": [call_id],
            "get": _operation("Where a call is: accepted, core sent, detail sent.", {"200": found}),
        },
        "/v1/calls/{call_id}/heartbeat": {
            "parameters": [call_id],
            "post": _operation(
                "Report that the call is still live. The body is optional.",
                {"200": heard},
                {"required": False, "content": json_content(_ABOUT_CALL)},
            ),
        },
        "/v1/calls/{call_id}/turns": {
            "parameters": [call_id],
            "post": _operation(
                "Store turns of a live call. Counts as a heartbeat, too.",
                {"200": heard},
                {"required": True, "content": json_content(turns)},
            ),
        },
        "/get-upload-url": {
            "post": _operation(
                "Request an upload address, to PUT a call log to; any prefix.",
                {"200": {"description": "The upload address.", "content": json_content(address)}},
                {"required": True, "content": json_content(asked)},
            )
        },
        "/v1/traces": {
            "post": _operation(
                "Post spans of a call, by OTLP.",
                {"200": {"description": "Durable.", "content": spans}},
                {"required": True, "content": spans},
            )
        },
        "/openapi.json": {
            "get": {"summary": "This document.", "responses": {"200": {"description": "OpenAPI 3.1."}}},
        },
    }


def _operation(summary: str, responses: dict[str, Any], body: dict[str, Any] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"summary": summary, "security": _TOKEN, "responses": {**responses, **_ERRORS}}
    return made if body is None else {**made, "requestBody": body}
