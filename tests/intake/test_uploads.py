"""Upload addresses, as the SDK uses them for large call logs."""

from pathlib import Path

import pytest

from tests.intake.bodies import call_log, large_call_log
from tests.intake.running_intake import RunningIntake, running

REQUEST = {"call_id": "call-1", "content_type": "application/json"}
KEY = {"x-pype-token": "agents-key"}


async def _address(world: RunningIntake, path: str = "/dev/get-upload-url") -> dict[str, str]:
    reply = await world.post(REQUEST, path, headers=KEY)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    given: dict[str, str] = reply.json
    return given


async def _key_of(world: RunningIntake, call_id: str) -> str | None:
    token_id = (await world.only_record(call_id)).record.token_id
    return None if token_id is None else await world.spool.token(token_id)


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/dev/get-upload-url", "/dev"),
        ("/get-upload-url", ""),
        ("/dev/send-call-log", "/dev"),
        ("/v1/calls", ""),
    ],
)
async def test_an_address_is_under_the_prefix_that_was_used(world: RunningIntake, path: str, prefix: str) -> None:
    """The address begins as the agent's URL does; the request is known at the paths for posts too."""
    given = await _address(world, path)
    assert given["upload_url"].startswith(f"http://127.0.0.1:{world.port}{prefix}/uploads/")
    assert given["s3_key"]
    assert given["s3_bucket"]
    assert await world.spool.trace("call-1") == ()


@pytest.mark.parametrize(
    ("trusted", "forwarded", "begins"),
    [
        pytest.param(("127.0.0.1/32",), ("https", "logs.example"), "https://logs.example/", id="a trusted proxy"),
        pytest.param(("127.0.0.1/32",), ("http, https", "evil.example, logs.example"), "https://logs.example/",
                     id="what its client says it was forwarded for"),
        pytest.param(("127.0.0.1/32",), ("gopher", "a b"), "http://127.0.0.1:", id="nonsense"),
        pytest.param(("10.0.0.0/8", "unix"), ("https", "evil.example"), "http://inner:1/", id="somebody else"),
        pytest.param((), ("https", "evil.example"), "http://inner:1/", id="nobody is trusted"),
    ],
)  # fmt: skip
async def test_only_a_trusted_proxy_says_what_an_upload_address_begins_with(
    tmp_path: Path, trusted: tuple[str, ...], forwarded: tuple[str, str], begins: str
) -> None:
    """Scheme and host are those of a trusted proxy's own headers; else the Host that was asked, and checked."""
    proto, host = forwarded
    headers = {**KEY, "Host": "inner:1", "X-Forwarded-Proto": proto, "X-Forwarded-Host": host}
    async with running(tmp_path, trusted_proxies=trusted) as world:
        reply = await world.post(REQUEST, "/dev/get-upload-url", headers=headers)
    assert reply.json["upload_url"].startswith(begins)


async def test_a_configured_url_is_what_upload_addresses_begin_with(tmp_path: Path) -> None:
    """It wins over every header, and the prefix that the agent used follows it."""
    headers = {**KEY, "Host": "inner:1", "X-Forwarded-Host": "evil.example"}
    public_url, proxies = "https://logs.example/calls/", ("127.0.0.1/32",)
    async with running(tmp_path, public_url=public_url, trusted_proxies=proxies) as world:
        reply = await world.post(REQUEST, "/dev/get-upload-url", headers=headers)
    assert reply.json["upload_url"].startswith("https://logs.example/calls/dev/uploads/")


async def test_an_upload_is_a_post(world: RunningIntake) -> None:
    """What is PUT to the address is accepted like a posted call log, answered 200, with the key of the request."""
    given = await _address(world)
    reply = await world.ask("PUT", given["upload_url"], large_call_log())
    assert reply.status == 200
    assert reply.json["upload_method"] == "two_phase"
    assert await _key_of(world, "call-1") == "agents-key"


async def test_the_token_in_the_document_wins(world: RunningIntake) -> None:
    """The SDK puts the key into the uploaded call log; it is kept, and taken out of the document."""
    given = await _address(world)
    await world.ask("PUT", given["upload_url"], call_log(token="from-document"))
    assert await _key_of(world, "call-1") == "from-document"
    assert b"from-document" not in await world.stored((await world.only_record("call-1")).record)


