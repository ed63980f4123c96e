"""What goes wrong at a bucket means one thing each, wherever it happens."""

from typing import Any

import aiohttp
import pytest
from botocore import exceptions as botocore_errors
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from bench.s3_server import Server, free_ports
from tests.s3.recording_proxy import Answer, Fate, proxy_before
from tests.s3.stored_objects import MEBIBYTE, MakeUploader, Store, options
from tests.uploaders.deliveries import failed
from uploaders.base import Refused, RetryLater, Scope
from uploaders.s3.error_codes import ErrorClass, classify
from uploaders.s3.errors import (
    AccessDenied,
    BadCredentials,
    NoSuchObject,
    NoSuchUpload,
    NotSupported,
    ObjectExists,
    S3Failure,
    translate,
)
from uploaders.s3.options import S3Options

WAITS, RETRIED = (RetryLater, Scope.DESTINATION), (RetryLater, Scope.RECORD)
PAUSED, DEAD = (Refused, Scope.DESTINATION), (Refused, Scope.RECORD)


@pytest.mark.parametrize(
    ("status", "code", "means"),
    [
        (503, "SlowDown", WAITS),
        (503, "", WAITS),
        (429, "TooManyRequests", WAITS),
        (400, "RequestLimitExceeded", WAITS),
        (507, "InsufficientStorage", WAITS),
        (500, "InternalError", RETRIED),
        (502, "", RETRIED),
        (400, "RequestTimeout", RETRIED),
        (400, "BadDigest", RETRIED),
        (409, "ConditionalRequestConflict", RETRIED),
        (404, "NoSuchUpload", RETRIED),
        (412, "PreconditionFailed", RETRIED),
        (400, "ExpiredToken", PAUSED),
        (403, "InvalidAccessKeyId", PAUSED),
        (403, "SignatureDoesNotMatch", PAUSED),
        (401, "", PAUSED),
        (403, "AccessDenied", PAUSED),
        (403, "RequestTimeTooSkewed", PAUSED),
        (404, "NoSuchBucket", PAUSED),
        (301, "PermanentRedirect", PAUSED),
        (400, "KMS.NotFoundException", PAUSED),
        (501, "NotImplemented", PAUSED),
        (400, "EntityTooLarge", DEAD),
        (413, "", DEAD),
        (400, "KeyTooLongError", DEAD),
        (400, "SomethingElse", DEAD),
        (418, "", DEAD),
    ],
)
def test_the_servers_word_decides_what_becomes_of_the_delivery(
    status: int, code: str, means: tuple[type, Scope]
) -> None:
    """Known codes mean what the table says, unknown ones what their status says."""
    outcome = translate(answered(status, code), "PutObject").outcome
    assert (type(outcome), outcome.scope) == means
    assert outcome.reason.startswith(f"PutObject: {code or f'HTTP {status}'}")
    assert getattr(outcome, "too_large", False) == (code == "EntityTooLarge" or status == 413)


@pytest.mark.parametrize(
    ("operation", "status", "code", "kind"),
    [
        ("UploadPart", 404, "NoSuchUpload", NoSuchUpload),
        ("HeadObject", 404, "404", NoSuchObject),
        ("GetObject", 404, "NoSuchKey", NoSuchObject),
        ("PutObject", 412, "PreconditionFailed", ObjectExists),
        ("PutObject", 501, "NotImplemented", NotSupported),
        ("PutObject", 403, "InvalidAccessKeyId", BadCredentials),
        ("AssumeRoleWithWebIdentity", 403, "AccessDenied", BadCredentials),
        ("HeadObject", 403, "403", AccessDenied),
    ],
)
def test_what_the_uploader_acts_upon_has_a_kind_of_its_own(operation: str, status: int, code: str, kind: type) -> None:
    """Lost uploads, objects in the way and refused credentials are told apart; HEAD has only its status to say so."""
    assert type(translate(answered(status, code, operation), operation)) is kind


