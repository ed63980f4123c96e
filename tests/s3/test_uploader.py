"""Delivering to a real bucket: what lies there afterwards."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import aioboto3
import pytest
from msgspec.structs import replace

from bench.s3_server import Server
from spool.records import Form, Fragment
from tests.s3.recording_proxy import Answer, Fate, proxy_before
from tests.s3.stored_objects import MEBIBYTE, Heard, MakeUploader, Store, objects, options, rest_of
from tests.uploaders.deliveries import a_delivery
from uploaders.base import CallToErase, Delivered, Erased, Refused
from uploaders.s3.client import Bucket, S3Connection
from uploaders.s3.errors import OtherTenantsObject
from uploaders.s3.options import ObjectContent, ObjectEncoding, ServerSideEncryption


@pytest.mark.parametrize("dialect", ["weed", "clone"])
@pytest.mark.parametrize("encoding", ObjectEncoding)
@pytest.mark.parametrize("size", [100_000, 12 * MEBIBYTE], ids=["put", "parts"])
async def test_an_object_holds_the_detail_with_every_value_as_it_came(
    store: Store,
    made: MakeUploader,
    request: pytest.FixtureRequest,
    heard: Heard,
    a_bucket: Callable[[Server], str],
    dialect: str,
    encoding: ObjectEncoding,
    size: int,
) -> None:
    """Whatever its encoding and size, on both dialects, an object decodes to the detail's JSON, and was proven."""
    server = request.getfixturevalue(dialect)
    name = a_bucket(server)
    delivery = await store.large(size)
    outcome = await made(options(server, name, encoding=encoding)).deliver(delivery)
    (stored,) = await objects(server, name)
    assert outcome == Delivered(location=f"s3://{name}/{stored.key}")
    head = json.dumps({"call_id": delivery.record.call_id, "update_type": "detailed_telemetry"}).encode()[:-1]
    assert stored.document == head + b"," + rest_of(size) + b"}"
    assert stored.headers["ContentType"] == "application/json"
    assert heard.delivered == 1


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize(
    ("dialect", "size", "read_back"),
    [
        ("weed", 100_000, False),
        ("weed", 12 * MEBIBYTE, False),
        ("clone", 100_000, False),
        ("clone", 12 * MEBIBYTE, True),
    ],
)
async def test_what_a_server_tells_suffices_or_the_object_is_read_back(
    store: Store,
    made: MakeUploader,
    request: pytest.FixtureRequest,
    heard: Heard,
    a_bucket: Callable[[Server], str],
    dialect: str,
    size: int,
    read_back: bool,
    checksums: bool,
) -> None:
    """A CRC-32 or an ETag made of MD5s proves an object; where neither is told, its bytes are read back."""
    server = request.getfixturevalue(dialect)
    uploader = made(options(server, a_bucket(server), checksums=checksums))
    assert isinstance(await uploader.deliver(await store.large(size)), Delivered)
    assert bool(heard.bytes_read_back) == read_back


async def test_an_object_says_what_it_is(store: Store, made: MakeUploader, weed: Server, bucket: str) -> None:
    """Metadata holds the call, the digest of its log, the raw size and the version, in ASCII whatever the id."""
    delivery = await store.large(1000, call_id="Anruf/ü\n" + "x" * 600)
    await made(options(weed, bucket)).deliver(delivery)
    (stored,) = await objects(weed, bucket)
    told = stored.headers["Metadata"]
    assert told["call-id"].startswith("Anruf%2F%C3%BC%0Axxx")
    assert len(told["call-id"]) <= 512
    assert told["call-log-sha256"] == delivery.record.digest.hex()
    assert told["raw-bytes"] == str(len(stored.document))
    assert told["callspool-record"] == delivery.record.uid
    assert told["form"] == "detail"
    assert told["callspool-version"]
    assert "tenant" not in told


