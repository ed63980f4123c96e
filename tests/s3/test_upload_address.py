"""Upload addresses: what can be used, where it leads, and for how long."""

import json
from typing import Any

import pytest

from uploaders.presigned import BadAddress, address_request_url, parse_address


@pytest.mark.parametrize(
    ("endpoint", "asked"),
    [
        ("https://host/dev/send-call-log", "https://host/dev/get-upload-url"),
        ("https://host/send-call-log?x=1", "https://host/get-upload-url?x=1"),
    ],
)
def test_the_address_for_addresses_is_made_as_the_sdk_makes_it(endpoint: str, asked: str) -> None:
    """`/send-call-log` gives way to `/get-upload-url`, and all else stays."""
    assert address_request_url(endpoint) == asked


def test_an_endpoint_without_that_part_needs_the_address_set() -> None:
    """A URL without `/send-call-log` says what to do."""
    with pytest.raises(ValueError, match="set it by itself"):
        address_request_url("https://host/calls")


@pytest.mark.parametrize(
    ("url", "told", "location"),
    [
        ("https://s3.host/bucket/a/k%20.json?x", {"s3_key": "a/k .json"}, "s3://bucket/a/k .json"),
        ("https://bucket.s3.host/a/k.json", {"s3_key": "a/k.json"}, "s3://bucket/a/k.json"),
        ("https://other.host/a/k.json", {"s3_key": "a/k.json", "s3_bucket": "told"}, "s3://told/a/k.json"),
        ("https://other.host/elsewhere", {"s3_key": "a/k.json"}, None),
        ("https://other.host/elsewhere", {}, None),
    ],
)
def test_the_location_is_what_was_told_or_what_the_address_shows(
    url: str, told: dict[str, Any], location: str | None
) -> None:
    """The bucket is told, or stands before the key in the path, or is the first label of the host."""
    answer = json.dumps({"upload_url": url} | told).encode()
    assert parse_address(answer.decode(), asked_at=0, secure=True).location == location


def test_a_call_log_with_its_token_does_not_go_unencrypted_where_the_endpoint_is_not() -> None:
    """An http address from an https endpoint is refused, and taken from an http one."""
    answer = b'{"upload_url": "http://host/key"}'
    assert parse_address(answer.decode(), asked_at=0, secure=False).valid_until == 900_000
    with pytest.raises(BadAddress, match="https"):
        parse_address(answer.decode(), asked_at=0, secure=True)


@pytest.mark.parametrize(
    "url", ["https://h:99999/k", "https://h:abc/k", "https://xn--/k", "https://a..b/k", "https:///k"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """Before anything is sent, whatever is wrong with it."""
    with pytest.raises(BadAddress):
        parse_address(json.dumps({"upload_url": url}), asked_at=0, secure=True)


def test_an_address_is_kept_out_of_logs() -> None:
    """Who has an address may upload there, so its text does not show it."""
    address = parse_address('{"upload_url": "https://host/key?X-Amz-Signature=s3cret"}', asked_at=0, secure=True)
    assert "s3cret" not in repr(address)
