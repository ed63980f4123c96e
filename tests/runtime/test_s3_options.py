"""From the settings of a destination to the options of its uploader: nothing is lost on the way."""

from base64 import b64encode
from dataclasses import fields

import pytest
from pydantic import SecretStr

from config.destinations import PresignedDestination
from config.destinations.s3 import S3Destination
from gateway.fanout import RouteKind
from gateway.runtime.destinations import route_of
from gateway.runtime.options import posting_options, presigned_options, s3_options
from tests.config.destinations import http_destination, s3_destination
from uploaders.document.options import Large
from uploaders.http.timeouts import Timeouts
from uploaders.s3.options import ObjectContent, ObjectEncoding, S3Options, ServerSideEncryption

NO_SETTINGS_OF_THE_UPLOADER = {
    "events", "name", "type", "notify", "concurrency", "retry", "max_bytes_per_second", "standby",
}  # fmt: skip
URL = "https://host/dev/send-call-log"
KEY = b64encode(bytes(32)).decode()


CASES: list[tuple[dict[str, object], str, object]] = [
    ({"bucket": "other"}, "bucket", "other"),
    ({"prefix": "a/b"}, "prefix", "a/b"),
    ({"key": "{record_id}"}, "key", "{record_id}"),
    ({"endpoint_url": "http://127.0.0.1:9"}, "endpoint_url", "http://127.0.0.1:9"),
    ({"region": "eu-central-1"}, "region", "eu-central-1"),
    ({"profile": "calls"}, "profile", "calls"),
    ({"path_style": True}, "path_style", True),
    ({"encryption": "kms"}, "encryption", ServerSideEncryption.KMS),
    ({"encryption": "none"}, "encryption", ServerSideEncryption.NONE),
    ({"encryption": "kms", "kms_key_id": "k"}, "kms_key_id", "k"),
    ({"encryption": "customer", "customer_key": KEY}, "customer_key", bytes(32)),
    ({"storage_class": "STANDARD_IA"}, "storage_class", "STANDARD_IA"),
    ({"object": "whole"}, "content", ObjectContent.WHOLE),
    ({"object": "whole", "token_in_whole": True}, "token_in_whole", True),
    ({"encoding": "plain"}, "encoding", ObjectEncoding.PLAIN),
    ({"encoding": "gzip"}, "encoding", ObjectEncoding.GZIP),
    ({"part_size": "16MiB"}, "part_bytes", 16 << 20),
    ({"parts_at_once": 6}, "parts_at_once", 6),
    ({"if_none_match": False}, "if_none_match", False),
    ({"checksums": False}, "checksums", False),
    ({"connect_timeout": "3s"}, "connect_timeout", 3.0),
    ({"read_timeout": "7s"}, "read_timeout", 7.0),
    ({"request_timeout": "9s"}, "request_timeout", 9.0),
]


@pytest.mark.parametrize(("settings", "option", "value"), CASES, ids=lambda value: str(value)[:40])
def test_a_setting_of_a_bucket_reaches_its_option(settings: dict[str, object], option: str, value: object) -> None:
    """Each setting changes exactly what it is for."""
    assert getattr(s3_options(s3_destination(**settings)), option) == value
    assert getattr(s3_options(s3_destination()), option) != value or option == "bucket"


def test_every_setting_and_every_option_of_a_bucket_is_among_them() -> None:
    """A setting that leads nowhere, or an option that nobody can set, is found out."""
    assert {name for settings, *_ in CASES for name in settings} | {"ca_file"} | NO_SETTINGS_OF_THE_UPLOADER == set(
        S3Destination.model_fields
    )
    assert {option for _, option, _ in CASES} | {"ca_file"} == {field.name for field in fields(S3Options)}


def test_what_nobody_sets_is_as_the_uploader_would_have_it() -> None:
    """The defaults of both agree, but for the folder, which keeps the lifecycle rule away from other objects."""
    assert s3_options(s3_destination()) == S3Options(bucket="calls", prefix="callspool")


def test_a_bucket_has_its_place_in_the_plan() -> None:
    """It notifies whom the settings name, and keeps tokens only where its objects hold them."""
    route = route_of(s3_destination(notify="a"))
    assert (route.kind, route.notifies, route.forwards_token) == (RouteKind.BUCKET, "a", False)
    assert route_of(s3_destination(object="whole", token_in_whole=True)).forwards_token


@pytest.mark.parametrize("kind", ["http", "presigned"])
def test_an_endpoint_that_gives_addresses_is_reached_as_its_settings_say(kind: str) -> None:
    """Addresses are asked for with the endpoint's own token, time-outs and authorities."""
    presigned = {"address_url": "https://host/x", "timeout": "2m", "reference": True}
    given = {"url": URL, "token": SecretStr("t"), "first_byte_timeout": "5s", "presigned": presigned}
    settings = http_destination(large="presigned", **given) if kind == "http" else uploads(**given)
    options = presigned_options(settings)
    assert (options.url, options.asked_url, options.token) == (URL, "https://host/x", "t")
    assert options.timeouts == Timeouts(
        connect=10.0, send=20.0, first_byte=5.0, total=120.0, total_name="presigned.timeout"
    )
    route = route_of(settings)
    assert (route.referenced, route.forwards_token) == (True, False)
    assert (route.kind, route.large) == (
        (RouteKind.ENDPOINT, Large.PRESIGNED) if kind == "http" else (RouteKind.UPLOADS, Large.TWO_PHASE)
    )
    notices = posting_options(settings)
    assert (notices.url, notices.token, notices.timeouts) == (URL, "t", Timeouts(first_byte=5.0))


def test_what_is_uploaded_carries_the_agents_token() -> None:
    """So it is kept, unless the destination has one of its own."""
    assert route_of(uploads(url=URL)).forwards_token


def uploads(**settings: object) -> PresignedDestination:
    return PresignedDestination.model_validate({"name": "a", "type": "presigned", **settings})
