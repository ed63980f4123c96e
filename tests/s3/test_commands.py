"""`callspool s3 setup` and `callspool s3 check`, against real servers."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from bench.s3_server import Server
from gateway.diagnostics.s3 import StepResult, apply_setup, check, least_policy, plan_setup
from tests.s3.recording_proxy import Answer, Decide, Fate, proxy_before
from tests.s3.stored_objects import client_of, objects, options, uploads
from uploaders.s3.admin import default_encryption, stronger_than
from uploaders.s3.error_codes import permission_for
from uploaders.s3.options import ServerSideEncryption

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import (
        ServerSideEncryptionByDefaultTypeDef,
        ServerSideEncryptionRuleOutputTypeDef,
    )

STEPS = ["put and verify", "send in parts and verify", "list parts and abort", "find lost uploads", "delete"]


@pytest.mark.parametrize("dialect", ["weed", "clone"])
async def test_a_check_proves_everything_and_leaves_nothing(
    request: pytest.FixtureRequest, a_bucket: Callable[[Server], str], dialect: str
) -> None:
    """Where all is well every step says so, and neither object nor upload stays behind."""
    server = request.getfixturevalue(dialect)
    bucket = a_bucket(server)
    results = await check(options(server, bucket, prefix="calls"))
    assert [(one.name, one.ok, one.detail) for one in results] == [(name, True, "") for name in STEPS]
    assert (await objects(server, bucket), await uploads(server, bucket)) == ([], [])


@pytest.mark.parametrize(
    ("key", "failing", "permission"),
    [
        ("reader", {"put and verify", "send in parts and verify", "list parts and abort", "delete"}, "s3:PutObject"),
        (
            "writer",
            {"put and verify", "send in parts and verify", "find lost uploads"},
            "s3:GetObject and s3:ListBucket",
        ),
    ],
)
async def test_a_check_says_which_permission_is_missing(
    weed: Server, bucket: str, monkeypatch: pytest.MonkeyPatch, key: str, failing: set[str], permission: str
) -> None:
    """Credentials that may not do everything fail exactly the steps that need more, and the first one says what."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"{key}-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{key}-secret")
    results = await check(options(weed, bucket))
    assert {one.name for one in results if not one.ok} >= failing - {"list parts and abort"}
    assert results[0].permission == permission
    assert permission in results[0].detail


async def checked_where(decide: Decide, weed: Server, bucket: str, **chosen: Any) -> tuple[StepResult, ...]:
    """What `s3 check` finds in a bucket whose server answers as `decide` says."""
    async with proxy_before(weed.port) as proxy:
        proxy.decide = decide
        return await check(options(weed, bucket, endpoint_url=proxy.endpoint, **chosen))


async def test_a_check_that_fails_half_way_aborts_its_upload(weed: Server, bucket: str) -> None:
    """An upload whose part was refused does not stay behind at the server."""
    results = await checked_where(lambda one: Answer(403, "AccessDenied") if one.part else Fate.PASS, weed, bucket)
    assert [one.name for one in results if not one.ok] == ["send in parts and verify"]
    assert await uploads(weed, bucket) == []


async def test_a_check_that_may_not_list_parts_aborts_its_upload(weed: Server, bucket: str) -> None:
    """What cannot be looked at is given up all the same: an unfinished upload is paid for until somebody finds it."""
    results = await checked_where(
        lambda one: Answer(403, "AccessDenied") if one.method == "GET" and "uploadId=" in one.target else Fate.PASS,
        weed, bucket,
    )  # fmt: skip
    assert [(one.name, one.permission) for one in results if not one.ok] == [
        ("list parts and abort", "s3:ListMultipartUploadParts")
    ]
    assert await uploads(weed, bucket) == []