def test_a_denial_names_the_permission_that_is_missing() -> None:
    """Each operation names its own, and the reason says it to the operator."""
    failure = translate(answered(403, "AccessDenied", "ListParts"), "ListParts")
    assert isinstance(failure, AccessDenied)
    assert failure.permission == "s3:ListMultipartUploadParts"
    assert "allow s3:ListMultipartUploadParts" in failure.outcome.reason


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (botocore_errors.NoCredentialsError(), PAUSED),
        (botocore_errors.ProfileNotFound(profile="p"), PAUSED),
        (botocore_errors.CredentialRetrievalError(provider="p", error_msg="secret"), PAUSED),
        (botocore_errors.ParamValidationError(report="Invalid bucket name"), PAUSED),
        (botocore_errors.EndpointConnectionError(endpoint_url="u", error=aiohttp.ClientConnectionError()), RETRIED),
        (botocore_errors.HTTPClientError(error=ValueError("x")), WAITS),
        (botocore_errors.ReadTimeoutError(endpoint_url="u", error=TimeoutError()), RETRIED),
        (ResponseParserError("html"), RETRIED),
        (TimeoutError(), RETRIED),
        (aiohttp.ClientPayloadError(), RETRIED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_answer_is_translated_too(error: Exception, means: tuple[type, Scope]) -> None:
    """Credentials that cannot be found and ways that cannot be gone have outcomes, and reasons without secrets."""
    outcome = translate(error, "PutObject").outcome
    assert (type(outcome), outcome.scope) == means
    assert "secret" not in outcome.reason


def test_every_error_of_botocore_is_translated() -> None:
    """None that a newer botocore may raise escapes, whatever its kind."""

    def kinds(base: type[BotoCoreError]) -> set[type[BotoCoreError]]:
        return {base}.union(*(kinds(kind) for kind in base.__subclasses__()))

    for kind in kinds(BotoCoreError):
        error = kind.__new__(kind)
        error.kwargs, error.args = {}, ("made up",)
        assert isinstance(translate(error, "PutObject"), S3Failure)


@pytest.mark.parametrize(
    ("answer", "means"),
    [
        (Answer(503, "SlowDown"), WAITS),
        (Answer(500, "InternalError"), RETRIED),
        (Answer(403, "ExpiredToken"), PAUSED),
        (Answer(400, "EntityTooLarge"), DEAD),
        (Answer(200, ""), RETRIED),
    ],
)
@pytest.mark.parametrize("size", [1000, 9 * MEBIBYTE], ids=["put", "parts"])
async def test_answers_over_the_wire_become_outcomes(
    store: Store, made: MakeUploader, weed: Server, bucket: str, answer: Answer, means: tuple[type, Scope], size: int
) -> None:
    """What a server answers to a PUT or a part comes out as the outcome that the table says, and raises nothing."""
    async with proxy_before(weed.port) as proxy:
        proxy.decide = lambda one: answer if one.method == "PUT" and one.part in {None, 1} else Fate.PASS
        uploader = made(options(weed, bucket, endpoint_url=proxy.endpoint, encoding="plain"))
        outcome = failed(await uploader.deliver(await store.large(size)))
    assert (type(outcome), outcome.scope) == means


async def test_a_server_that_is_not_there_makes_the_destination_wait(
    store: Store, made: MakeUploader, weed: Server, bucket: str
) -> None:
    """Nobody listening is a reason for all deliveries to wait."""
    (port,) = free_ports(1)
    uploader = made(options(weed, bucket, endpoint_url=f"http://127.0.0.1:{port}"))
    outcome = failed(await uploader.deliver(await store.small()))
    assert (type(outcome), outcome.scope) == WAITS
    assert outcome.reason.startswith("PutObject: cannot connect")


async def test_a_missing_bucket_pauses_the_destination(store: Store, made: MakeUploader, weed: Server) -> None:
    """A bucket that does not exist is named as the reason."""
    outcome = failed(await made(options(weed, "no-such-bucket")).deliver(await store.small()))
    assert (type(outcome), outcome.scope) == PAUSED
    assert "NoSuchBucket" in outcome.reason


async def test_credentials_are_looked_up_again_without_a_restart(
    store: Store, made: MakeUploader, weed: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After wrong ones were refused, or none found, the next attempt uses what the environment says then."""
    delivery = await store.small()
    uploader = made(options(weed, bucket))
    good = {name: __import__("os").environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    for name in good:
        monkeypatch.delenv(name)
    missing = failed(await uploader.deliver(delivery))
    assert (type(missing), missing.scope) == PAUSED
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    refused = failed(await uploader.deliver(delivery))
    assert (type(refused), refused.scope) == PAUSED
    assert "AWS_ACCESS_KEY_ID" in refused.reason
    assert "wrong-secret" not in refused.reason
    for name, value in good.items():
        monkeypatch.setenv(name, value)
    assert not isinstance(await uploader.deliver(delivery), Refused)


async def test_a_profile_that_does_not_exist_pauses_the_destination(
    store: Store, made: MakeUploader, weed: Server, bucket: str
) -> None:
    """A name that the AWS configuration does not know is told, and nothing is raised."""
    outcome = failed(await made(options(weed, bucket, profile="nobody")).deliver(await store.small()))
    assert (type(outcome), outcome.scope) == PAUSED
    assert "ProfileNotFound" in outcome.reason


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bucket": ""}, "bucket"),
        ({"parts_at_once": 0}, "parts_at_once"),
        ({"kms_key_id": "key"}, "kms_key_id"),
        ({"part_bytes": 1}, "a part has"),
        ({"key": "{call_id}"}, "record_id"),
    ],
)
def test_options_that_cannot_work_say_which(wrong: dict[str, Any], message: str) -> None:
    """What no server would take is found when the options are made."""
    with pytest.raises(ValueError, match=message):
        S3Options(**({"bucket": "b"} | wrong))


def test_an_unknown_answer_of_a_server_in_trouble_is_retried() -> None:
    """Whatever is no client's fault is worth another attempt."""
    assert classify("PutObject", "", 0) is ErrorClass.TRANSIENT
    assert classify("AssumeRole", "Whatever", 503) is ErrorClass.TRANSIENT


def answered(status: int, code: str, operation: str = "PutObject") -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": ""},
            "ResponseMetadata": {
                "RequestId": "", "HostId": "", "HTTPStatusCode": status, "HTTPHeaders": {}, "RetryAttempts": 0
            },
        },
        operation,
    )  # fmt: skip
