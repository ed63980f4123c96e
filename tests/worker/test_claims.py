"""Claim checks: what a notice refers to is read from a real S3 server, and stored as the detail of its call."""

import asyncio
import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from bench.s3_server import Server
from config.receiver import ReferenceSettings
from gateway.runtime.stores import claim_reader
from gateway.worker.claims import ClaimReader
from gateway.worker.messages import Batch, ClaimFailed, Incoming, Ledger
from gateway.worker.writer import BatchWriter
from spool.records import Form
from tests.kafka.clusters import Cluster
from tests.s3.stored_objects import client_of
from tests.stores.calls import document_of
from tests.stores.engines import SqliteEngine
from tests.stores.writing import Counts
from tests.uploaders.deliveries import a_delivery, a_record
from uploaders.kafka.messages import message_of, read_message
from uploaders.kafka.producer import MessageProducer


def notice(cluster: Cluster, number: int, bucket: str, key: str, tenant: str | None = None) -> Incoming:
    """What a sidecar writes once the object of a call is in the bucket."""
    text = {"s3_reference": True, "s3_bucket": bucket, "s3_key": key, "call_id": f"call-{number}"}
    delivery = a_delivery(a_record(record_id=number, digest=number.to_bytes(32), tenant=tenant), Form.NOTICE)
    made = message_of(delivery, json.dumps(text).encode(), cluster.topics)
    part = read_message(made.topic, made.key, made.value, made.headers, 0, cluster.topics)
    return Incoming(made.topic, 0, number, made.key, made.value, made.headers, part)


async def reason_of(claims: ClaimReader, note: bytes) -> str:
    with pytest.raises(ClaimFailed) as failed:
        await claims.read(note, "", "c")
    return str(failed.value)


def detail(number: int) -> bytes:
    traces = [{"name": f"span {number}"}]
    return json.dumps(
        {"call_id": f"call-{number}", "telemetry_data": {"session_traces": traces}, "text": "x" * 3_000_000}
    ).encode()


async def test_objects_that_cannot_be_read_wait_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few are read at once: an outage of the bucket holds up a batch of many notices no longer than one."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    settings = ReferenceSettings(
        buckets=("bucket",), endpoint_url="http://127.0.0.1:9", region="us-east-1", concurrency=1
    )
    claims = claim_reader(settings, lambda *_: None)
    assert claims is not None
    together = asyncio.Barrier(9)

    async def until_all_wait(_seconds: float) -> None:
        await together.wait()

    # Its own alone: others wait by the same function.
    monkeypatch.setattr("gateway.worker.claims.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": until_all_wait}))
    note = json.dumps({"s3_bucket": "bucket", "s3_key": "k"}).encode()
    async with asyncio.timeout(20):
        reasons = await asyncio.gather(*[reason_of(claims, note) for _ in range(9)])
    assert all("cannot connect" in reason for reason in reasons)
    await claims.close()


@pytest.mark.slow
async def test_what_notices_refer_to_becomes_details(
    failing: Cluster, tmp_path: Path, weed: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of zstd, gzip and plain, each with its spans; what is missing, of another call or tenant, or in another
    bucket is among the dead with its reason, and holds up nothing."""
    monkeypatch.setattr("gateway.worker.claims.FIRST_WAIT_SECONDS", 0.001)
    engine, ledger = SqliteEngine(tmp_path), Ledger()
    store, producer = engine.store(), MessageProducer(failing.options)
    settings = ReferenceSettings(buckets=(bucket,), endpoint_url=weed.endpoint, region="us-east-1")
    sizes: list[int] = []
    claims = claim_reader(settings, lambda _, size: sizes.append(size))
    assert claims is not None
    compress = zstandard.ZstdCompressor(level=1).compress
    objects = {
        1: compress(detail(1)[:1_000_000]) + compress(detail(1)[1_000_000:]),
        2: gzip.compress(detail(2)),
        3: detail(3),
        4: detail(9),
        5: b"\x28\xb5\x2f\xfd no zstd",
    }
    async with client_of(weed) as client:
        for number, body in objects.items():
            await client.put_object(Bucket=bucket, Key=f"k{number}", Body=body)
        await client.put_object(Bucket=bucket, Key="k8", Body=detail(8), Metadata={"tenant": "acme"})
    writer = BatchWriter(store, "db", failing.topics, producer, ledger, Counts(), claims=claims)
    batch: Batch = ledger.begin()
    for number in range(1, 7):
        ledger.read(batch, notice(failing, number, bucket, f"k{number}"))
    ledger.read(batch, notice(failing, 7, "other-bucket", "k"))
    ledger.read(batch, notice(failing, 8, bucket, "k8", tenant="globex"))
    await writer.write(batch)
    ledger.end(batch, written=True)
    for number in (1, 2, 3):
        assert await document_of(store.detail("", f"call-{number}")) == detail(number)
    assert engine.rows("select name from spans order by name") == [("span 1",), ("span 2",), ("span 3",)]
    assert sizes == [len(detail(1))] * 3
    dead = await asyncio.to_thread(failing.messages, failing.topics.dead)
    reasons = {message.key: message.headers["dead-reason"].decode() for message in dead}
    for key, said in {
        "call-4": "not about the call", "call-5": "cannot be decoded", "call-6": "k6", "call-7": "may not be read",
        "call-8": "of another tenant",
    }.items():  # fmt: skip
        assert said in reasons[key]
    assert (ledger.entry().dead, ledger.entry().unaccounted) == (5, 0)
    await claims.close()
    await producer.close()
    await store.close()
