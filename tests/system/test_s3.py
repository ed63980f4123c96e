"""Call logs that go to a bucket: beside an endpoint, alone, through upload addresses, and when the bucket refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.endpoint import Endpoint
from bench.s3_server import Server
from bench.storage import Storage
from tests.s3.stored_objects import client_of, objects
from tests.system.buckets import a_gateway, configured, documents, members, post
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

SMALL, LARGE = 2_000, 8_000_000
TOKEN = "agents-key"


async def metric_of(gateway: GatewayProcess, name: str) -> float:
    return await gateway.metric(f'callspool_{name}{{destination="s3"}}')


async def test_beside_an_endpoint_the_bucket_gets_the_detail_and_the_endpoint_a_notice(
    tmp_path: Path,
    weed: Server,
    bucket: str,
) -> None:
    """Core first, then the notice with bucket, key and call id of an object that holds the whole detail."""
    async with (
        Endpoint() as endpoint,
        a_gateway(tmp_path, weed, bucket, CALLSPOOL_ENDPOINT_URL=endpoint.url) as gateway,
    ):
        body, large = await post(gateway, "call-large", LARGE)
        _, small = await post(gateway, "call-small", SMALL)
        await endpoint.wait_for(3)
        await gateway.delivered()
        assert await metric_of(gateway, "upload_seconds_count") == 1
    kinds = {arrival.key: arrival.kind for arrival in endpoint.accepted}
    assert kinds == {f"{large.uid}-core": "core", f"{large.uid}-notice": "notice", f"{small.uid}-whole": "whole"}
    (detail,) = await objects(weed, bucket)
    assert detail.key.startswith("callspool/")
    posted, kept = members(body), members(detail.document)
    core = members(endpoint.documents[f"{large.uid}-core"])
    assert kept.pop("update_type") == "detailed_telemetry"
    assert {name: core[name] for name in core if name in posted} | kept == posted
    assert members(endpoint.documents[f"{large.uid}-notice"]) == {
        "s3_reference": True, "s3_bucket": bucket, "s3_key": detail.key,
        "call_id": "call-large", "agent_id": posted["agent_id"], "environment": posted.get("environment"),
    }  # fmt: skip
    order = [arrival.kind for arrival in endpoint.arrivals if arrival.call_id == "call-large"]
    assert order == ["core", "notice"]
    assert (detail.headers["ContentEncoding"], detail.headers["ServerSideEncryption"]) == ("zstd", "AES256")


async def test_the_core_waits_for_no_bucket(
    tmp_path: Path,
    weed: Server,
    credentials: None,
) -> None:
    """While a bucket does not exist the core is at the endpoint, and the notice waits for the object."""
    async with (
        Endpoint() as endpoint,
        a_gateway(tmp_path, weed, "created-later", CALLSPOOL_ENDPOINT_URL=endpoint.url) as gateway,
    ):
        await post(gateway, "call-1", LARGE)
        (core,) = await endpoint.wait_for(1)
        assert core.kind == "core"
        await until(lambda: is_down(gateway), "the bucket is found missing")
        assert "NoSuchBucket" in (await bucket_status(gateway))["reason"]
        async with client_of(weed) as client:
            await client.create_bucket(Bucket="created-later")
        assert await gateway.hurry() == 0
        await gateway.start()
        await endpoint.wait_for(2, deadline=30)
        await gateway.delivered()
    assert [arrival.kind for arrival in endpoint.accepted] == ["core", "notice"]


@pytest.mark.parametrize("content", ["detail", "whole"])
async def test_a_bucket_alone_gets_everything(
    tmp_path: Path,
    weed: Server,
    bucket: str,
    content: str,
) -> None:
    """Small call logs, cores, and the details or wholes of large ones are objects, byte for byte."""
    text = f"""
        [[destinations]]
        name = "s3"
        type = "s3"
        bucket = "{bucket}"
        endpoint_url = "{weed.endpoint}"
        object = "{content}"
    """
    async with configured(tmp_path, text) as gateway:
        body, _ = await post(gateway, "call-large", LARGE)
        small, _ = await post(gateway, "call-small", SMALL)
        await gateway.delivered()
    found = await documents(weed, bucket)
    assert found.pop("call-small", {}) == {".json.zst": small}
    core = found["call-large"].pop(".core.json.zst")
    ((ending, large),) = found["call-large"].items()
    assert ending == (".detail.json.zst" if content == "detail" else ".json.zst")
    posted = members(body)
    assert {"summary_metrics", "telemetry_summary"} <= members(core).keys()
    if content == "whole":
        assert members(large) == posted
    else:
        from_core = {name: value for name, value in members(core).items() if name in posted}
        assert from_core | members(large) == posted | {"update_type": "detailed_telemetry"}


def presigning(endpoint: Endpoint, reference: str = "false") -> str:
    return f"""
        [[destinations]]
        name = "endpoint"
        type = "http"
        url = "{endpoint.url}"
        large = "presigned"
        presigned = {{ reference = {reference}, upload_hosts = ["127.0.0.1"] }}
    """


@pytest.mark.parametrize(("reference", "kinds"), [("false", ["whole"]), ("true", ["whole", "notice"])])
async def test_a_large_call_log_goes_whole_through_an_upload_address(
    tmp_path: Path, reference: str, kinds: list[str]
) -> None:
    """It arrives byte for byte with its token put back, small ones are posted; a reference follows only if wanted."""
    async with Endpoint(token=TOKEN) as endpoint, configured(tmp_path, presigning(endpoint, reference)) as gateway:
        small, one = await post(gateway, "call-small", SMALL)
        await endpoint.wait_for(1)
        body, large = await post(gateway, "call-large", LARGE)
        await gateway.delivered()
    assert [arrival.kind for arrival in endpoint.accepted] == kinds
    assert endpoint.documents[f"{one.uid}-whole"] == small
    ((key, document),) = endpoint.storage.objects.items()
    assert members(document) == members(body) | {"token": TOKEN}
    if reference == "true":
        notice = members(endpoint.documents[f"{large.uid}-notice"])
        assert (notice["s3_bucket"], notice["s3_key"]) == (endpoint.storage.bucket, key)


async def test_a_real_storage_takes_what_goes_through_an_upload_address(
    tmp_path: Path,
    weed: Server,
    bucket: str,
) -> None:
    """An address that a real server signed is used as it was signed, without credentials of the gateway's own."""
    async with client_of(weed) as client:

        async def presign(key: str) -> str:
            wanted = {"Bucket": bucket, "Key": key, "ContentType": "application/json"}
            return str(await client.generate_presigned_url("put_object", Params=wanted, ExpiresIn=900))

        storage = Storage(presign=presign, bucket=bucket)
        without = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        async with (
            Endpoint(storage=storage) as endpoint,
            configured(tmp_path, presigning(endpoint), **without) as gateway,
        ):
            body, _ = await post(gateway, "call-large", LARGE)
            await gateway.delivered()
    (one,) = await objects(weed, bucket)
    assert one.headers["ContentType"] == "application/json"
    assert members(one.data) == members(body) | {"token": TOKEN}


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"CALLSPOOL_S3_BUCKET": "missing-bucket"}, "NoSuchBucket"),
        ({"AWS_SECRET_ACCESS_KEY": "hush-hush"}, "set AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "reader-key", "AWS_SECRET_ACCESS_KEY": "reader-secret"}, "allow s3:"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "set AWS_ACCESS_KEY_ID"),
    ],
    ids=["missing", "wrong-secret", "may-not", "none"],
)
async def test_a_bucket_that_cannot_be_used_is_paused_with_what_to_fix(
    tmp_path: Path,
    weed: Server,
    bucket: str,
    variables: dict[str, str],
    reason: str,
) -> None:
    """The status says why, the call logs stay in the spool, and none of them becomes a dead letter."""
    async with a_gateway(tmp_path, weed, bucket, **variables) as gateway:
        await post(gateway, "call-1", SMALL)
        await post(gateway, "call-2", LARGE)
        await until(lambda: is_down(gateway), "the bucket is paused", deadline=20)
        status = await bucket_status(gateway)
        assert reason in status["reason"]
        assert (sum(lane["queued"] for lane in status["lanes"]), status["dead"]) == (3, 0)
        assert "hush" not in json.dumps(status)


async def bucket_status(gateway: GatewayProcess) -> Any:
    (found,) = [each for each in (await gateway.status())["destinations"] if each["type"] == "s3"]
    return found


async def is_down(gateway: GatewayProcess) -> bool:
    return not (await bucket_status(gateway))["up"]
