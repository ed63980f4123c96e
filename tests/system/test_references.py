"""References: two real processes and a real S3 server; what a note refers to becomes parts of its call."""

import json
from pathlib import Path

import pytest
import zstandard

from bench.calllogs import make_call_log
from bench.s3_server import Server
from tests.s3.stored_objects import client_of
from tests.stores.engines import SqliteEngine
from tests.system.gateway_process import GatewayProcess
from tests.system.receivers import PATIENCE, Receiver, counted, post


def a_receiver(tmp_path: Path, server: Server, buckets: str) -> tuple[Receiver, SqliteEngine]:
    """A receiver on SQLite that may read from these buckets."""
    engine = SqliteEngine(tmp_path)
    receiver = Receiver(tmp_path / "receiver", f"sqlite:///{engine.path}")
    receiver.environment |= {
        "CALLSPOOL_REFERENCES_BUCKETS": buckets,
        "CALLSPOOL_REFERENCES_ENDPOINT_URL": server.endpoint,
        "CALLSPOOL_REFERENCES_REGION": "us-east-1",
    }
    return receiver, engine


def note(bucket: str, key: str, call_id: str) -> dict[str, object]:
    """What the SDK posts once it has uploaded a call log."""
    return {"s3_reference": True, "s3_bucket": bucket, "s3_key": key, "call_id": call_id}


async def fault(receiver: Receiver, call_id: str) -> str:
    """Why the reference of a call is a dead letter."""
    (reading,) = [
        delivery
        for record in (await receiver.call(call_id))["records"]
        for delivery in record["deliveries"]
        if delivery["destination"] == "references"
    ]
    assert reading["state"] == "dead", reading
    return str(reading["error"])


@pytest.mark.slow
async def test_what_references_name_reaches_the_store(tmp_path: Path, weed: Server, bucket: str) -> None:
    """Plain, gzip, zstd, 15 MB, and an object that comes after its note: read once, split and stored like a post; what
    may not be read, is no call log or is about another call becomes a dead letter, and holds up nothing."""
    large = make_call_log(15_000_000, seed=3, call_id="large")
    receiver, engine = a_receiver(tmp_path, weed, bucket)
    async with receiver, client_of(weed) as client:

        async def put(key: str, body: bytes) -> None:
            await client.put_object(Bucket=bucket, Key=key, Body=body)

        await put("small", make_call_log(2_000, seed=1, call_id="small", event="call_started"))
        await put("large", zstandard.compress(large))
        await put("garbage", b"no JSON")
        for _ in range(2):  # a second note of an object adds nothing
            await post(receiver, note(bucket, "large", "large"), "/dev/send-call-log")
        await post(receiver, note(bucket, "small", "small"))
        await post(receiver, note(bucket, "later", "later"))
        await post(receiver, note("other", "small", "forbidden"))
        await post(receiver, note(bucket, "garbage", "garbage"))
        await post(receiver, note(bucket, "small", "stranger"))
        await post(receiver, {**note(bucket, "small", "stuffed"), "more": "x" * 2_000_000})
        await receiver.has("large", "ended", detail=True)
        await receiver.has("small", "open")
        await put("later", make_call_log(2_000, seed=2, call_id="later"))
        await receiver.has("later", "ended")
        await receiver.delivered(deadline=PATIENCE)
        assert (await receiver.call("large"))["references"] == [note(bucket, "large", "large")]
        _, detail = await receiver.ask("/api/calls/large/detail")
        posted, core = json.loads(large), (await receiver.call("large"))["end"]
        assert posted == {name: value for name, value in {**core, **json.loads(detail)}.items() if name in posted}
        assert counted(engine, "spans") == len(posted["telemetry_data"]["session_traces"])
        assert counted(engine, "call_parts where kind = 2") == 2
        assert "references.buckets does not name it" in await fault(receiver, "forbidden")
        assert "The JSON is broken" in await fault(receiver, "garbage")
        assert "about another call" in await fault(receiver, "stranger")
        assert "the reference is too large" in await fault(receiver, "stuffed")
        assert await receiver.metric("callspool_reference_download_seconds_count") >= 4
        assert await receiver.metric("callspool_unaccounted_records") == 0


@pytest.mark.slow
async def test_a_sidecars_notice_brings_its_detail(tmp_path: Path, weed: Server, bucket: str) -> None:
    """A sidecar with a bucket beside its endpoint posts a core and a notice; the receiver reads the detail itself, and
    a receiver that is killed meanwhile reads it after its start."""
    receiver, engine = a_receiver(tmp_path, weed, bucket)
    sidecar = GatewayProcess(
        tmp_path / "sidecar",
        {
            "CALLSPOOL_ENDPOINT_URL": f"{receiver.intake_url}/dev/send-call-log",
            "CALLSPOOL_S3_BUCKET": bucket,
            "CALLSPOOL_S3_ENDPOINT_URL": weed.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        },
    )
    large = make_call_log(6_000_000, seed=5, call_id="large")
    async with receiver, sidecar:
        await post(sidecar, large)
        await sidecar.delivered(deadline=PATIENCE)
        await receiver.kill()
        await receiver.start()
        await receiver.has("large", "ended", detail=True)
        await receiver.delivered(deadline=PATIENCE)
        assert counted(engine, "spans") == len(json.loads(large)["telemetry_data"]["session_traces"])


@pytest.mark.slow
async def test_a_reference_to_an_object_of_another_tenant_is_a_dead_letter(
    tmp_path: Path, weed: Server, bucket: str
) -> None:
    """Keys can be guessed: a tenant that names one of another's gets nothing of the call, and the owner does."""
    receiver, _ = a_receiver(tmp_path, weed, bucket)
    receiver.configure(
        "\n".join(f'[tenants.{name}]\ntoken = ["token-of-the-agents-of-{name}"]' for name in ("acme", "globex"))
    )
    async with receiver, client_of(weed) as client:
        for name in ("acme", "globex"):
            body, metadata = make_call_log(2_000, seed=1, call_id=f"of-{name}"), {"tenant": name}
            await client.put_object(Bucket=bucket, Key=name, Body=body, Metadata=metadata)
        for key in ("acme", "globex"):
            headers = {"x-pype-token": "token-of-the-agents-of-acme"}
            assert (await receiver.post(note(bucket, key, f"of-{key}"), headers=headers)).status == 202
        await receiver.delivered(deadline=PATIENCE)
        assert "of another tenant" in await fault(receiver, "of-globex")
        _, listed = await receiver.ask("/api/calls?project=acme")
        states = {call["call_id"]: call["state"] for call in json.loads(listed)["calls"]}
        assert states == {"of-acme": "ended", "of-globex": "pending"}, "of the second there is the note alone"
