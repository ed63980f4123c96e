"""A destination that gets every call log through upload addresses, and call logs that come there as a last resort."""

import json
from pathlib import Path

import pytest

from bench.endpoint import Endpoint
from bench.s3_server import Server
from bench.storage import Storage
from tests.s3.stored_objects import client_of, objects
from tests.system.buckets import configured, members, post

SMALL, LARGE = 2_000, 8_000_000
TOKEN = "agents-key"
UPLOAD_METRICS = ("upload_seconds_count", "large_payloads_total", "upload_bytes_total")
LISTED = 'presigned = { upload_hosts = ["127.0.0.1"] }'
NO_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}


def a_destination(endpoint: Endpoint, settings: str = "") -> str:
    return f"""
        [[destinations]]
        name = "storage"
        type = "presigned"
        url = "{endpoint.url}"
        {settings}
    """


async def test_every_call_log_is_an_object_of_a_real_storage(tmp_path: Path, weed: Server, bucket: str) -> None:
    """Small or large: whole, plain JSON, its token last, at an address that a real server signed; nothing is posted."""
    async with client_of(weed) as client:

        async def presign(key: str) -> str:
            wanted = {"Bucket": bucket, "Key": key, "ContentType": "application/json"}
            return str(await client.generate_presigned_url("put_object", Params=wanted, ExpiresIn=900))

        async with (
            Endpoint(token=TOKEN, storage=Storage(presign=presign, bucket=bucket)) as endpoint,
            configured(tmp_path, a_destination(endpoint, LISTED), **NO_CREDENTIALS) as gateway,
        ):
            posted = [(await post(gateway, f"call-{size}", size))[0] for size in (SMALL, LARGE)]
            await gateway.delivered()
            told = [await gateway.metric(f'callspool_{name}{{destination="storage"}}') for name in UPLOAD_METRICS]
            assert await gateway.metric("callspool_unaccounted_records") == 0
    stored = sorted(await objects(weed, bucket), key=lambda one: len(one.data))
    for body, one in zip(posted, stored, strict=True):
        assert one.headers["ContentType"] == "application/json"
        assert members(one.data) == members(body) | {"token": TOKEN}
        assert one.data.endswith(b',"token":"agents-key"}')
    assert told == [2, 1, sum(len(one.data) for one in stored)]
    assert endpoint.arrivals == []


async def test_the_endpoint_is_told_of_each_upload_where_that_is_wanted(tmp_path: Path) -> None:
    """With `reference`, a notice follows each object, and only then; the configured token replaces the agent's."""
    settings = 'token = "our-key"\npresigned = { reference = true }'
    async with (
        Endpoint(token="our-key") as endpoint,
        configured(tmp_path, a_destination(endpoint, settings)) as gateway,
    ):
        for size in (SMALL, LARGE):
            await post(gateway, f"call-{size}", size)
        await gateway.delivered()
    notices = {members(each)["s3_key"]: members(each)["call_id"] for each in endpoint.documents.values()}
    found = {key: members(each) for key, each in endpoint.storage.objects.items()}
    assert {key: each["call_id"] for key, each in found.items()} == notices
    assert {each["token"] for each in found.values()} == {"our-key"}
    assert {arrival.kind for arrival in endpoint.accepted} == {"notice"}


@pytest.mark.parametrize("size", [3_000_000, LARGE], ids=["stored in one piece", "stored in two phases"])
async def test_what_is_refused_as_too_large_is_uploaded_with_its_token(tmp_path: Path, size: int) -> None:
    """However it is stored, a whole that a fallback moves to an upload address has its token put back."""
    text = """
        [[destinations]]
        name = "dashboard"
        type = "http"
        url = "{}"
        when_too_large = ["presigned"]
        max_request_bytes = 400000
        [split]
        core_max_bytes = 200000
    """
    async with Endpoint(token=TOKEN) as endpoint, configured(tmp_path, text.format(endpoint.url)) as gateway:
        body, _ = await post(gateway, "call-1", size)
        await gateway.delivered()
        (record,) = await gateway.trace("call-1")
        assert await gateway.metric("callspool_unaccounted_records") == 0
    (document,) = endpoint.storage.objects.values()
    assert members(document) == members(body) | {"token": TOKEN}
    assert json.dumps(TOKEN).encode() in document[-20:]
    states = {each["form"]: each["state"] for each in record["deliveries"]}
    assert states == ({"whole": "delivered"} if size < LARGE else {"core": "delivered", "whole": "delivered"})
