"""The upload addresses that the tests' own endpoint gives."""

from collections.abc import Callable

import aiohttp
import pytest

from bench.endpoint import Endpoint

JSON = {"Content-Type": "application/json"}


async def an_address(session: aiohttp.ClientSession, endpoint: Endpoint) -> str:
    url = endpoint.url.replace("send-call-log", "get-upload-url")
    question = {"call_id": "call-1", "content_type": "application/json"}
    async with session.post(url, json=question, headers={"x-pype-token": "t"}) as answer:
        assert answer.status == 200
        return str((await answer.json())["upload_url"])


@pytest.mark.parametrize(
    ("change", "headers", "status"),
    [
        (lambda url: url, JSON, 200),
        (lambda url: url, {"Content-Type": "application/json; charset=utf-8"}, 403),
        (lambda url: url.replace("signature=", "signature=0"), JSON, 403),
        (lambda url: url.replace("call-1", "call-2"), JSON, 403),
    ],
    ids=["as-signed", "another-type", "another-signature", "another-key"],
)
async def test_an_address_takes_what_it_was_signed_for(
    change: Callable[[str], str], headers: dict[str, str], status: int
) -> None:
    """One key, one content type, and a signature that nobody made up: as a real storage has it."""
    async with Endpoint(token="t") as endpoint, aiohttp.ClientSession() as session:
        url = change(await an_address(session, endpoint))
        async with session.put(url, data=b'{"call_id": "call-1"}', headers=headers) as answer:
            assert answer.status == status
        assert len(endpoint.storage.objects) == (status == 200)


async def test_who_has_no_token_gets_no_address() -> None:
    """The endpoint gives addresses to those that it would take a call log from."""
    async with Endpoint(token="t") as endpoint, aiohttp.ClientSession() as session:
        url = endpoint.url.replace("send-call-log", "get-upload-url")
        async with session.post(url, json={"call_id": "c"}) as answer:
            assert answer.status == 401
        assert endpoint.storage.asked == []
