"""Who may give orders at the admin listener, and who may not."""

import socket
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from tests.admin.world import World

JSON = {"Content-Type": "application/json"}
# The desk of this world is closed: who is let through is told that.
LET_IN, NOT_JSON, UNAUTHORIZED, FORBIDDEN = 503, 415, 401, 403


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        pytest.param(None, JSON, LET_IN, id="this machine"),
        pytest.param(None, {"Content-Type": "application/json; charset=utf-8"}, LET_IN, id="json with a charset"),
        pytest.param(None, {"Content-Type": "text/plain"}, NOT_JSON, id="what a form can send"),
        pytest.param(None, {}, NOT_JSON, id="no type at all"),
        pytest.param(None, {**JSON, "Origin": "https://evil.example"}, FORBIDDEN, id="a page of another site"),
        pytest.param(None, {**JSON, "Origin": "null"}, FORBIDDEN, id="a page without a site"),
        pytest.param(None, {**JSON, "Host": "evil.example:7718"}, FORBIDDEN, id="a name that was made to lead here"),
        pytest.param(None, {**JSON, "Host": "localhost:7718"}, LET_IN, id="localhost"),
        pytest.param(None, {**JSON, "Host": "[::1]:7718"}, LET_IN, id="IPv6"),
        pytest.param("hush", JSON, UNAUTHORIZED, id="no token"),
        pytest.param("hush", {**JSON, "Authorization": "Bearer hus"}, UNAUTHORIZED, id="a wrong token"),
        pytest.param("hush", {**JSON, "Authorization": "Basic hush"}, UNAUTHORIZED, id="no bearer"),
        pytest.param("hush", {**JSON, "Authorization": "bearer hush"}, LET_IN, id="the token"),
        pytest.param("hush", {**JSON, "Authorization": "Bearer hush", "Host": "spool"}, LET_IN, id="token, any name"),
        pytest.param(
            "hush",
            {**JSON, "Authorization": "Bearer hush", "Origin": "http://other"},
            FORBIDDEN,
            id="token, a page",
        ),
    ],
)
async def test_who_may_give_orders(
    aiohttp_client: Callable[..., Any], token: str | None, headers: Mapping[str, str], status: int
) -> None:
    """The token where there is one, else this machine; never a page of another site, whatever its browser knows."""
    client = await aiohttp_client(World(token=token).app)
    answer = await client.post(
        "/api/orders/replay", data=b'{"select": {}}', headers=headers, skip_auto_headers=["Content-Type"]
    )
    document = await answer.json()
    assert answer.status == status, document
    assert "hush" not in str(document)
    assert document["error"]["hint"]


async def test_what_call_logs_hold_is_protected_and_figures_are_not(aiohttp_client: Callable[..., Any]) -> None:
    """A token is asked of whoever reads deliveries, and of no scraper or probe."""
    client = await aiohttp_client(World(token="hush").app)
    answers = {path: (await client.get(path)).status for path in ("/api/deliveries", "/api/status", "/metrics")}
    assert answers == {"/api/deliveries": UNAUTHORIZED, "/api/status": 200, "/metrics": 200}


async def test_another_machine_needs_a_token(aiohttp_client: Callable[..., Any]) -> None:
    """Without a token in the configuration, who comes over the network is told what to set."""
    address = address_on_the_network()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    server = TestServer(World().app, host="0.0.0.0")
    client = await aiohttp_client(server)
    answer = await client.session.post(f"http://{address}:{server.port}/api/orders/replay", json={"select": {}})
    document = await answer.json()
    assert (answer.status, document["error"]["code"]) == (FORBIDDEN, "local_only")
    assert "CALLSPOOL_ADMIN_TOKEN" in document["error"]["hint"]


def address_on_the_network() -> str | None:
    """The address that this machine would send from; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])
