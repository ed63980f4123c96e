"""The routes of the admin listener: which role each needs, in one table, and their OpenAPI document.

A role includes those below it. Routes that are not in the table need the highest one.
"""

import re
from collections.abc import Mapping
from enum import IntEnum
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from gateway import schemas
from gateway.calls import CallEntry, CallList, LiveList
from gateway.operations.salvage import SalvageOrder
from gateway.operations.schemas import (
    IMPORT_TYPE,
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
from gateway.trace_schemas import CallTrace, NewestTraces

JSON_TYPE = "application/json"


class Role(IntEnum):
    """What a token permits."""

    READ = 1
    """See lists, traces, and the contents of call logs."""
    OPERATE = 2
    """Give orders that lose nothing and send nothing elsewhere."""
    ADMIN = 3
    """Everything."""

    @property
    def word(self) -> str:
        """As settings and answers name it."""
        return self.name.lower()


class Rule(NamedTuple):
    """What a request of one route needs."""

    role: Role | None
    """None: nothing, it is open to everybody who reaches the listener."""
    local: bool = False
    """Whether a request from this machine itself needs no token, as long as none is configured."""
    action: str = ""
    """What the audit log calls it; empty for what shows no call log and changes nothing."""
    content_type: str = ""
    """Of its body: no page of another site can post these types."""
    is_page: bool = False
    """Whether it is looked at: a refusal is shown as a page, with a way to sign in."""

    @property
    def is_order(self) -> bool:
        """Whether it changes something."""
        return bool(self.content_type)


OPEN = Rule(None)


def _order(action: str, role: Role, *, local: bool = False, content_type: str = JSON_TYPE) -> Rule:
    return Rule(role, local, action, content_type)


RULES: Mapping[str, Rule] = MappingProxyType({
    "GET /": OPEN,
    "GET /assets/{name}": OPEN,
    "GET /api/events": OPEN,
    "GET /sign-in": OPEN,
    "POST /sign-in": OPEN,
    "POST /sign-out": OPEN,
    "GET /metrics": OPEN,
    "GET /openapi.json": OPEN,
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /api/status": OPEN,
    "GET /api/traces": Rule(Role.READ, local=True),
    "GET /calls": Rule(Role.READ, local=True, is_page=True),
    # Without a token it shows where the call is, and nothing of what was said.
    "GET /calls/{call_id}": Rule(Role.READ, local=True, action="read-call", is_page=True),
    "GET /api/live-calls": Rule(Role.READ, local=True),
    "GET /api/calls": Rule(Role.READ, local=True),
    # Without a token it is an outline, without documents.
    "GET /api/calls/{call_id}": Rule(Role.READ, local=True, action="read-call"),
    "GET /dead": Rule(Role.READ, local=True, is_page=True),
    "GET /destinations": Rule(Role.READ, local=True, is_page=True),
    "GET /similar": Rule(Role.READ, action="find-similar-calls", is_page=True),
    "POST /similar": Rule(Role.READ, action="find-similar-calls", is_page=True),
    "GET /tenants": Rule(Role.READ, local=True, is_page=True),
    "GET /settings": Rule(Role.READ, local=True, is_page=True),
    "GET /api/calls/{call_id}/log": Rule(Role.READ, action="read-detail"),
    "GET /api/calls/{call_id}/detail": Rule(Role.READ, action="read-detail"),
    "POST /api/calls/similar": Rule(Role.READ, action="find-similar-calls"),
    "POST /api/calls/search": Rule(Role.READ, action="search-calls"),
    "GET /api/pipeline": Rule(Role.READ, local=True),
    "POST /api/pipeline/redo": _order("redo-pipeline", Role.ADMIN),
    "GET /api/callbacks": Rule(Role.READ, action="list-callbacks"),
    "POST /api/callbacks/cancel": _order("cancel-callback", Role.OPERATE),
    "POST /api/callbacks/run": _order("run-callback", Role.OPERATE),
    "POST /api/callbacks/done": _order("finish-callback", Role.OPERATE),
    "POST /api/callbacks/reopen": _order("reopen-callback", Role.OPERATE),
    "POST /api/do-not-call": _order("do-not-call", Role.OPERATE),
    "GET /api/deliveries": Rule(Role.READ, local=True),
    "GET /api/tenants": Rule(Role.READ, local=True),
    "POST /api/reload": _order("reload", Role.OPERATE, local=True),
    "POST /api/tenants/assign": _order("assign-agent", Role.ADMIN),
    "GET /api/deliveries/{key}": Rule(Role.READ, action="read-delivery"),
    "GET /api/documents/{key}": Rule(Role.READ, action="read-document"),
    "GET /api/dead-letters/export": Rule(Role.OPERATE, action="export"),
    f"POST /api/orders/{OrderName.REPLAY}": _order("replay", Role.OPERATE, local=True),
    f"POST /api/orders/{OrderName.RETRY}": _order("retry", Role.OPERATE, local=True),
    "POST /api/destinations/{destination}/resume": _order("resume", Role.OPERATE, local=True),
    # What gives call logs up, or sends them elsewhere or with another key, or puts others in.
    f"POST /api/orders/{OrderName.DISCARD}": _order("discard", Role.ADMIN),
    f"POST /api/orders/{OrderName.REROUTE}": _order("reroute", Role.ADMIN),
    f"POST /api/orders/{OrderName.REPLACE_TOKEN}": _order("replace-token", Role.ADMIN),
    "POST /api/dead-letters/import": _order("import", Role.ADMIN, content_type=IMPORT_TYPE),
    "POST /api/salvage": _order("salvage", Role.ADMIN),
    "POST /api/rekey": _order("rekey", Role.ADMIN),
    "POST /api/erasures": _order("erase", Role.ADMIN),
})  # fmt: skip
"""By method and path, as the routes are registered."""

PAGES = frozenset({"GET /", *(route for route, rule in RULES.items() if rule.is_page)})
"""What a link from elsewhere may lead to."""

UNKNOWN = Rule(Role.ADMIN)


def rule_of(method: str, path: str) -> Rule:
    """What a route needs; HEAD needs what GET does."""
    return RULES.get(f"{'GET' if method == 'HEAD' else method} {path}", UNKNOWN)


# The OpenAPI document, made of the table: each route, its role, its answer.

_ABOUT = "For people and scrapers: status, calls, deliveries, orders. Roles: docs/operating.md."


class _Operation(NamedTuple):
    """How the document describes a route, besides its rule."""

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
    "POST /similar": _Operation("Similar calls, by a form: `like`, `how`, `agent`, `since`, `score`, `project`."),
    "GET /tenants": _Operation("Tenants, for browsers."),
    "GET /settings": _Operation("The settings in force, for browsers; secrets are masked."),
    "GET /assets/{name}": _Operation("A script or a stylesheet of the pages."),
    "GET /api/events": _Operation("Server-sent events: status, sample, beat."),
    "GET /sign-in": _Operation("The sign-in form, for browsers."),
    "POST /sign-in": _Operation("Begin a browser's session: a form with `token` and `to`."),
    "POST /sign-out": _Operation("End a browser's session."),
    "GET /openapi.json": _Operation("This document."),
    "GET /metrics": _Operation("Metrics for Prometheus."),
    "GET /healthz": _Operation("Liveness: whether the process responds."),
    "GET /readyz": _Operation("Readiness: 200 if posts can be accepted, else 503 with the reasons."),
    "GET /api/status": _Operation("Backlog, destinations and spool.", Status),
    "GET /api/live-calls": _Operation("Live calls, by their heartbeats.", LiveList),
    "GET /api/traces": _Operation("The newest records of all calls.", NewestTraces, query=("after", "limit")),
    "GET /api/calls": _Operation(
        "The newest calls in the store.",
        CallList,
        query=("limit", "since", "until", "agent", "number", "state", "id_prefix"),
    ),
    "GET /api/calls/{call_id}": _Operation("A call in the store; without a store, its trace.", CallEntry),
    "GET /calls": _Operation("The list of calls, for browsers.", query=("q", "agent", "state", "before", "after")),
    "GET /calls/{call_id}": _Operation("One call, for browsers."),
    "GET /api/calls/{call_id}/log": _Operation("The call log as posted, as long as the spool has it."),
    "GET /api/calls/{call_id}/detail": _Operation("The detail of a call."),
    "GET /api/deliveries": _Operation("Deliveries that have not ended.", DeliveryPage, query=_SELECTION),
    "GET /api/deliveries/{key}": _Operation("One delivery, in full.", DeliveryReport),
    "GET /api/documents/{key}": _Operation("The document of a delivery."),
    "POST /api/calls/similar": _Operation("The calls most similar to a call or a text."),
    "POST /api/calls/search": _Operation("The newest calls with all of these words."),
    "GET /api/pipeline": _Operation("The queue of the pipeline, and what it waits for."),
    "POST /api/pipeline/redo": _Operation("Queue calls again, or report how many answers that would cost."),
    "GET /api/callbacks": _Operation("Pending and past callbacks."),
    "POST /api/callbacks/cancel": _Operation("Cancel a callback."),
    "POST /api/callbacks/run": _Operation("Call back now, within hours and limits."),
    "POST /api/callbacks/done": _Operation("Mark a callback as done."),
    "POST /api/callbacks/reopen": _Operation("Make a cancelled or done callback pending again."),
    "POST /api/do-not-call": _Operation("Add a number to the do-not-call list, or remove it."),
    "GET /api/tenants": _Operation("Tenants, and agents without one.", TenantList),
    "POST /api/tenants/assign": _Operation("Assign an agent to a tenant.", Assigned),
    "POST /api/reload": _Operation("Reload the settings.", Reloaded),
    "POST /api/rekey": _Operation("Bring everything in the spool under the current main key; the response is NDJSON."),
    "POST /api/erasures": _Operation("Erase calls wherever the gateway reaches them; the response is NDJSON."),
    "POST /api/destinations/{destination}/resume": _Operation("Try a destination now.", Resumed),
    "GET /api/dead-letters/export": _Operation("Dead letters and their documents, as a zip file.", query=_EXPORTED),
    "POST /api/dead-letters/import": _Operation("Import an exported call log.", ImportResult),
    "POST /api/salvage": _Operation("Import another database; the response is NDJSON.", None, SalvageOrder),
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
    operation = _OPERATIONS[route]
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    in_query = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in operation.query]
    good: dict[str, Any] = {"description": "Done." if rule.is_order else "Success."}
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
