"""Who may do what at the admin listener, and who may not."""

import asyncio
import os
import re
import socket
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pytest_aiohttp import AiohttpClient

from gateway.admin.auth import TOKEN_FILE, GuessLimit, make_local_token
from gateway.admin.permissions import RULES, Role, rule_of
from gateway.listeners import is_trusted_host
from gateway.operations.schemas import IMPORT_TYPE
from spool.records import Lane
from tests.admin.admin_app import AUTHORIZED, ENDPOINT_DOWN, LOCAL_TOKEN, STATS, AdminFigures, delivery

JSON = {"Content-Type": "application/json"}
OPEN = ["/", "/sign-in", "/metrics", "/openapi.json", "/healthz", "/readyz", "/api/status"]
FOR_BROWSERS = ["/api/events", "/assets/{name}", "/sign-in", "/sign-out"]
"""Open too: no more than the status, files of the package, and what begins and ends a session."""
LOCAL = ["GET /api/deliveries", "GET /api/calls/c", "POST /api/orders/replay", "POST /api/orders/retry"]
LOCAL += ["POST /api/destinations/endpoint/resume"]
PROTECTED = ["GET /api/deliveries/a-1/core/x", "GET /api/documents/a-1/core/x", "POST /api/salvage"]
PROTECTED += [f"POST /api/orders/{name}" for name in ("discard", "reroute", "replace-token")]
# The spool of this world is closed and its calls are unknown: who is let through is told that.
LET_IN = {200, 503, 404}
NOT_JSON, UNAUTHORIZED, FORBIDDEN, MISDIRECTED, LIMITED = 415, 401, 403, 421, 429
BEARER = {"Authorization": "Bearer hush-hush-hush-hush"}
PROXIES: list[Mapping[str, str]] = [
    {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-Host": "h"}, {"x-forwarded-proto": "https"},
    {"Forwarded": "for=192.0.2.1"}, {"Via": "1.1 proxy"}, {"X-Real-IP": "192.0.2.1"},
]  # fmt: skip
"""What a proxy says that passes on the request of somebody else; nginx alone says nothing without being told."""


async def ask(client: Any, route: str, headers: Mapping[str, str] = JSON) -> Any:
    method, _, path = route.rpartition(" ")
    data = b"{}" if method == "POST" else None
    return await client.request(method or "GET", path, data=data, headers=headers, skip_auto_headers=["Content-Type"])


@pytest.mark.parametrize("route", [*OPEN, *LOCAL, *PROTECTED])
@pytest.mark.parametrize("configured", [None, "hush-hush-hush-hush"], ids=["no token set", "token set"])
async def test_each_kind_of_route_lets_in_whom_it_is_for(
    aiohttp_client: AiohttpClient, route: str, configured: str | None
) -> None:
    """Open ones everybody; local ones this machine, unless a token is set; protected ones a token alone."""
    client = await aiohttp_client(AdminFigures(token=configured).app)
    bare = (await ask(client, route)).status
    if route in OPEN or (route in LOCAL and configured is None):
        assert bare in LET_IN
    else:
        assert bare == UNAUTHORIZED
    assert (await ask(client, route, {**JSON, **AUTHORIZED})).status in LET_IN
    if configured is not None:
        assert (await ask(client, route, {**JSON, **BEARER})).status in LET_IN
    if route not in OPEN:
        wrong = await ask(client, route, {**JSON, "Authorization": "Bearer wrong"})
        assert wrong.status == UNAUTHORIZED
        assert LOCAL_TOKEN not in await wrong.text()
        assert (await wrong.json())["error"]["hint"]


ROLES = {Role.READ: ("read-" * 4,), Role.OPERATE: ("operate-" * 3, "operate-old-" * 2), Role.ADMIN: ("admin-" * 4,)}
"""With two tokens of one role, as while clients change from one to the next."""


def test_every_route_has_its_row() -> None:
    """The table of rules names the routes that there are, and no others; a route without a row would need `admin`."""
    routes = AdminFigures().app.router.routes()
    found = {f"{route.method} {route.resource.canonical}" for route in routes if route.resource is not None}
    assert {route for route in found if not route.startswith("HEAD ")} == set(RULES)
    assert rule_of("PATCH", "/api/new").role is Role.ADMIN


@pytest.mark.parametrize("route", [route for route, rule in RULES.items() if rule.role is not None])
async def test_a_route_lets_in_its_role_and_those_above(aiohttp_client: AiohttpClient, route: str) -> None:
    """Whoever has less is told which role it takes; every token of a role counts, and a local peer is nobody then."""
    client = await aiohttp_client(AdminFigures(tokens=ROLES).app)
    rule, url = RULES[route], re.sub(r"\{[^}]*\}", "x", route)
    kind = {"Content-Type": rule.content_type or "application/json"}
    for role, tokens in ROLES.items():
        for token in tokens:
            answer = await ask(client, url, {**kind, "Authorization": f"Bearer {token}"})
            if role >= (rule.role or 0):
                assert answer.status not in {UNAUTHORIZED, FORBIDDEN, LIMITED}, await answer.text()
                continue
            error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (FORBIDDEN, "role_needed")
            assert f"the role {rule.role.word if rule.role else ''};" in error["message"]
            assert error["message"].endswith(f"the role {role.word}.")
            assert error["hint"]
    assert (await ask(client, url, kind)).status == UNAUTHORIZED


async def test_guesses_at_any_role_are_limited(aiohttp_client: AiohttpClient) -> None:
    """An address that guessed too often is refused, whatever token it presents next, but for that of the spool."""
    client = await aiohttp_client(AdminFigures(tokens={Role.READ: ROLES[Role.READ]}).app)
    statuses = [(await ask(client, "/api/calls", {"Authorization": "Bearer guess"})).status for _ in range(12)]
    assert statuses == [UNAUTHORIZED] * 10 + [LIMITED] * 2
    right = {"Authorization": f"Bearer {ROLES[Role.READ][0]}"}
    assert (await ask(client, "/api/calls", right)).status == LIMITED
    assert (await ask(client, "/api/calls", AUTHORIZED)).status in LET_IN


async def test_no_route_is_left_open_by_mistake(aiohttp_client: AiohttpClient) -> None:
    """Every route that there is asks for a token of what a proxy passes on, but for the open ones."""
    world = AdminFigures()
    client = await aiohttp_client(world.app)
    found = {(route.method, route.resource.canonical) for route in world.app.router.routes() if route.resource}
    assert len(found) > 15
    for method, path in sorted(found):
        if path in {*OPEN, *FOR_BROWSERS} or method == "HEAD":
            continue
        url = re.sub(r"\{[^}]*\}", "x", path)
        statuses = {
            (await ask(client, f"{method} {url}", {"Content-Type": kind, "Via": "1.1 proxy"})).status
            for kind in ("application/json", IMPORT_TYPE)
        }
        assert statuses <= {UNAUTHORIZED, FORBIDDEN, NOT_JSON}, (method, path, statuses)
        assert statuses & {UNAUTHORIZED, FORBIDDEN}, (method, path, statuses)


@pytest.mark.parametrize("headers", PROXIES, ids=lambda headers: next(iter(headers)))
@pytest.mark.parametrize("route", LOCAL)
async def test_what_a_proxy_passes_on_comes_from_nowhere_near(
    aiohttp_client: AiohttpClient, route: str, headers: Mapping[str, str]
) -> None:
    """A request that says that it was passed on needs the token, though its address is loopback."""
    client = await aiohttp_client(AdminFigures().app)
    assert (await ask(client, route, {**JSON, **headers})).status == FORBIDDEN
    assert (await ask(client, route, {**JSON, **headers, **AUTHORIZED})).status in LET_IN


@pytest.mark.parametrize("peer", ["127.0.0.6", "network"])
async def test_other_peers_need_a_token(aiohttp_client: AiohttpClient, peer: str) -> None:
    """Sidecars of a mesh come from 127.0.0.6, others over the network: an address is no identity."""
    address = address_on_the_network() if peer == "network" else peer
    if address is None:
        pytest.skip("this machine has no address but loopback")
    server = TestServer(AdminFigures().app, host="0.0.0.0")
    client: TestClient[web.Request, None] = await aiohttp_client(server)
    reading, writing = await asyncio.open_connection(
        "127.0.0.1" if peer != "network" else address, server.port, local_addr=(address, 0)
    )
    writing.write(b"GET /api/deliveries HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    answer = await reading.read()
    writing.close()
    await writing.wait_closed()
    assert answer.startswith(b"HTTP/1.1 403"), answer
    assert b"local_only" in answer
    assert b"CALLSPOOL_ADMIN_TOKEN" in answer
    assert (await client.get("/api/deliveries")).status in LET_IN


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Content-Type": "application/json; charset=utf-8"}, None, id="json with a charset"),
        pytest.param({"Content-Type": "text/plain"}, NOT_JSON, id="what a form can send"),
        pytest.param({}, NOT_JSON, id="no type at all"),
        pytest.param({**JSON, "Origin": "https://evil.example"}, FORBIDDEN, id="a page of another site"),
        pytest.param({**JSON, "Origin": "null"}, FORBIDDEN, id="a page without a site"),
        pytest.param({**JSON, "Origin": "http://[::1"}, FORBIDDEN, id="nonsense for a site"),
        pytest.param({**JSON, "Sec-Fetch-Site": "cross-site"}, FORBIDDEN, id="a page, without an Origin"),
        pytest.param({**JSON, "Sec-Fetch-Site": "same-origin"}, None, id="the own page"),
        pytest.param({**JSON, "Host": "evil.example:7718"}, MISDIRECTED, id="a rebound name"),
        pytest.param({**JSON, "Host": "localhost:7718"}, None, id="localhost"),
        pytest.param({**JSON, "Host": "[::1]:7718"}, None, id="IPv6"),
        pytest.param({**JSON, "Host": "[::1"}, MISDIRECTED, id="half an address"),
        pytest.param({**JSON, **AUTHORIZED, "Origin": "http://other"}, FORBIDDEN, id="a page that has the token"),
        pytest.param({**JSON, **AUTHORIZED, "Host": "evil.example"}, MISDIRECTED, id="a rebound name with the token"),
        pytest.param({**JSON, "Authorization": f"bearer {LOCAL_TOKEN}"}, None, id="the token, in small letters"),
        pytest.param({**JSON, "Authorization": "Bearer \u00fc"}, UNAUTHORIZED, id="no ASCII"),
    ],
)
async def test_who_may_give_orders(
    aiohttp_client: AiohttpClient, headers: Mapping[str, str], status: int | None
) -> None:
    """Never a page of another site, whatever its browser knows, and never under a name that was made to lead here."""
    client = await aiohttp_client(AdminFigures().app)
    answer = await ask(client, "POST /api/orders/replay", headers)
    assert answer.status in (LET_IN if status is None else {status}), await answer.text()


