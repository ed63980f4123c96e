"""Uploads through addresses that an endpoint gives."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench.s3_server import Server, free_ports
from spool.errors import CorruptPayload
from spool.records import Clock, Delivery, Form, Fragment, Lane
from tests.s3.presigned_endpoint import presigning
from tests.s3.stored_objects import MEBIBYTE, Heard, client_of, objects
from tests.uploaders.deliveries import ACCEPTED_AT, TOKEN, Payloads, a_delivery, a_record, failed, large_fragments
from uploaders.base import Delivered, Refused, RetryLater, Scope
from uploaders.presigned import PresignedOptions, PresignedUploader

REST = b'"telemetry_data": "' + b"}" * 3 * MEBIBYTE + b'"'
WHOLE = b'{"call_id": "call-1", "n": 1.10,' + REST + b',"token":"' + TOKEN.encode() + b'"}'


@asynccontextmanager
async def an_uploader(
    url: str, payloads: Payloads, clock: Clock = lambda: ACCEPTED_AT, heard: Heard | None = None, **options: Any
) -> AsyncIterator[PresignedUploader]:
    uploader = PresignedUploader(PresignedOptions(url, **options), payloads, clock, heard or Heard())
    try:
        yield uploader
    finally:
        await uploader.close()


def a_large_one(**fields: Any) -> tuple[Payloads, Delivery]:
    payloads = Payloads({7: TOKEN})
    record = a_record(payloads, token_id=7, fragments=large_fragments(REST), **fields)
    return payloads, a_delivery(record, Form.WHOLE)


async def test_the_whole_goes_as_plain_json_with_its_token_and_its_length() -> None:
    """One PUT carries the call log byte for byte, the token last, with exactly the type that was signed for."""
    payloads, delivery = a_large_one()
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads) as uploader:
        assert await uploader.deliver(delivery) == Delivered("s3://bucket-1/calls/a/b.json")
        ((asked, question),) = endpoint.asked
        assert (asked["x-pype-token"], question) == (
            TOKEN,
            {"call_id": "call-1", "content_type": "application/json"},
        )
        ((headers, body),) = endpoint.put
        assert body == WHOLE
        assert headers["Content-Type"] == "application/json"
        assert headers["Content-Length"] == str(len(WHOLE))
        assert "Transfer-Encoding" not in headers
        assert "x-pype-token" not in headers
        assert headers[":path"] == "/bucket-1/calls/a%2Fb.json?X-Amz-Signature=sec%2Bret"


async def test_both_requests_say_through_which_gateways_a_record_came() -> None:
    """Who gives addresses, and what takes the upload, may be a gateway of which the record came."""
    payloads, delivery = a_large_one(via="1.1 callspool-00000001")
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads, via="callspool-0000000f") as uploader:
        await uploader.deliver(delivery)
        assert {endpoint.asked[0][0]["Via"], endpoint.put[0][0]["Via"]} == {
            "1.1 callspool-00000001, 1.1 callspool-0000000f"
        }


@pytest.mark.parametrize("body", [b'{"call_id": "c", "o": {"a": "}"}}', b'{"call_id": "c"} \r\n', b' {"call_id":"c"}'])
async def test_a_small_call_log_gets_its_token_too(body: bytes) -> None:
    """The member goes before the last brace of a document that is stored in one piece, whatever stands behind it."""
    payloads = Payloads({7: 'to"ken'})
    record = a_record(payloads, token_id=7, fragments={Fragment.BODY: body})
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads) as uploader:
        assert await uploader.deliver(a_delivery(record)) == Delivered("s3://bucket-1/calls/a/b.json")
        ((_, sent),) = endpoint.put
        assert json.loads(sent) == json.loads(body) | {"token": 'to"ken'}
        assert sent.replace(b',"token":"to\\"ken"', b"") == body


@pytest.mark.parametrize(
    ("own", "configured", "sent"), [(None, None, None), (7, "other", "other"), (None, "one", "one")]
)
async def test_the_token_is_the_configured_one_or_the_records_own_or_none(
    own: int | None, configured: str | None, sent: str | None
) -> None:
    """Asking and call log carry the same token, and neither does where there is none."""
    payloads = Payloads({7: TOKEN})
    delivery = a_delivery(a_record(payloads, token_id=own))
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads, token=configured) as uploader:
        await uploader.deliver(delivery)
        assert endpoint.asked[0][0].get("x-pype-token") == sent
        assert json.loads(endpoint.put[0][1]).get("token") == sent


@pytest.mark.parametrize(
    ("query", "spent", "used"),
    [
        ("", 899_000, True),
        ("", 900_000, False),
        ("?X-Amz-Expires=60", 59_000, True),
        ("?X-Amz-Expires=60", 60_000, False),
        ("?X-Amz-Expires=86400", 900_000, False),
    ],
)
async def test_an_address_is_never_used_after_it_expired(query: str, spent: int, used: bool) -> None:
    """Its time, told or 15 minutes, counts from the request for it; what is too late asks for another one next time."""
    payloads, delivery = a_large_one()
    time = [ACCEPTED_AT]
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads, lambda: time[0]) as uploader:

        def tell() -> dict[str, Any]:
            time[0] += spent
            return {"upload_url": endpoint.upload_url.partition("?")[0] + query, "s3_key": "calls/a/b.json"}

        endpoint.tell = tell
        outcome = await uploader.deliver(delivery)
        assert isinstance(outcome, Delivered if used else RetryLater)
        assert len(endpoint.put) == used


async def test_each_attempt_asks_for_an_address_of_its_own() -> None:
    """An address is used once: a retry asks again."""
    payloads, delivery = a_large_one()
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads) as uploader:
        endpoint.put_status = 500
        assert await uploader.deliver(delivery) == RetryLater("upload: HTTP 500")
        endpoint.put_status = 200
        assert isinstance(await uploader.deliver(delivery), Delivered)
        assert (len(endpoint.asked), len(endpoint.put)) == (2, 2)


def xml(code: str, message: str) -> str:
    return f"<Error><Code>{code}</Code><Message>{message}</Message><StringToSign>hidden</StringToSign></Error>"


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (
            403,
            xml("AccessDenied", "Request has expired"),
            RetryLater("upload: HTTP 403 AccessDenied: Request has expired"),
        ),
        (400, xml("SomethingNew", "expired"), RetryLater("upload: HTTP 400 SomethingNew: expired")),
        (403, xml("SignatureDoesNotMatch", "no"), RetryLater("upload: HTTP 403 SignatureDoesNotMatch: no")),
        (503, xml("SlowDown", "slow"), RetryLater("upload: HTTP 503 SlowDown: slow", Scope.DESTINATION)),
        (404, "", RetryLater("upload: HTTP 404")),
        (301, "", RetryLater("upload: HTTP 301")),
        (413, "", Refused("upload: HTTP 413", too_large=True)),
        (400, xml("EntityTooLarge", "big"), Refused("upload: HTTP 400 EntityTooLarge: big", too_large=True)),
        (400, xml("InvalidRequest", "bad"), Refused("upload: HTTP 400 InvalidRequest: bad")),
    ],
)
async def test_what_the_storage_says_decides_by_its_meaning(
    status: int, body: str, outcome: Refused | RetryLater
) -> None:
    """Expired and unsigned addresses are asked for again, busy storage waits, what it will never take is refused."""
    payloads, delivery = a_large_one()
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads) as uploader:
        endpoint.put_status, endpoint.put_body = status, body
        assert await uploader.deliver(delivery) == outcome


@pytest.mark.parametrize(
    ("status", "told", "kind", "scope"),
    [
        (404, {}, Refused, Scope.DESTINATION),
        (401, {}, Refused, Scope.CREDENTIAL),
        (500, {}, RetryLater, Scope.RECORD),
        (200, {}, RetryLater, Scope.RECORD),
        (200, {"upload_url": 7}, RetryLater, Scope.RECORD),
        (200, {"upload_url": "ftp://host/key"}, RetryLater, Scope.RECORD),
        (200, {"upload_url": "http://[bad/key"}, RetryLater, Scope.RECORD),
        (200, {"success": False, "upload_url": "http://127.0.0.1:1/x"}, RetryLater, Scope.RECORD),
    ],
)
async def test_an_endpoint_that_gives_no_address_is_no_reason_to_upload(
    status: int, told: dict[str, Any], kind: type, scope: Scope
) -> None:
    """Without a usable address nothing is put anywhere; an endpoint without that route is paused."""
    payloads, delivery = a_large_one()
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads) as uploader:
        endpoint.address_status, endpoint.tell = status, lambda: told
        outcome = failed(await uploader.deliver(delivery))
        assert (type(outcome), outcome.scope) == (kind, scope)
        assert endpoint.put == []


async def test_a_damaged_payload_is_no_fault_of_the_network() -> None:
    """When the spool cannot give a frame the upload breaks off, and the spool's own error comes through."""
    payloads, delivery = a_large_one()
    payloads.corrupt(1, Fragment.REST)
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads) as uploader:
        with pytest.raises(CorruptPayload):
            await uploader.deliver(delivery)


