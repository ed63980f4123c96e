"""The OpenAPI document of the admin listener, made of its table of rules: each route, its role, its answer."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from gateway import schemas
from gateway.admin.permissions import RULES, Rule
from gateway.calls import CallEntry, CallList, LiveList
from gateway.operations.salvage import SalvageOrder
from gateway.operations.schemas import (
    DeliveryPage,
    DeliveryReport,
    ImportResult,
    OrderName,
    OrderRequest,
    OrderStep,
    Reloaded,
    Resumed,
    Status,
)
from gateway.operations.tenants import Assigned, TenantList
from gateway.schemas import error_response, json_content, ref
from gateway.trace import CallTrace, NewestTraces

_ABOUT = "For people and scrapers: status, calls, deliveries, orders. Roles: docs/operating.md."


class _Operation(NamedTuple):
    """What is known of a route besides its rule."""

    summary: str
    answer: type | None = None
    body: type | None = None
    query: tuple[str, ...] = ()


_EXPORTED = ("destination", "form", "reason", "older_than", "newer_than", "target", "kind", "key")
_SELECTION = ("destination", "form", "reason", "older_than", "newer_than", "target", "kind", "state", "limit", "cursor")
_OPERATIONS: Mapping[str, _Operation] = {
    "GET /": _Operation("The overview, for browsers."),
    "GET /dead": _Operation("Dead letters, for browsers."),
    "GET /destinations": _Operation("Destinations and their last errors, for browsers."),
    "GET /similar": _Operation("Similar calls and callbacks, for browsers."),
    "POST /similar": _Operation("The same, with a form: `like`, `how`, `agent`, `since`, `score`, `project`."),
    "GET /tenants": _Operation("Tenants, for browsers."),
    "GET /settings": _Operation("The settings in force, for browsers; secrets are masked."),
    "GET /assets/{name}": _Operation("A script or a style of the pages."),
    "GET /api/events": _Operation("What happens, as server-sent events: status, sample, beat."),
    "GET /sign-in": _Operation("A field for a token, for browsers."),
    "POST /sign-in": _Operation("Begin a browser's session: a form with `token` and `to`."),
    "POST /sign-out": _Operation("End a browser's session."),
    "GET /openapi.json": _Operation("This document."),
    "GET /metrics": _Operation("Metrics for Prometheus."),
    "GET /healthz": _Operation("Whether the process lives."),
    "GET /readyz": _Operation("Whether posts can be accepted: 200, or 503 with the reasons."),
    "GET /api/status": _Operation("Backlog, destinations and spool.", Status),
    "GET /api/live-calls": _Operation("The calls that go on, by their heartbeats.", LiveList),
    "GET /api/traces": _Operation("The newest records of all calls.", NewestTraces, query=("after", "limit")),
    "GET /api/calls": _Operation(
        "The newest calls of the store.",
        CallList,
        query=("limit", "since", "until", "agent", "number", "state", "id_prefix"),
    ),
    "GET /api/calls/{call_id}": _Operation("A call of the store; without a store its trace.", CallEntry),
    "GET /calls": _Operation("The list of calls, for browsers.", query=("q", "agent", "state", "before", "after")),
    "GET /calls/{call_id}": _Operation("One call, for browsers."),
    "GET /api/calls/{call_id}/log": _Operation("The call log as posted, while it is here."),
    "GET /api/calls/{call_id}/detail": _Operation("The detail of a call."),
    "GET /api/deliveries": _Operation("Deliveries that have not ended.", DeliveryPage, query=_SELECTION),
    "GET /api/deliveries/{key}": _Operation("All of one delivery.", DeliveryReport),
    "GET /api/documents/{key}": _Operation("What a delivery carries."),
    "GET /api/tenants": _Operation("Tenants, and agents of nobody.", TenantList),
    "POST /api/tenants/assign": _Operation("Give an agent to a tenant.", Assigned),
    "POST /api/reload": _Operation("Read the settings again.", Reloaded),
    "POST /api/destinations/{destination}/resume": _Operation("Try a destination now.", Resumed),
    "GET /api/dead-letters/export": _Operation("Dead letters and their documents, as a zip file.", query=_EXPORTED),
    "POST /api/dead-letters/import": _Operation("Import an exported call log.", ImportResult),
    "POST /api/salvage": _Operation("Import what another database holds; answered by NDJSON.", None, SalvageOrder),
    **{
        f"POST /api/orders/{name}": _Operation(f"One step of an order: {name}.", OrderStep, OrderRequest)
        for name in OrderName
    },
}


@cache
def document() -> bytes:
    """The document."""
    known = [each for operation in _OPERATIONS.values() for each in (operation.answer, operation.body) if each]
    paths: dict[str, Any] = {}
    for route, rule in RULES.items():
        method, _, path = route.partition(" ")
        paths.setdefault(path, {})[method.lower()] = _described(route, path, rule)
    return schemas.document("callspool admin", _ABOUT, paths, schemas.structs([*known, CallTrace]))


def _described(route: str, path: str, rule: Rule) -> dict[str, Any]:
    operation = _OPERATIONS.get(route) or _Operation((rule.action or path).replace("-", " ").capitalize() + ".")
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    in_query = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in operation.query]
    good: dict[str, Any] = {"description": "Done." if rule.is_order else "What was asked for."}
    if operation.answer is not None:
        good["content"] = json_content(ref(operation.answer.__name__))
    made: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": [*in_path, *in_query],
        "responses": {"200": good, "default": error_response()},
    }
    if rule.role is not None:
        made["security"] = [*([{}] if rule.local else []), {"bearer": []}]
        made["description"] = f"Needs the role {rule.role.word}."
    if rule.is_order:
        schema = {} if operation.body is None else ref(operation.body.__name__)
        made["requestBody"] = {"content": {rule.content_type: {"schema": schema}}}
    return made