@pytest.mark.parametrize("path", OPEN)
async def test_pages_and_rebound_names_do_not_even_read_figures(aiohttp_client: AiohttpClient, path: str) -> None:
    """Nothing is answered to another site but a link to the status page, which tells that site nothing."""
    client = await aiohttp_client(AdminFigures().app)
    assert (await client.get(path, headers={"Host": "evil.example"})).status == MISDIRECTED
    assert (await client.get(path, headers={"Origin": "https://evil.example"})).status == FORBIDDEN
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert (await client.get(path, headers=followed)).status == (200 if path == "/" else FORBIDDEN)


@pytest.mark.parametrize(
    ("configured", "headers", "complete"),
    [
        (None, {}, True),
        (None, {"X-Forwarded-For": "192.0.2.1"}, False),
        ("hush-hush-hush-hush", {}, False),
        ("hush-hush-hush-hush", BEARER, True),
        (None, {"Via": "1.1 proxy", **AUTHORIZED}, True),
    ],
)
async def test_figures_are_for_everyone_and_what_names_a_call_is_not(
    aiohttp_client: AiohttpClient, configured: str | None, headers: Mapping[str, str], complete: bool
) -> None:
    """Ids of calls and what endpoints answered need what a list of calls needs; the figures stay open."""
    down = replace(ENDPOINT_DOWN, reason="HTTP 503: caller +1 555 0100")
    stats = replace(STATS, dead_reasons={("endpoint", Lane.CORE): {"HTTP 400: caller +1 555 0100": 3}})
    world = AdminFigures(token=configured, destinations=(down,), stats=stats)
    world.events.attempted(delivery(), "dead", 0.1)
    answer = await (await aiohttp_client(world.app)).get("/api/status", headers=headers)
    status, text = await answer.json(), await answer.text()
    assert (status["complete"], "call-1" in text, "555 0100" in text) == (complete,) * 3
    assert (status["destinations"][0]["dead"], status["destinations"][0]["dead_reasons"][0]["count"]) == (2, 3)
    assert status["destinations"][0]["reason"].startswith("HTTP 503")


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("127.0.0.1", True), ("127.0.0.1:7718", True), ("10.1.2.3:7718", True), ("[fe80::1]:7718", True),
        ("localhost", True), ("LOCALHOST:1", True), ("localhost.", True), ("a.localhost", True),
        ("callspool:7718", True), ("callspool.monitoring.svc:7718", True), ("c.m.svc.cluster.local", True),
        ("spool.example.com", True), ("SPOOL.example.com:7718", True),
        ("evil.example", False), ("spool.example.com.evil.example", False), ("127.0.0.1.evil.example", False),
        ("evil.example:80", False), ("[::1", False), ("::1]", False), ("[]", False), ("", False), ("a b", False),
        ("localhost:x", False), ("127.0.0.1:7718:7718", False), ("[::1]x", False), ("évil", False), ("a@b", False),
    ],
)  # fmt: skip
def test_a_host_is_an_address_or_a_name_that_nobody_can_rebind(host: str, trusted: bool) -> None:
    """Addresses, localhost, names without a dot, those of clusters, and the configured ones; nothing malformed."""
    assert is_trusted_host(host, frozenset({"spool.example.com"})) is trusted


