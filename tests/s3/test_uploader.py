"""Delivering to a real bucket: what lies there afterwards, and that it is proven."""

import json

import pytest

from tests.s3.building import MEBIBYTE, client_of, now, objects, options, rest_of
from tests.s3.hearing import Heard
from uploaders.s3.options import ObjectEncoding
from uploaders.s3.uploader import S3Uploader
from uploaders.uploader import Delivered


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
async def made(store, heard):
    """Makes uploaders over the store, and closes them."""
    uploaders = []

    def make(chosen):
        uploaders.append(S3Uploader(chosen, store.spool, store.spool, now, heard))
        return uploaders[-1]

    yield make
    for one in uploaders:
        await one.close()


@pytest.mark.parametrize("dialect", ["weed", "clone"])
@pytest.mark.parametrize("encoding", ObjectEncoding)
@pytest.mark.parametrize("size", [100_000, 20 * MEBIBYTE], ids=["put", "parts"])
async def test_an_object_holds_the_detail_with_every_value_as_it_came(
    store, made, request, heard, dialect, encoding, size
):
    """Whatever its encoding and size, on both dialects, an object decodes to the detail's JSON, and was proven."""
    server = request.getfixturevalue(dialect)
    request.getfixturevalue("credentials")
    name = await _bucket(server, f"{encoding}-{size}")
    delivery = await store.large(size)
    outcome = await made(options(server, name, encoding=encoding)).deliver(delivery)
    (stored,) = await objects(server, name)
    assert outcome == Delivered(location=f"s3://{name}/{stored.key}")
    head = json.dumps({"call_id": delivery.record.call_id, "update_type": "detailed_telemetry"}).encode()[:-1]
    assert stored.document == head + b"," + rest_of(size) + b"}"
    assert stored.headers["ContentType"] == "application/json"
    assert heard.delivered == 1


async def _bucket(server, name):
    async with client_of(server) as client:
        await client.create_bucket(Bucket=name)
    return name