async def test_an_object_that_shows_what_is_wrong_is_deleted(weed: Server, bucket: str) -> None:
    """Where encryption is refused, an object is put without: the check says that this works, and removes it."""
    encrypted = "x-amz-server-side-encryption"
    results = await checked_where(
        lambda one: Answer(400, "InvalidArgument") if one.method == "PUT" and encrypted in one.headers else Fate.PASS,
        weed, bucket, encryption=ServerSideEncryption.AES256,
    )  # fmt: skip
    assert results[0].detail.endswith('with encryption = "none" it works')
    assert await objects(weed, bucket) == []


async def test_without_a_server_every_step_says_why(weed: Server, bucket: str) -> None:
    """Nothing is raised when nobody listens."""
    results = await check(options(weed, bucket, endpoint_url="http://127.0.0.1:1"))
    assert all("cannot connect" in one.detail and one.permission is None for one in results)


def test_the_plan_shows_what_would_be_sent(weed: Server) -> None:
    """Expiry after seven days and abort after one, on the folder alone; encryption; no public access."""
    expiry, encryption, public = plan_setup(options(weed, "b", prefix="calls"))
    assert json.loads(expiry.configuration) == {
        "ID": "callspool:calls/",
        "Status": "Enabled",
        "Filter": {"Prefix": "calls/"},
        "Expiration": {"Days": 7},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    assert json.loads(encryption.configuration) == {
        "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
    }
    assert set(json.loads(public.configuration).values()) == {True}
    assert "calls/ after 7 days" in expiry.purpose


@pytest.mark.parametrize(("key_id", "told"), [(None, {}), ("key-1", {"KMSMasterKeyID": "key-1"})])
def test_a_bucket_with_a_kms_key_encrypts_by_it(weed: Server, key_id: str | None, told: dict[str, Any]) -> None:
    """The bucket's default follows the destination's encryption."""
    chosen = options(weed, "b", encryption=ServerSideEncryption.KMS, kms_key_id=key_id)
    (rule,) = json.loads(plan_setup(chosen)[1].configuration)["Rules"]
    assert rule == {
        "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"} | told,
        "BucketKeyEnabled": True,
    }


async def test_setup_is_applied_and_other_rules_stay(weed: Server, bucket: str) -> None:
    """Applying twice leaves one rule of ours beside those of others; what a server does not know is told."""
    other = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 30}}
    async with client_of(weed) as client:
        await client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [other]})
        for days in (7, 9):
            results = await apply_setup(options(weed, bucket, prefix="calls"), expire_days=days)
            assert [(one.name, one.ok) for one in results] == [
                ("expiry", True),
                ("encryption", True),
                ("public access", True),
            ]
            assert results[2].skipped
            assert results[2].detail == "PutPublicAccessBlock: this server does not know it"
        rules = (await client.get_bucket_lifecycle_configuration(Bucket=bucket))["Rules"]
        assert {rule["ID"]: rule["Expiration"]["Days"] for rule in rules} == {"theirs": 30, "callspool:calls/": 9}
        assert (await client.get_bucket_encryption(Bucket=bucket))["ServerSideEncryptionConfiguration"]["Rules"]


KMS = {"SSEAlgorithm": "aws:kms"}
OWN_KEY = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "key-1"}
TWO_LAYERS = {"SSEAlgorithm": "aws:kms:dsse"}
WITH_KEY = {"encryption": ServerSideEncryption.KMS, "kms_key_id": "key-2"}


@pytest.mark.parametrize(
    ("found", "chosen", "kept"),
    [
        (KMS, {}, "aws:kms"),
        (OWN_KEY, {}, "aws:kms with the key key-1"),
        (OWN_KEY, {"encryption": ServerSideEncryption.NONE}, "aws:kms with the key key-1"),
        (OWN_KEY, {"encryption": ServerSideEncryption.KMS}, "aws:kms with the key key-1"),
        (TWO_LAYERS, WITH_KEY, "aws:kms:dsse"),
        (OWN_KEY, WITH_KEY, None),
        (KMS, WITH_KEY, None),
        ({"SSEAlgorithm": "AES256"}, WITH_KEY, None),
        ({"SSEAlgorithm": "AES256"}, {}, None),
        ({}, {}, None),
    ],
)
def test_what_is_stronger_is_recognised(
    weed: Server, found: "ServerSideEncryptionByDefaultTypeDef", chosen: dict[str, Any], kept: str | None
) -> None:
    """A KMS key is stronger than the server's own keys, a chosen key than the account's, two layers than one."""
    rule: ServerSideEncryptionRuleOutputTypeDef = (
        {"ApplyServerSideEncryptionByDefault": found} if found else {"BucketKeyEnabled": True}
    )
    assert stronger_than(default_encryption(options(weed, "b", **chosen)), {"Rules": [rule]}) == kept