async def test_guesses_are_limited_logged_and_counted(aiohttp_client: AiohttpClient) -> None:
    """Ten wrong tokens at once, then one in six seconds; one line a minute; the token of the spool works throughout."""
    world = AdminFigures(token="hush-hush-hush-hush")
    client = await aiohttp_client(world.app)
    wrong = {"Authorization": "Bearer hush-hush-hush-husi"}
    with structlog.testing.capture_logs() as logged:
        statuses = [(await client.get("/api/deliveries", headers=wrong)).status for _ in range(30)]
        assert statuses == [UNAUTHORIZED] * 10 + [LIMITED] * 20
        refused = await client.get("/api/deliveries", headers=BEARER)
        assert (refused.status, refused.headers["Retry-After"]) == (LIMITED, "6")
        assert (await client.get("/api/deliveries", headers=AUTHORIZED)).status in LET_IN
        world.now += 6_000
        assert (await client.get("/api/deliveries", headers=BEARER)).status in LET_IN
        world.now += 60_000
        assert (await client.get("/api/deliveries", headers=wrong)).status == UNAUTHORIZED
    assert [(line["event"], line["attempts"]) for line in logged] == [
        ("admin_token_refused", 1),
        ("admin_token_refused", 31),
    ]
    metrics = await (await client.get("/metrics")).text()
    assert 'callspool_admin_refusals_total{reason="too_many_guesses"} 21.0' in metrics
    assert 'callspool_admin_refusals_total{reason="wrong_token"} 11.0' in metrics


