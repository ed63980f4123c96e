"""What the gateway sent itself is not accepted: its own acknowledgement would be the end of the only copy."""

import gzip

import pytest

from tests.intake.bodies import call_log, envelope
from tests.intake.running_intake import Reply, RunningIntake

WAYS = ["post", "prefix", "batch", "envelope", "gzip", "upload", "address", "reference"]
REFERENCE = {"s3_reference": True, "s3_bucket": "b", "s3_key": "k", "call_id": "call-1"}


async def bring(world: RunningIntake, way: str, headers: dict[str, str]) -> Reply:
    """A call log, or what belongs to one, on one of the ways in."""
    body, wanted = call_log(), {"call_id": "call-1", "content_type": "application/json"}
    match way:
        case "prefix":
            posting = world.post(body, "/any/prefix/send-call-log", headers=headers)
        case "batch":
            posting = world.post(body, "/v1/calls/batch", headers=headers)
        case "envelope":
            posting = world.post(envelope(body), headers=headers)
        case "gzip":
            posting = world.post(gzip.compress(body), headers=headers, content_encoding="gzip")
        case "upload":
            address = (await world.post(wanted, "/dev/get-upload-url")).json["upload_url"]
            posting = world.ask("PUT", address, body, headers=headers)
        case "address":
            posting = world.post(wanted, "/dev/get-upload-url", headers=headers)
        case "reference":
            posting = world.post(REFERENCE, headers=headers)
        case _:
            posting = world.post(body, "/v1/calls", headers=headers)
    return await posting


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "via",
    [
        "1.1 {own}",
        "1.1 {OWN}",
        "HTTP/1.1 {own}",
        "1.1 proxy.example, 1.1 {own}, 2 cdn (cache)",
        "1.1 {own} (callspool)",
    ],
)
async def test_its_own_mark_is_refused_whatever_way_it_comes(world: RunningIntake, way: str, via: str) -> None:
    """508 with a code of its own, nothing is stored, and no body is read."""
    own = f"callspool-{world.spool.id}"
    reply = await bring(world, way, {"Via": via.format(own=own, OWN=own.upper())})
    assert (reply.status, reply.code) == (508, "loop_detected")
    assert "Retry-After" not in reply.headers
    assert await world.spool.trace("call-1") == ()


async def test_its_own_idempotency_key_is_refused(world: RunningIntake) -> None:
    """Where a proxy has removed `Via`, the key of a delivery tells."""
    reply = await world.post(call_log(), headers={"Idempotency-Key": f"{world.spool.id}-17-core"})
    assert (reply.status, reply.code) == (508, "loop_detected")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Via": "1.1 callspool-0badcafe"},
        {"Via": "1.1 nginx, 2 callspool"},
        {"Via": "1.1 proxy (callspool-{id})"},
        {"Via": "callspool-{id}"},
        {"Via": ", ,"},
        {"Idempotency-Key": "0badcafe-17-core"},
    ],
    ids=str,
)
async def test_what_others_sent_is_accepted(world: RunningIntake, way: str, headers: dict[str, str]) -> None:
    """Another gateway's mark is that of a sender like any other: a receiver gets its posts from gateways."""
    sent = {name: value.format(id=world.spool.id) for name, value in headers.items()}
    assert (await bring(world, way, sent)).status in {200, 202}


async def test_two_lines_are_read(world: RunningIntake) -> None:
    """Proxies add a line of their own."""
    body = call_log()
    head = (
        f"POST /v1/calls HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\nVia: 1.1 nginx\r\n"
    )
    answer = await world.send_raw(f"{head}Via: 1.1 callspool-{world.spool.id}\r\n\r\n".encode() + body)
    assert answer.startswith(b"HTTP/1.1 508 Loop Detected\r\n")