async def test_a_storage_that_is_not_there_is_an_outcome() -> None:
    """An address that nobody answers at is asked for again later."""
    payloads, delivery = a_large_one()
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads) as uploader:
        (port,) = free_ports(1)
        endpoint.tell = lambda: {"upload_url": f"http://127.0.0.1:{port}/b/k", "s3_key": "k"}
        outcome = await uploader.deliver(delivery)
        assert isinstance(outcome, RetryLater)
        assert "cannot connect" in outcome.reason


async def test_both_requests_go_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint and the storage are reached by HTTP_PROXY, with its credentials."""
    payloads, delivery = a_large_one()
    async with presigning() as endpoint:
        address = endpoint.url.removeprefix("http://").partition("/")[0]
        monkeypatch.setenv("http_proxy", f"http://user:password@{address}")
        monkeypatch.setenv("no_proxy", "")
        endpoint.tell = lambda: {"upload_url": "http://storage.invalid/b/k", "s3_key": "k"}
        async with an_uploader(
            "http://endpoint.invalid/dev/send-call-log", payloads, upload_hosts=("storage.invalid",)
        ) as uploader:
            assert await uploader.deliver(delivery) == Delivered("s3://b/k")
        ((asked, _),), ((put, _),) = endpoint.asked, endpoint.put
        assert asked["Proxy-Authorization"] == put["Proxy-Authorization"] == "Basic dXNlcjpwYXNzd29yZA=="


def test_authorities_that_cannot_be_read_are_told_at_once(tmp_path: Path) -> None:
    """A missing `ca_file` is found when the uploader is made."""
    with pytest.raises(OSError, match="No such file"):
        PresignedUploader(
            PresignedOptions("http://h/send-call-log", ca_file=tmp_path / "no.pem"), Payloads(), int, Heard()
        )


async def test_what_cannot_go_this_way_is_refused() -> None:
    """Only wholes go, a token that is gone cannot be sent, and one that no header takes neither."""
    payloads, delivery = a_large_one()
    async with an_uploader("http://127.0.0.1:1/send-call-log", payloads) as uploader:
        for form in (Form.NOTICE, Form.CORE, Form.DETAIL):
            outcome = await uploader.deliver(a_delivery(delivery.record, form))
            assert outcome == Refused(f"an upload address does not accept the form {form}")
        payloads.tokens[7] = "two\nlines"
        assert failed(await uploader.deliver(delivery)).scope is Scope.CREDENTIAL
        payloads.tokens.clear()
        assert failed(await uploader.deliver(delivery)).scope is Scope.RECORD
        assert isinstance(await uploader.deliver(a_delivery()), RetryLater)


async def test_a_clock_that_is_set_back_makes_no_upload_end_before_it_began() -> None:
    """The sum of a histogram would fall, which a scraper takes for a restart."""
    payloads, delivery = a_large_one()
    heard, times = Heard(), count(ACCEPTED_AT, -3_600_000)
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads, lambda: next(times), heard) as uploader:
        assert isinstance(await uploader.deliver(delivery), Delivered)
    assert heard.delivered == 1, "with a duration that is none below 0"


@pytest.mark.parametrize(("lane", "large"), [(Lane.DETAIL, True), (Lane.CORE, False)])
async def test_what_arrived_is_told_with_its_size(lane: Lane, large: bool) -> None:
    """Only a confirmed upload is told of, with the bytes that lie there and whether it came in the detail lane."""
    payloads, delivery = a_large_one()
    heard = Heard()
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads, heard=heard) as uploader:
        endpoint.put_status = 500
        await uploader.deliver(replace(delivery, lane=lane))
        assert heard.sizes == []
        endpoint.put_status = 200
        await uploader.deliver(replace(delivery, lane=lane))
    assert heard.sizes == [(len(WHOLE), large)]


async def test_a_real_storage_takes_the_upload(weed: Server, bucket: str) -> None:
    """The bytes at a real server's presigned address are the call log, and the location names the object."""
    payloads, delivery = a_large_one()
    async with presigning() as endpoint, an_uploader(endpoint.url, payloads) as uploader, client_of(weed) as client:
        key = {"Bucket": bucket, "Key": "calls/one two.json"}
        url = await client.generate_presigned_url(
            "put_object", Params=key | {"ContentType": "application/json"}, ExpiresIn=900
        )
        endpoint.tell = lambda: {"upload_url": url, "s3_key": "calls/one two.json"}
        assert await uploader.deliver(delivery) == Delivered(f"s3://{bucket}/calls/one two.json")
    (stored,) = await objects(weed, bucket)
    assert stored.data == WHOLE