async def test_an_object_of_one_tenant_is_read_for_no_other(
    store: Store, made: MakeUploader, weed: Server, bucket: str
) -> None:
    """Whose it is stands in its metadata; what has nobody's name there is read for everybody."""
    chosen = options(weed, bucket)
    uploader, delivery = made(chosen), await store.large(1000, call_id="of-acme")
    await uploader.deliver(replace(delivery, record=replace(delivery.record, tenant="acme")))
    await uploader.deliver(await store.large(1000, call_id="of-nobody"))
    of_acme, of_nobody = sorted((stored.key for stored in await objects(weed, bucket)), key=lambda key: "nobody" in key)
    connection = S3Connection(chosen)

    async def read(key: str, *tenants: str) -> bytes:
        return b"".join([piece async for piece in Bucket(chosen, connection).read(key, tenants or None)])

    whole = await read(of_acme)
    assert whole == await read(of_acme, "globex", "acme")
    with pytest.raises(OtherTenantsObject, match="another tenant"):
        await read(of_acme, "globex")
    assert await read(of_nobody, "globex") == await read(of_nobody)
    await connection.close()


@pytest.mark.parametrize(
    ("encryption", "told"), [(ServerSideEncryption.AES256, "AES256"), (ServerSideEncryption.NONE, None)]
)
@pytest.mark.parametrize("size", [1000, 9 * MEBIBYTE], ids=["put", "parts"])
async def test_the_server_is_asked_to_encrypt(
    store: Store,
    made: MakeUploader,
    weed: Server,
    bucket: str,
    encryption: ServerSideEncryption,
    told: str | None,
    size: int,
) -> None:
    """By default every object is encrypted with AES256, and only where that is switched off it is not."""
    uploader = made(options(weed, bucket, encryption=encryption, encoding=ObjectEncoding.PLAIN))
    await uploader.deliver(await store.large(size))
    (stored,) = await objects(weed, bucket)
    assert stored.headers.get("ServerSideEncryption") == told


async def test_a_bucket_alone_takes_cores_and_wholes_too(
    store: Store, made: MakeUploader, weed: Server, bucket: str
) -> None:
    """Each form of a record is an object of its own, and the same values are in them."""
    uploader = made(options(weed, bucket, prefix="calls"))
    large, small = await store.large(1000), await store.small(b'{"call_id": "small", "n": 2.50}')
    core = a_delivery(large.record, Form.CORE, destination=large.destination)
    for delivery in (large, core, small):
        assert isinstance(await uploader.deliver(delivery), Delivered)
    found = {stored.key.partition(".")[2]: stored.document for stored in await objects(weed, bucket)}
    assert set(found) == {"detail.json.zst", "core.json.zst", "json.zst"}
    assert json.loads(found["core.json.zst"]) == {"call_id": "large", "n": 1.1, "summary_metrics": {"total_turns": 2}}
    assert found["json.zst"] == b'{"call_id": "small", "n": 2.50}'
    assert all(stored.key.startswith("calls/") for stored in await objects(weed, bucket))


@pytest.mark.parametrize(("wanted", "token"), [(True, b',"token":"agent\'s"'), (False, b"")])
@pytest.mark.parametrize("encoding", [ObjectEncoding.PLAIN, ObjectEncoding.ZSTD])
async def test_a_whole_is_what_a_function_of_the_bucket_expects(
    store: Store, made: MakeUploader, weed: Server, bucket: str, wanted: bool, token: bytes, encoding: ObjectEncoding
) -> None:
    """As `whole` the detail's object holds the call log, and the agent's token only where that is wanted."""
    delivery = await store.large(1000, token="agent's")
    chosen = options(weed, bucket, content=ObjectContent.WHOLE, encoding=encoding, token_in_whole=wanted)
    assert isinstance(await made(chosen).deliver(delivery), Delivered)
    (stored,) = await objects(weed, bucket)
    assert stored.document == b'{"call_id": "large", "n": 1.10,' + rest_of(1000) + token + b"}"
    assert stored.headers["Metadata"]["raw-bytes"] == str(len(stored.document))