async def test_an_address_is_for_one_call_log(world: RunningIntake) -> None:
    """The same call log again is a duplicate, another one is refused."""
    url = (await _address(world))["upload_url"]
    assert (await world.ask("PUT", url, call_log())).status == 200
    again = await world.ask("PUT", url, call_log())
    assert (again.status, again.json["duplicate"]) == (200, True)
    other = await world.ask("PUT", url, call_log(other=1))
    assert (other.status, other.code) == (409, "upload_used")


async def test_an_address_expires(tmp_path: Path) -> None:
    """After its lifetime an address that was not used is 403; one that was is still known."""
    async with running(tmp_path, upload_url_lifetime=60.0) as world:
        used, unused = (await _address(world))["upload_url"], (await _address(world))["upload_url"]
        await world.ask("PUT", used, call_log())
        world.clock.now += 60_000
        late = await world.ask("PUT", unused, call_log(other=1))
        assert (late.status, late.code) == (403, "upload_expired")
        assert (await world.ask("PUT", used, call_log())).status == 200


async def test_keys_cannot_be_guessed(world: RunningIntake) -> None:
    """An unknown key is 404; keys are long, and no two are the same."""
    assert (await world.ask("PUT", "/uploads/guess", call_log())).code == "unknown_upload"
    secrets = {(await _address(world))["upload_url"].rsplit("/", 1)[1] for _ in range(20)}
    assert len(secrets) == 20
    assert min(map(len, secrets)) >= 43


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", REQUEST])
async def test_only_a_call_log_can_be_uploaded(world: RunningIntake, body: object) -> None:
    """What is no call log is refused, and the address can still be used."""
    url = (await _address(world))["upload_url"]
    assert (await world.ask("PUT", url, body)).status in {400, 422}
    assert (await world.ask("PUT", url, call_log())).status == 200


async def test_a_reference_to_an_upload_is_acknowledged(world: RunningIntake) -> None:
    """The reference that may follow an upload names its record and makes no other."""
    given = await _address(world)
    uploaded = await world.ask("PUT", given["upload_url"], call_log())
    reference = {"s3_reference": True, "s3_bucket": given["s3_bucket"], "s3_key": given["s3_key"], "call_id": "call-1"}
    reply = await world.post(reference)
    assert reply.status == 202
    assert reply.json["record_id"] == uploaded.json["record_id"]
    await world.only_record("call-1")


async def test_a_reference_without_its_upload_is_refused(world: RunningIntake) -> None:
    """A reference to an address that was never used would lose the call log if it were acknowledged."""
    given = await _address(world)
    reply = await world.post({"s3_reference": True, "s3_key": given["s3_key"], "call_id": "call-1"})
    assert (reply.status, reply.code) == (409, "not_uploaded")


async def test_a_foreign_reference_is_a_record(world: RunningIntake) -> None:
    """A reference to somebody else's bucket is forwarded as it is."""
    reply = await world.post({"s3_reference": True, "s3_bucket": "b", "s3_key": "k", "call_id": "call-1"})
    assert reply.status == 202
    assert (await world.only_record("call-1")).record.event == "s3_reference"


@pytest.mark.parametrize("body", [{"call_id": "call-1"}, {"s3_reference": True, "s3_key": "k", "call_id": "call-1"}])
async def test_the_request_for_an_address_needs_a_call_id_only(world: RunningIntake, body: dict[str, object]) -> None:
    """At its own path every document that names a call gets an address."""
    assert (await world.post(body, "/get-upload-url")).status == 200


async def test_an_upload_needs_no_token(tmp_path: Path) -> None:
    """The address is the credential: the SDK sends no token with it, though the intake asks for one."""
    async with running(tmp_path, token="gate-key") as world:
        given = (await world.post(REQUEST, "/dev/get-upload-url", headers={"x-pype-token": "gate-key"})).json
        assert (await world.ask("PUT", given["upload_url"], call_log())).status == 200
        assert await _key_of(world, "call-1") is None
