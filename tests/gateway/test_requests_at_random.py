"""Requests that schemathesis makes of the OpenAPI documents, against both listeners over a real spool."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from config.loader import load
from gateway.admin.app import build_admin_app
from gateway.admin.auth import Access
from gateway.admin.events import RecentEvents
from gateway.admin.metrics import Metrics
from gateway.admin.permissions import RULES
from gateway.runtime.lifecycle import Gateway
from tests.admin.admin_app import LOCAL_TOKEN, NOW
from tests.cli.conftest import Server
from tests.intake.running_intake import running

ADMIN = sorted(route for route in RULES if not route.endswith(("/salvage", "/import")))
"""All routes but one that opens any directory of this machine, and one whose bodies schemathesis cannot make."""
ROUTES = [("admin", one) for one in ADMIN] + [
    ("intake", one)
    for one in ("POST /v1/calls", "POST /send-call-log", "GET /v1/calls/{call_id}", "POST /get-upload-url")
]


@pytest.fixture(scope="module")
def listeners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, schemathesis.BaseSchema]]:
    """Both documents as schemathesis loads them from the listeners that serve them."""
    server, folder = Server(), tmp_path_factory.mktemp("listeners")
    variables = {"CALLSPOOL_SPOOL_DIR": str(folder / "admin"), "CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/"}
    made = load(None, variables)
    gateway = Gateway(made, lambda: made)
    server.enter(gateway.stopped(folder / "admin.sock"))
    access = Access()
    access.accept_spool_token(LOCAL_TOKEN)
    app = build_admin_app(gateway, Metrics(), RecentEvents(lambda: NOW), access)
    world = server.enter(running(folder / "intake"))
    addresses = {"admin": server.serve(app), "intake": f"127.0.0.1:{world.port}"}
    yield {name: schemathesis.openapi.from_url(f"http://{at}/openapi.json") for name, at in addresses.items()}
    server.close()


@pytest.mark.prove
@pytest.mark.parametrize(("listener", "route"), ROUTES)
def test_no_request_that_the_document_allows_breaks_a_listener(
    listeners: dict[str, schemathesis.BaseSchema], listener: str, route: str
) -> None:
    """Whatever is asked within the document is answered as it says, and never with a 500."""
    method, _, path = route.partition(" ")
    operation = listeners[listener][path][method]

    @given(case=operation.as_strategy())
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def ask(case: schemathesis.Case[Any]) -> None:
        headers = {"Authorization": f"Bearer {LOCAL_TOKEN}"} if listener == "admin" else {}
        answer = case.call(headers=headers, timeout=20)
        assert answer.status_code != 500, answer.text
        if answer.status_code >= 400 and answer.headers.get("content-type") == ["application/json"]:
            json.loads(answer.content)
        elif answer.status_code < 300:
            case.validate_response(answer, checks=[not_a_server_error, response_schema_conformance])

    ask()