@pytest.mark.parametrize("encoding", ObjectEncoding)
@pytest.mark.parametrize("size", [0, 3 * MEBIBYTE])
async def test_a_whole_stored_in_one_piece_gets_the_token_as_well(
    store: Store, made: MakeUploader, weed: Server, bucket: str, encoding: ObjectEncoding, size: int
) -> None:
    """However a call log is stored, the token becomes its last member and every other byte stays as it came."""
    body = b'{"call_id": "small", "text": "' + b"}" * size + b'"'
    delivery = await store.small(body + b"} \n", token="agent's")
    chosen = options(weed, bucket, content=ObjectContent.WHOLE, encoding=encoding, token_in_whole=True)
    assert isinstance(await made(chosen).deliver(delivery), Delivered)
    (stored,) = await objects(weed, bucket)
    assert stored.document == body + b',"token":"agent\'s"} \n'
    assert stored.headers["Metadata"]["raw-bytes"] == str(len(stored.document))


async def test_what_can_never_be_an_object_is_refused(
    store: Store, made: MakeUploader, weed: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notice is none, and what is larger than S3 takes is refused for its size before anything is sent."""
    uploader = made(options(weed, bucket))
    small = await store.small()
    notice = a_delivery(small.record, Form.NOTICE)
    assert await uploader.deliver(notice) == Refused("a bucket does not accept the form notice")
    whole = await store.accept({Fragment.BODY: [b"{}"]}, Form.WHOLE)
    body = replace(whole.record.fragments[Fragment.BODY], stored_bytes=6 << 40)
    huge = replace(whole, record=replace(whole.record, fragments={Fragment.BODY: body}))
    outcome = await uploader.deliver(huge)
    assert isinstance(outcome, Refused)
    assert outcome.too_large
    assert await objects(weed, bucket) == []


async def test_the_bucket_is_addressed_by_path_at_a_server_of_ones_own() -> None:
    """Path style follows `endpoint_url`, unless it is chosen."""
    from uploaders.s3.options import S3Options

    assert not S3Options("b").addresses_by_path
    assert S3Options("b", endpoint_url="http://127.0.0.1:1").addresses_by_path
    assert not S3Options("b", endpoint_url="http://127.0.0.1:1", path_style=False).addresses_by_path


@pytest.mark.parametrize("size", [100_000, 12 * MEBIBYTE], ids=["put", "parts"])
async def test_an_answer_that_proves_the_object_is_enough(
    store: Store, made: MakeUploader, weed: Server, bucket: str, size: int
) -> None:
    """A server that tells the checksum of what it stored is not asked for the object again."""
    async with proxy_before(weed.port) as proxy:
        uploader = made(options(weed, bucket, endpoint_url=proxy.endpoint))
        assert isinstance(await uploader.deliver(await store.large(size)), Delivered)
    assert not [one for one in proxy.requests if one.method in {"HEAD", "GET"} and "uploads" not in one.target]


async def test_only_a_large_body_asks_before_it_is_sent_and_only_while_that_may_be_refused(
    store: Store, made: MakeUploader, weed: Server, bucket: str
) -> None:
    """At first and after a failure a refusal is heard before the body went; otherwise no round trip is lost."""
    async with proxy_before(weed.port) as proxy:
        uploader = made(options(weed, bucket, endpoint_url=proxy.endpoint))

        async def asked(size: int, fate: Fate | Answer = Fate.PASS) -> bool:
            proxy.requests.clear()
            proxy.decide = lambda _: fate
            await uploader.deliver(await store.large(size))
            puts = [one for one in proxy.requests if one.method == "PUT"]
            return any("expect" in one.headers for one in puts)

        assert not await asked(100_000, Answer(503, "SlowDown"))
        assert await asked(4 * MEBIBYTE)
        assert not await asked(4 * MEBIBYTE)
        assert not await asked(4 * MEBIBYTE, Answer(503, "SlowDown"))
        assert await asked(4 * MEBIBYTE)
        assert not await asked(4 * MEBIBYTE, Fate.LOSE_ANSWER)
        assert await asked(4 * MEBIBYTE)
        assert not await asked(12 * MEBIBYTE)


async def test_a_client_is_replaced_when_it_is_old(
    store: Store, made: MakeUploader, weed: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under steady traffic too, connections are made anew now and then; requests under way keep theirs to their end."""
    monkeypatch.setattr("uploaders.s3.client.MAX_AGE_SECONDS", 0.0)
    clients, closed, make = count(), count(), aioboto3.Session.client

    @asynccontextmanager
    async def counted(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        next(clients)
        async with make(*args, **kwargs) as client:
            yield client
        next(closed)

    monkeypatch.setattr(aioboto3.Session, "client", counted)
    uploader = made(options(weed, bucket, encoding=ObjectEncoding.PLAIN))
    outcomes = [await uploader.deliver(await store.large(size * MEBIBYTE)) for size in (1, 30)]
    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    made_in_all = next(clients)
    assert made_in_all >= 6, "each request of the one and of the parts of the other had a client of its own"
    assert next(closed) == made_in_all - 1, "all but the newest are closed, also those without a request at that time"


@pytest.mark.parametrize("prefix", ["", "calls/prod/"])
async def test_an_erased_call_has_no_object_left(
    store: Store, made: MakeUploader, weed: Server, a_bucket: Callable[[Server], str], prefix: str
) -> None:
    """Found by what keys of its call look like, whatever day it was; objects of others, and other files, stay."""
    name = a_bucket(weed)
    uploader = made(options(weed, name, prefix=prefix))
    gone, stays = await store.large(100_000), await store.large(100_000)
    assert gone.record.call_id != stays.record.call_id
    for delivery in (gone, stays):
        assert isinstance(await uploader.deliver(delivery), Delivered)
    assert await uploader.erase([CallToErase(gone.record.call_id), CallToErase("never")], dry_run=True) == Erased(1)
    assert len(await objects(weed, name)) == 2
    assert await uploader.erase([CallToErase(gone.record.call_id), CallToErase("never")]) == Erased(1)
    assert await uploader.erase([CallToErase(gone.record.call_id)]) == Erased(0)
    (left,) = await objects(weed, name)
    assert stays.record.call_id in left.key


async def test_what_cannot_be_erased_of_a_bucket_is_said(
    made: MakeUploader, weed: Server, a_bucket: Callable[[Server], str]
) -> None:
    """Keys that do not name their call, and a bucket that is not there."""
    unnamed = made(options(weed, a_bucket(weed), key="{date}/{record_id}"))
    assert "{call_id}" in ((await unnamed.erase([CallToErase("c")])).unreached or "")
    assert (await made(options(weed, "not-there")).erase([CallToErase("c")])).unreached


@pytest.mark.parametrize("key", [None, "{tenant}/{date}/{call_id}/{event}-{record_id}"], ids=["records", "folders"])
async def test_of_two_tenants_calls_of_one_id_the_objects_of_one_are_erased(
    store: Store, made: MakeUploader, weed: Server, bucket: str, key: str | None
) -> None:
    """By the records in their keys, as far as receipts know them, or by the tenants that keys have for ever."""
    uploader = made(options(weed, bucket, **({} if key is None else {"key": key})))
    stored = {}
    for tenant in ("acme", "globex", "initech"):
        delivery = await store.large(100_000, call_id="call-7")
        record = replace(delivery.record, tenant=tenant)
        assert isinstance(await uploader.deliver(replace(delivery, record=record)), Delivered)
        stored[tenant] = record.uid
    call = CallToErase("call-7", frozenset({"acme"}), frozenset({stored["acme"]}), frozenset({stored["globex"]}))
    erased = await uploader.erase([call])
    assert (erased.count, erased.unreached is None) == (1, key is not None)
    left = [one.key for one in await objects(weed, bucket)]
    assert all(any(uid in each for each in left) for tenant, uid in stored.items() if tenant != "acme")
    # Much later no receipt is left, and only keys with tenants say whose an object is.
    erased = await uploader.erase([CallToErase("call-7", frozenset({"globex"}))])
    assert erased.count == (0 if key is None else 1)
    assert (erased.unreached is None) == (key is not None)
