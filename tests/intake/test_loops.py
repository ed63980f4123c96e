"""What the gateway sent itself is not accepted: its own acknowledgement would be the end of the only copy."""

import gzip

import pytest

from gateway.intake.routes import MOST_GATEWAYS
from tests.intake.bodies import call_log, envelope
from tests.intake.running_intake import Reply, RunningIntake

pytestmark = pytest.mark.asyncio(loop_scope="module")
WAYS = ["post", "prefix", "batch", "envelope", "gzip", "upload", "address", "reference"]
REFERENCE = {"s3_reference": True, "s3_bucket": "b", "s3_key": "k"}


@pytest.fixture
def world(shared: RunningIntake) -> RunningIntake:
    """Each test has a call of its own."""
    return shared


async def bring(world: RunningIntake, way: str, headers: dict[str, str], call_id: str) -> Reply:
    """A call log, or what belongs to one, on one of the ways in."""
    body, wanted = call_log(call_id), {"call_id": call_id, "content_type": "application/json"}
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
            posting = world.post(REFERENCE | {"call_id": call_id}, headers=headers)
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
async def test_its_own_mark_is_refused_whatever_way_it_comes(
    world: RunningIntake, way: str, via: str, call_id: str
) -> None:
    """508 with a code of its own, nothing is stored, and no body is read."""
    own = f"callspool-{world.spool.id}"
    reply = await bring(world, way, {"Via": via.format(own=own, OWN=own.upper())}, call_id)
    assert (reply.status, reply.code) == (508, "loop_detected")
    assert "Retry-After" not in reply.headers
    assert await world.spool.trace(call_id) == ()


async def test_its_own_idempotency_key_is_refused(world: RunningIntake, call_id: str) -> None:
    """Where a proxy has removed `Via`, the key of a delivery tells."""
    reply = await world.post(call_log(call_id), headers={"Idempotency-Key": f"{world.spool.id}-17-core"})
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
async def test_what_others_sent_is_accepted(
    world: RunningIntake, way: str, headers: dict[str, str], call_id: str
) -> None:
    """Another gateway's mark is that of a sender like any other: a receiver gets its posts from gateways."""
    sent = {name: value.format(id=world.spool.id) for name, value in headers.items()}
    assert (await bring(world, way, sent, call_id)).status in {200, 202}


GATEWAYS = [f"1.1 callspool-{number:08x}" for number in range(MOST_GATEWAYS + 1)]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "address"])
@pytest.mark.parametrize(
    ("headers", "via"),
    [
        ({"Via": GATEWAYS[1]}, GATEWAYS[1]),
        ({"Via": f"1.1 nginx, {GATEWAYS[2].upper()} (a b), 2 cdn,{GATEWAYS[1]}"}, f"{GATEWAYS[2]}, {GATEWAYS[1]}"),
        ({"Via": f"{GATEWAYS[1]}, {GATEWAYS[2]}, {GATEWAYS[1]}"}, f"{GATEWAYS[1]}, {GATEWAYS[2]}"),
        ({"Via": GATEWAYS[1], "Idempotency-Key": "00000002-7-core"}, f"{GATEWAYS[1]}, {GATEWAYS[2]}"),
        ({"Via": GATEWAYS[2], "Idempotency-Key": "00000002-7-core"}, GATEWAYS[2]),
        ({"Idempotency-Key": "00000002-17-whole"}, GATEWAYS[2]),
        ({"Via": ", ".join(GATEWAYS[1:])}, ", ".join(GATEWAYS[1:])),
        ({"Via": "1.1 nginx, 2 callspool", "Idempotency-Key": "00000002-whole"}, None),
        ({"Via": "1.1 callspool-0badcaf, 1.1 callspool-0badcafe1, callspool-0badcafe"}, None),
        ({}, None),
    ],
    ids=str,
)
async def test_a_record_keeps_the_gateways_that_it_came_through(
    world: RunningIntake, way: str, headers: dict[str, str], via: str | None, call_id: str
) -> None:
    """Whatever way it came: the marks in their order, each once; also one that only the key of a delivery tells."""
    assert (await bring(world, way, headers, call_id)).status in {200, 202}
    assert (await world.only_record(call_id)).record.via == via


@pytest.mark.parametrize("way", WAYS)
async def test_more_gateways_than_stand_in_any_row_are_refused(world: RunningIntake, way: str, call_id: str) -> None:
    """So what is kept of them is bounded; any number of other proxies is none of them."""
    reply = await bring(world, way, {"Via": ", ".join(GATEWAYS)}, call_id)
    assert (reply.status, reply.code) == (508, "too_many_gateways")
    others = ", ".join(f"1.1 proxy-{number}" for number in range(99))
    assert (await bring(world, way, {"Via": others}, call_id)).status < 300


@pytest.mark.parametrize(
    ("first", "second", "duplicate"),
    [
        ([], [], True),
        ([1], [], True),
        ([1], [1], True),
        ([1, 2], [2], True),
        ([1, 2], [2, 1], True),
        ([], [1], False),
        ([1], [2], False),
        ([1], [1, 2], False),
    ],
)
async def test_what_came_through_another_gateway_is_no_duplicate(
    world: RunningIntake, first: list[int], second: list[int], duplicate: bool, call_id: str
) -> None:
    """That gateway may hold it on the word of this one: each would then take the other's for a delivery."""
    for numbers, expected in ((first, False), (second, duplicate)):
        via = {"Via": ", ".join(GATEWAYS[number] for number in numbers)} if numbers else {}
        reply = await world.post(call_log(call_id), headers=via)
        assert (reply.status, reply.json["duplicate"]) == (202, expected)


async def test_two_lines_are_read(world: RunningIntake, call_id: str) -> None:
    """Proxies add a line of their own."""
    body = call_log(call_id)
    head = (
        f"POST /v1/calls HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\nVia: 1.1 nginx\r\n"
    )
    answer = await world.send_raw(f"{head}Via: 1.1 callspool-{world.spool.id}\r\n\r\n".encode() + body)
    assert answer.startswith(b"HTTP/1.1 508 Loop Detected\r\n")
