"""Delivering to an HTTP endpoint: headers, tokens, encodings, outcomes."""

import json

import pytest

from bench.endpoint import Endpoint, Fault
from spool.errors import CorruptPayload
from spool.records import Form, Fragment
from tests.uploaders.deliveries import TOKEN, Payloads, a_delivery, a_payload, a_record, an_uploader, deliver
from uploaders.base import Delivered, Refused, RetryLater, Scope
from uploaders.document.options import Encoding
from uploaders.http.uploader import HttpOptions


async def test_two_phases_and_a_notice_arrive_in_order() -> None:
    """Core, detail and notice reach one address with the record's key, token and length, over one connection."""
    payloads, delivery = a_payload()
    async with Endpoint(token=TOKEN) as endpoint, an_uploader(endpoint.url, payloads) as uploader:
        for form in (Form.CORE, Form.DETAIL, Form.NOTICE):
            assert await uploader.deliver(delivery(form)) == Delivered()
        assert [(a.kind, a.key, a.call_id) for a in endpoint.accepted] == [
            ("core", "spool1-1-core", "call-1"),
            ("detail", "spool1-1-detail", "call-1"),
            ("notice", "spool1-1-notice", "call-1"),
        ]
        assert len(endpoint.connections) == 1
        for headers, arrival in zip(endpoint.headers, endpoint.arrivals, strict=True):
            assert int(headers["Content-Length"]) == arrival.sent_bytes
            assert headers["Content-Type"] == "application/json"
            assert "Transfer-Encoding" not in headers
            assert "Content-Encoding" not in headers
            assert "Cookie" not in headers


@pytest.mark.parametrize("came", [None, "1.1 callspool-00000001, 1.1 callspool-00000002"])
async def test_it_says_through_which_gateways_a_record_came(came: str | None) -> None:
    """Every form carries the marks that the record came with, and then the gateway's own; without one, none."""
    payloads, delivery = a_payload(via=came)
    own = "1.1 callspool-0000000f"
    async with Endpoint() as endpoint, an_uploader(endpoint.url, payloads, via="callspool-0000000f") as uploader:
        for form in (Form.CORE, Form.DETAIL, Form.NOTICE):
            await uploader.deliver(delivery(form))
        assert {headers["Via"] for headers in endpoint.headers} == {own if came is None else f"{came}, {own}"}
        await deliver(endpoint.url, payloads, delivery(Form.CORE))
        assert "Via" not in endpoint.headers[-1]


@pytest.mark.parametrize(
    ("encoding", "arrives_as"),
    [
        (Encoding.AUTO, "envelope"),
        (Encoding.IDENTITY, "identity"),
        (Encoding.GZIP, "gzip"),
        (Encoding.ZSTD, "zstd"),
        (Encoding.ENVELOPE, "envelope"),
    ],
)
async def test_every_encoding_is_understood(encoding: Encoding, arrives_as: str) -> None:
    """A detail of several frames arrives byte for byte in every encoding that an endpoint may take."""
    payloads, delivery = a_payload(5 << 20)
    async with Endpoint() as endpoint, an_uploader(endpoint.url, payloads, encoding=encoding) as uploader:
        await uploader.deliver(delivery(Form.CORE))
        assert await uploader.deliver(delivery(Form.DETAIL)) == Delivered()
        document = json.loads(endpoint.documents["spool1-1-detail"])
        assert document["telemetry_data"] == "s" * (5 << 20)
        assert endpoint.arrivals[-1].encoding == arrives_as


@pytest.mark.parametrize(
    ("configured", "own", "sent"),
    [("configured", 7, "configured"), (None, 7, TOKEN), ("configured", None, "configured"), (None, None, None)],
)
async def test_the_token_is_the_configured_one_or_the_records_own(
    configured: str | None, own: int | None, sent: str | None
) -> None:
    """A configured token beats the agent's own; without either, none is sent."""
    payloads = Payloads({7: TOKEN})
    delivery = a_delivery(a_record(payloads, token_id=own))
    async with Endpoint() as endpoint:
        await deliver(endpoint.url, payloads, delivery, token=configured)
        assert [arrival.token for arrival in endpoint.accepted] == [sent]


