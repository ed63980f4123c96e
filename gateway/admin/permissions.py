"""Which role each request of the admin listener needs: one table for all of its routes.

A role includes those below it. Routes that are not in the table need the highest one.
"""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from gateway.operations.schemas import IMPORT_TYPE, OrderName

JSON_TYPE = "application/json"


class Role(IntEnum):
    """What a token lets its holder do."""

    READ = 1
    """See lists, traces, and what call logs hold."""
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