async def test_while_a_gateway_starts_the_token_of_its_spool_is_not_called_wrong(
    aiohttp_client: AiohttpClient,
) -> None:
    """What asks during a start is told to ask again; it is no guess, neither in the log nor in the metrics."""
    world = AdminFigures(spool_token=None)
    client = await aiohttp_client(world.app)
    with structlog.testing.capture_logs() as logged:
        early = await client.get("/api/deliveries", headers=AUTHORIZED)
        assert (early.status, early.headers["Retry-After"]) == (503, "1")
        assert (await early.json())["error"]["code"] == "starting"
        assert (await client.get("/api/status", headers=AUTHORIZED)).status == 200
    assert not logged
    assert "callspool_admin_refusals_total{" not in await (await client.get("/metrics")).text()
    world.access.accept_spool_token(LOCAL_TOKEN)
    assert (await client.get("/api/deliveries", headers=AUTHORIZED)).status in LET_IN


def test_addresses_that_one_sender_has_at_will_are_one_sender() -> None:
    """Loopback and an IPv6 network have one allowance each, and there are never more than so many allowances."""
    now = 0.0
    limit = GuessLimit(burst=1, seconds=10, clock=lambda: now)
    limit.failed("127.0.0.1")
    assert [limit.allows(each) for each in ("127.0.0.9", "::1", "192.0.2.1")] == [False, False, True]
    limit.failed("2001:db8::1")
    assert [limit.allows(each) for each in ("2001:db8::2", "2001:db9::1")] == [False, True]
    for number in range(2 * GuessLimit.MOST):  # nobody asks before whether it may, where no tokens are configured
        limit.failed(f"10.0.{number // 256}.{number % 256}")
    assert len(limit._free_at) == GuessLimit.MOST
    assert not limit.allows("192.0.2.1")
    now = 11.0
    assert limit.allows("192.0.2.1")


def test_the_token_of_the_spool_is_made_once_and_private(tmp_path: Path) -> None:
    """Random, for its owner alone, and the same at the next start."""
    token = make_local_token(tmp_path)
    assert len(token) >= 43
    assert stat.S_IMODE((tmp_path / TOKEN_FILE).stat().st_mode) == 0o600
    assert make_local_token(tmp_path) == token == (tmp_path / TOKEN_FILE).read_text().strip()


@pytest.mark.parametrize("trouble", ["readable", "short", "link", "binary", "empty"])
def test_a_token_that_others_could_know_is_made_anew(tmp_path: Path, trouble: str) -> None:
    """A loose mode, a link, or what is no token: a new one takes its place, and what a link led to stays as it is."""
    token = make_local_token(tmp_path)
    path, elsewhere = tmp_path / TOKEN_FILE, tmp_path / "elsewhere"
    match trouble:
        case "readable":
            path.chmod(0o644)
        case "short":
            path.write_text("x\n")
        case "binary":
            path.write_bytes(b"\xff" * 64)
        case "empty":
            path.write_text("")
        case "link":
            os.rename(path, elsewhere)  # noqa: PTH104
            path.symlink_to(elsewhere)
    made = make_local_token(tmp_path)
    assert made != token
    assert made == path.read_text().strip()
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not elsewhere.exists() or elsewhere.read_text().strip() == token


def address_on_the_network() -> str | None:
    """The address that this machine would send from; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])
