"""Which key travels with a call log."""

from pathlib import Path

import pytest

from gateway.calllog.document import credential
from gateway.fanout import DestinationRoute
from tests.intake.bodies import call_log, envelope
from tests.intake.running_intake import RunningIntake, running

GATE = "gate-key"
ON_THE_SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")


async def _kept_key(world: RunningIntake, call_id: str = "call-1") -> str | None:
    token_id = (await world.only_record(call_id)).record.token_id
    return None if token_id is None else await world.spool.token(token_id)


@pytest.mark.parametrize(
    ("intake_token", "headers", "in_document", "kept"),
    [
        (None, {}, None, None),
        (None, {"x-pype-token": "header"}, None, "header"),
        (None, {}, "document", "document"),
        (None, {"x-pype-token": "header"}, "document", "header"),
        (None, {"x-pype-token": ""}, "document", "document"),
        (GATE, {"x-pype-token": GATE}, None, None),
        (GATE, {"x-pype-token": GATE}, "document", "document"),
        (GATE, {"x-pype-token": "agents", "Authorization": f"Bearer {GATE}"}, None, "agents"),
        (GATE, {"Authorization": f"Bearer {GATE}"}, "document", "document"),
        (GATE, {"x-pype-token": GATE}, GATE, None),
    ],
)
async def test_the_agent_s_key(
    tmp_path: Path, intake_token: str | None, headers: dict[str, str], in_document: str | None, kept: str | None
) -> None:
    """The header wins over the document; the intake's own token never travels on."""
    body = call_log(token=in_document) if in_document else call_log()
    async with running(tmp_path, token=intake_token) as world:
        assert (await world.post(body, headers=headers)).status == 202
        assert await _kept_key(world) == kept


async def test_without_a_destination_for_it_no_key_is_kept(tmp_path: Path) -> None:
    """A key that is forwarded to nobody is not stored."""
    async with running(tmp_path, destinations=(DestinationRoute("file"),)) as world:
        await world.post(call_log(token="document"), headers={"x-pype-token": "header"})
        assert await _kept_key(world) is None


async def test_the_key_is_no_part_of_a_call_log_s_content(world: RunningIntake) -> None:
    """The digest of a call log is the same with another key, and its stored bytes hold none."""
    first = await world.post(call_log(token="one"))
    second = await world.post(call_log(token="two"))
    assert second.json["sha256"] == first.json["sha256"]
    for record in await world.spool.trace("call-1"):
        assert b"token" not in await world.stored(record.record)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("abc", "abc"),
        ("a b", "a b"),
        (None, None),
        ("", None),
        ("x" * 9000, None),
        ("a\r\nHost: b", None),
        ("a\x00", None),
        ("\udc80", None),
        (" a", None),
        ("a\n", None),
    ],
)
def test_only_what_a_header_can_carry_is_a_key(key: str | None, expected: str | None) -> None:
    """Anything that could not be sent, or could smuggle in a header, is no key."""
    assert credential(key) == expected


async def test_a_key_that_is_none_is_no_reason_to_lose_a_call_log(world: RunningIntake) -> None:
    """A header that cannot be a key is left out; the call log is accepted."""
    body = call_log()
    head = b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-pype-token: \xff\xfe\r\n"
    answer = await world.send_raw(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert await _kept_key(world) is None


@pytest.mark.parametrize("token", [17, {"key": "x"}, ["x"], "a\nb", True])
@pytest.mark.parametrize("way", ["post", "batch", "envelope", "upload"])
@ON_THE_SHARED_LOOP
async def test_a_token_that_is_no_credential_is_content(
    shared: RunningIntake, token: object, way: str, call_id: str
) -> None:
    """Whatever way it comes in, it stays in the call log, never becomes the agent's key, and is counted."""
    before = stray_tokens(shared)
    body = call_log(call_id, token=token)
    match way:
        case "post":
            answer = await shared.post(body)
        case "batch":
            answer = await shared.post(body, "/v1/calls/batch")
        case "envelope":
            answer = await shared.post(envelope(body))
        case _:
            wanted = {"call_id": call_id, "content_type": "application/json"}
            given = (await shared.post(wanted, "/dev/get-upload-url", headers={"x-pype-token": "agents"})).json
            answer = await shared.ask("PUT", given["upload_url"], body)
    assert answer.status in {200, 202}
    assert await _kept_key(shared, call_id) == ("agents" if way == "upload" else None)
    assert await shared.stored((await shared.only_record(call_id)).record) == body
    assert stray_tokens(shared) == before + 1


def stray_tokens(world: RunningIntake) -> float:
    return world.metrics.registry.get_sample_value("callspool_stray_tokens_total") or 0.0
