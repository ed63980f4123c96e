"""The OpenAPI document of the intake, served at /openapi.json. Made at the first request."""

from functools import cache
from typing import Any

from gateway import schemas
from gateway.schemas import error_response, json_content, ref
from gateway.trace_schemas import CallTrace

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
_TURNS = {
    **_ABOUT_CALL,
    "required": ["turns"],
    "properties": {
        **_ABOUT_CALL["properties"],
        "turns": {"type": "array", "minItems": 1, "maxItems": 1000, "items": _TURN},
    },
}
_ADDRESS_REQUEST = {
    "type": "object",
    "required": ["call_id"],
    "properties": {"call_id": {"type": ["string", "integer"]}},
}
_ADDRESS = {
    "type": "object",
    "required": ["success", "upload_url", "s3_key", "s3_bucket"],
    "properties": {
        "success": {"const": True},
        **{name: {"type": "string"} for name in ("upload_url", "s3_key", "s3_bucket")},
    },
}
_REFERENCED = {
    "type": "object",
    "description": "To a notice of a call log that was uploaded here, and was accepted then.",
    "required": ["success", "call_id", "record_id", "duplicate"],
    "properties": {
        "success": {"const": True},
        "call_id": {"type": "string"},
        "record_id": {"type": "string"},
        "duplicate": {"const": True},
    },
}
_CALL_LOG = json_content({"anyOf": [ref("CallLog"), ref("Envelope"), ref("Notice")]})
_LINES = {"application/x-ndjson": {"schema": {"type": "string", "description": "One call log per line."}}}
_SPANS = {
    kind: {"schema": {"description": "An ExportTraceServiceRequest of OTLP."}}
    for kind in ("application/x-protobuf", "application/json")
}
_CALL_ID = {"name": "call_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


@cache
def document() -> bytes:
    """The document."""
    components = {
        **schemas.structs([CallTrace]),
        "CallLog": schemas.CALL_LOG,
        "Envelope": schemas.ENVELOPE,
        "Notice": schemas.NOTICE,
        "Accepted": _ACCEPTED,
        "Referenced": _REFERENCED,
        "Heard": _HEARD,
    }
    return schemas.document("callspool intake", _ABOUT, _paths(), components)


def _paths() -> dict[str, Any]:
    durable = _response("202", "Durable.", json_content({"anyOf": [ref("Accepted"), ref("Referenced")]}))
    lines = _response("200", "One result per line.", _LINES)
    trace = _response("200", "The trace of the call.", json_content(ref("CallTrace")))
    received = _response("200", "Received; turns are durable.", json_content(ref("Heard")))
    address = _response("200", "The upload address.", json_content(_ADDRESS))
    spans = _response("200", "Durable.", _SPANS)
    posted = {**address, **durable}  # an SDK whose URL has no /send-call-log in it requests addresses there
    about, turns, asked = json_content(_ABOUT_CALL), json_content(_TURNS), json_content(_ADDRESS_REQUEST)
    heartbeat = _post("Report that the call is still live. The body is optional.", received, about, required=False)
    return {
        "/v1/calls": _post("Post a call log.", posted, _CALL_LOG),
        "/send-call-log": _post("Post a call log, as the SDK does; any prefix.", posted, _CALL_LOG),
        "/v1/calls/batch": _post("Post many call logs; the response has a line for each.", lines, _LINES),
        "/v1/calls/{call_id}": _of_call(_get("Where a call is: accepted, core sent, detail sent.", trace)),
        "/v1/calls/{call_id}/heartbeat": _of_call(heartbeat),
        "/v1/calls/{call_id}/turns": _of_call(
            _post("Store turns of a live call. Counts as a heartbeat, too.", received, turns)
        ),
        "/get-upload-url": _post("Request an upload address, to PUT a call log to; any prefix.", address, asked),
        "/v1/traces": _post("Post spans of a call, by OTLP.", spans, _SPANS),
        "/openapi.json": {
            "get": {"summary": "This document.", "responses": {"200": {"description": "OpenAPI 3.1."}}},
        },
    }


def _response(status: str, description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {status: {"description": description, "content": content}, **_ERRORS}


def _get(summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "security": _TOKEN, "responses": responses}}


def _post(summary: str, responses: dict[str, Any], content: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    body = {"required": required, "content": content}
    return {"post": {"summary": summary, "security": _TOKEN, "responses": responses, "requestBody": body}}


def _of_call(methods: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": [_CALL_ID], **methods}
