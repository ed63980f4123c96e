"""Web pages and rebound names cannot post to an intake without a token, nor read from it."""

from pathlib import Path

import pytest

from tests.intake.bodies import call_log
from tests.intake.running_intake import RunningIntake, running

GATE = "gate-key"
ON_THE_SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")
EVIL = [
    ({"Host": "evil.example:7717"}, 421, "unknown_host"),
    ({"Host": "[::1"}, 421, "unknown_host"),
    ({"Origin": "https://evil.example"}, 403, "cross_site"),
    ({"Origin": "null", "Content-Type": "text/plain"}, 403, "cross_site"),
    ({"Sec-Fetch-Site": "cross-site"}, 403, "cross_site"),
]
WAYS_IN = [
    ("POST", "/dev/send-call-log"), ("POST", "/v1/calls"), ("POST", "/v1/calls/batch"), ("POST", "/get-upload-url"),
    ("GET", "/v1/calls/call-1"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), WAYS_IN)
@pytest.mark.parametrize(("headers", "status", "code"), EVIL, ids=lambda value: str(value)[:30])
@ON_THE_SHARED_LOOP
async def test_a_browser_is_refused_at_every_way_in(
    shared: RunningIntake, method: str, path: str, headers: dict[str, str], status: int, code: str, call_id: str
) -> None:
    """The request of a page is refused before its body is read, with what to set if it was meant."""
    reply = await shared.ask(method, path, call_log(call_id) if method == "POST" else None, headers=headers)
    assert (reply.status, reply.json["error"]["code"]) == (status, code)
    assert "intake.token" in reply.json["error"]["hint"]
    assert await shared.spool.trace(call_id) == ()


@pytest.mark.parametrize("host", ["127.0.0.1:7717", "localhost", "callspool:7717", "calls.svc", "[::1]:7717"])
@ON_THE_SHARED_LOOP
async def test_agents_post_by_addresses_and_names_that_nobody_can_register(
    shared: RunningIntake, host: str, call_id: str
) -> None:
    """Sidecars, containers and clusters need no setting."""
    assert (await shared.post(call_log(call_id), headers={"Host": host})).status == 202


async def test_with_a_token_names_and_pages_are_the_token_s_matter(tmp_path: Path) -> None:
    """A page that is to post has the token; behind a public name every agent has."""
    headers = {"Host": "calls.example.com", "Origin": "https://app.example.com"}
    async with running(tmp_path, token=GATE) as world:
        assert (await world.post(call_log(), headers=headers)).status == 401
        assert (await world.post(call_log(), headers={**headers, "x-pype-token": GATE})).status == 202


async def test_a_configured_name_is_served(tmp_path: Path) -> None:
    """`intake.hosts` lists the names of a receiver without a token."""
    async with running(tmp_path, hosts=("Calls.example.com",)) as world:
        assert (await world.post(call_log(), headers={"Host": "calls.example.com:7717"})).status == 202
        assert (await world.post(call_log(), headers={"Host": "x.calls.example.com"})).status == 421