async def test_setup_keeps_what_is_stronger_and_says_so(weed: Server, bucket: str) -> None:
    """With the setting aes256 a bucket that encrypts by a KMS key goes on doing so."""
    stronger = {"Rules": [{"ApplyServerSideEncryptionByDefault": OWN_KEY}]}
    async with client_of(weed) as client:
        await client.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=stronger)
        results = await apply_setup(options(weed, bucket))
        told = await client.get_bucket_encryption(Bucket=bucket)
    assert (results[1].ok, results[1].detail) == (
        True,
        "kept as it is, which is stronger: aws:kms with the key key-1",
    )
    (rule,) = told["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == OWN_KEY


@pytest.mark.parametrize(
    ("answer", "ok", "permission"),
    [
        (Answer(403, "AccessDenied"), False, "s3:GetEncryptionConfiguration"),
        (Answer(404, "ServerSideEncryptionConfigurationNotFoundError"), True, None),
        (Answer(501, "NotImplemented"), True, None),
    ],
)
async def test_nothing_is_set_that_might_be_weaker(
    weed: Server, bucket: str, answer: Answer, ok: bool, permission: str | None
) -> None:
    """Where the bucket's encryption may not be looked at it is not replaced; where there is none, it is set."""
    async with proxy_before(weed.port) as proxy:
        proxy.decide = lambda one: answer if one.method == "GET" and "?encryption" in one.target else Fate.PASS
        results = await apply_setup(options(weed, bucket, endpoint_url=proxy.endpoint))
    sent = [one.method for one in proxy.requests if "?encryption" in one.target]
    assert (results[1].ok, results[1].permission) == (ok, permission)
    assert sent == (["GET", "PUT"] if ok else ["GET"])


async def test_a_bucket_without_any_rules_gets_its_first(weed: Server, bucket: str) -> None:
    """That there is no lifecycle configuration yet is no failure."""
    results = await apply_setup(options(weed, bucket))
    assert results[0].ok


async def test_setup_says_which_permission_is_missing(
    weed: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that may only read change nothing, and each step that knows says what to allow."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "reader-secret")
    results = await apply_setup(options(weed, bucket))
    assert not any(one.ok for one in results)
    assert results[1].permission == "s3:GetEncryptionConfiguration"


@pytest.mark.parametrize(
    "operation", ["PutObject", "HeadObject", "ListParts", "AbortMultipartUpload", "ListMultipartUploads"]
)
def test_the_least_policy_allows_what_a_denial_names(operation: str) -> None:
    """Whatever permission a refusal may name for delivering is in the policy that the docs show."""
    allowed = {action for one in least_policy("b", "calls/")["Statement"] for action in one["Action"]}
    assert set(permission_for(operation).split(" and ")) <= allowed


def test_the_least_policy_is_about_one_folder_and_grows_by_what_is_asked_for() -> None:
    """Objects of the folder alone; deleting only for the check, changing the bucket only for the setup."""
    objects_of, bucket_of = least_policy("b", "calls/")["Statement"]
    assert (objects_of["Resource"], bucket_of["Resource"]) == ("arn:aws:s3:::b/calls/*", "arn:aws:s3:::b")
    assert "s3:DeleteObject" not in objects_of["Action"]
    more = {action for one in least_policy("b", "", check=True, setup=True)["Statement"] for action in one["Action"]}
    assert {"s3:DeleteObject", "s3:PutLifecycleConfiguration"} <= more