async def test_a_token_that_is_no_longer_stored_makes_a_dead_letter() -> None:
    """A record whose token was overwritten is set aside with what to do, without a request that must fail."""
    async with Endpoint() as endpoint:
        outcome = await deliver(endpoint.url, Payloads(), a_delivery(a_record(token_id=9)))
        assert endpoint.headers == []
    assert isinstance(outcome, Refused)
    assert outcome.scope is Scope.RECORD
    assert "set a token" in outcome.reason


async def test_a_token_with_a_line_break_is_a_refused_token() -> None:
    """A token that no header can carry pauses its deliveries instead of raising or splitting the request."""
    payloads = Payloads({7: "a\r\nX-Evil: 1"})
    async with Endpoint() as endpoint:
        outcome = await deliver(endpoint.url, payloads, a_delivery(a_record(payloads, token_id=7)))
        assert endpoint.headers == []
    assert isinstance(outcome, Refused)
    assert outcome.scope is Scope.CREDENTIAL


async def test_a_detail_before_its_core_is_retried_for_a_day() -> None:
    """404 "Call log not found" to a detail means not yet, and gives up by itself after a day."""
    payloads, delivery = a_payload()
    async with Endpoint() as endpoint:
        outcome = await deliver(endpoint.url, payloads, delivery(Form.DETAIL))
    assert isinstance(outcome, RetryLater)
    assert (outcome.scope, outcome.give_up_after_seconds) == (Scope.RECORD, 24 * 3600)
    assert outcome.reason.startswith("HTTP 404: ")


async def test_a_redirect_is_not_followed() -> None:
    """A redirect pauses the destination and is not followed; its target is told without the ticket in it."""
    payloads, delivery = a_payload()
    async with Endpoint(fault=Fault("redirect")) as endpoint:
        outcome = await deliver(endpoint.url, payloads, delivery(Form.CORE))
        assert len(endpoint.headers) == 1
    assert isinstance(outcome, Refused)
    assert outcome.scope is Scope.DESTINATION
    assert "https://login.example/sso:" in outcome.reason
    assert "s3cr3t" not in outcome.reason


async def test_an_answer_of_any_size_is_read_only_at_its_beginning() -> None:
    """A huge answer costs 64 KB of memory and its connection, not the delivery."""
    payloads, delivery = a_payload()
    async with Endpoint(fault=Fault("status", 400, body="no " * 5_000_000)) as endpoint:
        outcome = await deliver(endpoint.url, payloads, delivery(Form.CORE))
    assert isinstance(outcome, Refused)
    assert len(outcome.reason) < 200


async def test_a_body_above_the_endpoints_limit_is_refused_for_its_size() -> None:
    """413 from the endpoint is a refusal for size alone, and says what to configure."""
    payloads, delivery = a_payload(7 << 20)
    async with Endpoint() as endpoint:
        outcome = await deliver(
            endpoint.url, payloads, delivery(Form.DETAIL), encoding=Encoding.IDENTITY, max_request_bytes=64 << 20
        )
    assert isinstance(outcome, Refused)
    assert outcome.too_large
    assert "S3" in outcome.reason


async def test_a_body_above_our_own_limit_is_never_sent() -> None:
    """What does not fit in max_request_bytes is refused for its size before any request."""
    payloads, delivery = a_payload(3 << 20)
    async with Endpoint() as endpoint:
        outcome = await deliver(
            endpoint.url, payloads, delivery(Form.DETAIL), encoding=Encoding.IDENTITY, max_request_bytes=1 << 20
        )
        assert endpoint.headers == []
    assert isinstance(outcome, Refused)
    assert outcome.too_large
    assert "max_request_bytes = 1048576" in outcome.reason


async def test_a_notice_without_an_object_is_a_dead_letter() -> None:
    """A notice whose object's location is unknown can never be sent, and says so."""
    outcome = await deliver("http://localhost:1/", Payloads(), a_delivery(form=Form.NOTICE))
    assert isinstance(outcome, Refused)
    assert "without an object" in outcome.reason


async def test_a_corrupt_payload_passes_through() -> None:
    """An unreadable payload is no outcome of a destination: the error reaches the caller."""
    payloads, delivery = a_payload()
    payloads.corrupt(1, Fragment.REST)
    async with Endpoint() as endpoint:
        with pytest.raises(CorruptPayload):
            await deliver(endpoint.url, payloads, delivery(Form.DETAIL))


def test_options_do_not_show_their_token() -> None:
    """Printing the options, as a log or a traceback may, does not tell the token."""
    assert TOKEN not in repr(HttpOptions("http://localhost", token=TOKEN))
