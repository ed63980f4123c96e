"""What was said, card numbers and agents' keys come in by every way: with a key none of it is in the spool's files."""

import asyncio
import base64
import gzip
import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.endpoint import Endpoint, Fault
from spool.keys import KeyRing
from tests.outbox.sdk import rows, write
from tests.system.forensics import Copies, found
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

KEY = base64.b64encode(bytes(range(32))).decode()
RING = KeyRing.parse([KEY])
WITH_KEY = {"CALLSPOOL_SPOOL_KEY": KEY}
NUMBERS = {way: f"49290000{number:04d}0006".encode() for number, way in enumerate(
    ("small", "gzip", "batch", "upload", "large", "giant", "dead", "row", "large row", "spans", "turn"), 1
)}  # fmt: skip
BESIDE = ("spans", "turn")
"""What lies there before it belongs to a record."""
AGENTS_KEY = b"agents-own-key-1234567890"
REFUSED_KEY = b"another-key-0987654321"
WORDS = {*NUMBERS.values(), AGENTS_KEY, REFUSED_KEY}
HEADERS = {"x-pype-token": AGENTS_KEY.decode()}


def call_log(way: str, size: int = 0) -> bytes:
    """One that holds the number of this way in its transcript and, if it is large, at its end, too."""
    number = NUMBERS[way].decode()
    turns = [{"role": "user", "text": f"my card is {number}"}]
    # Of few repetitions, so that compression leaves it large.
    filling = base64.b64encode(os.urandom(size * 3 // 4)).decode()
    log = {"call_id": way, "transcript": turns, "telemetry_data": {"spans": [{"name": filling}]}, "said": number}
    return json.dumps(log).encode()


async def posted(gateway: GatewayProcess) -> None:
    """By every way, each with its own number."""
    ways = [("small", call_log("small"), {}), ("dead", call_log("dead"), {"x-pype-token": REFUSED_KEY.decode()})]
    ways += [("gzip", gzip.compress(call_log("gzip")), {"Content-Encoding": "gzip"})]
    ways += [(way, call_log(way, size), {}) for way, size in (("large", 5_500_000), ("giant", 9_000_000))]
    for _, body, headers in ways:
        assert (await gateway.post(body, headers={**HEADERS, **headers})).status == 202
    lines = call_log("batch") + b"\n"
    batch = {"Content-Type": "application/x-ndjson", **HEADERS}
    assert await gateway.send(lines, "/v1/calls/batch", batch) in {200, 202, 207}
    wanted = {"call_id": "upload", "content_type": "application/json", "token": AGENTS_KEY.decode()}
    given = (await gateway.post(wanted, "/get-upload-url", HEADERS)).json
    path = str(given["upload_url"]).removeprefix(gateway.intake_url)
    assert await gateway.send(call_log("upload"), path, {"Content-Type": "application/json"}, method="PUT") == 200
    turn = {"turns": [{"index": 1, "content": f"my card is {NUMBERS['turn'].decode()}"}]}
    assert (await gateway.post(turn, "/v1/calls/turn/turns", HEADERS)).status in {200, 202}
    traces = {"Content-Type": "application/json", **HEADERS}
    assert await gateway.send(spans("spans"), "/v1/traces", traces) == 200
    outbox = gateway.folder / "outbox.db"
    write(outbox, call_id="row", payload=json.loads(call_log("row")))
    write(outbox, call_id="large row", payload=json.loads(call_log("large row", 5_500_000)))

    async def rescued() -> bool:
        return not rows(outbox)

    await until(rescued, "the rows of the outbox are in the spool")


def spans(way: str) -> bytes:
    """A trace that has ended, as an exporter posts it."""
    said = {"key": "output", "value": {"stringValue": f"my card is {NUMBERS[way].decode()}"}}
    named = {"key": "conversation.id", "value": {"stringValue": way}}
    span = {
        "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "name": "llm",
        "startTimeUnixNano": "1790000000000000000", "endTimeUnixNano": "1790000001000000000",
        "attributes": [said, named],
    }  # fmt: skip
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()


def a_gateway(tmp_path: Path, endpoint: Endpoint, **settings: str) -> GatewayProcess:
    file = (
        f'[[destinations]]\nname = "endpoint"\ntype = "http"\nurl = "{endpoint.url}"\n'
        'retry = { initial = "0.1s", max = "0.2s" }\n'
        f'[[destinations]]\nname = "store"\ntype = "sqlite"\npath = "{tmp_path / "calls.db"}"\n'
    )
    watched = {
        "CALLSPOOL_WHISPEY_OUTBOX": str(tmp_path / "gateway" / "outbox.db"),
        "CALLSPOOL_WHISPEY_OUTBOX_INTERVAL": "0.2s",
    }
    return GatewayProcess(tmp_path / "gateway", {**watched, **settings}, settings=file)


@pytest.mark.slow
async def test_without_a_key_everything_is_found(tmp_path: Path) -> None:
    """What makes the other test able to fail: all of it stands in the files of a spool that has no key."""
    async with Endpoint(fault=Fault("status", 503)) as endpoint, a_gateway(tmp_path, endpoint) as gateway:
        await posted(gateway)
        await gateway.kill()
        assert found(gateway.spool, WORDS) == WORDS


@pytest.mark.slow
async def test_with_a_key_nothing_is_found_and_after_its_end_nothing_is_opened(tmp_path: Path) -> None:
    """Every byte of the spool's directory, raw and decompressed at every offset, while it waits and when it has ended.

    While it waits, the main key opens it. When it was delivered, discarded or exported, the main key does not, nor does
    whoever kept copies of everything that was ever stored. The export opens with the key alone.
    """
    records = set(NUMBERS.values()) - {NUMBERS[way] for way in BESIDE}
    async with (
        Endpoint(fault=Fault("status", 503)) as endpoint,
        a_gateway(tmp_path, endpoint, **WITH_KEY) as gateway,
    ):
        await posted(gateway)
        await gateway.kill()
        assert found(gateway.spool, WORDS) == set()
        copies = Copies(gateway.spool)
        opened = copies.opened(gateway.spool, RING)
        assert {number for number in NUMBERS.values() if number in opened} >= records

        endpoint.set_fault(Fault("status", 400, token=REFUSED_KEY.decode()))
        await gateway.start()

        async def given_up() -> bool:
            """One was refused, and the details are too large."""
            destinations = (await gateway.status())["destinations"]
            queued = any(lane["queued"] for one in destinations for lane in one["lanes"])
            return not queued and sum(int(one["dead"]) for one in destinations) >= 1

        await until(given_up, "what was not delivered is dead", deadline=60)
        assert found(gateway.spool, WORDS) == set()
        export = tmp_path / "export"
        await gateway.command("dead", "export", str(export), "--all", *gateway.admin)
        assert len(list((export / "documents").iterdir())) >= 1
        assert found(export, WORDS) == set()
        await gateway.command("dead", "discard", "--all", "--yes", *gateway.admin)
        assert await gateway.hurry() == 0
        assert found(gateway.spool, WORDS) == set()
        assert copies.opened(gateway.spool, RING) == b""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "size", "settings"),
    [("large", 15_000_000, WITH_KEY), ("giant", 24_000_000, WITH_KEY), ("large", 15_000_000, {})],
    ids=["large", "giant", "without a key"],
)
async def test_a_kill_in_the_middle_of_a_post_leaves_nothing_to_read(
    tmp_path: Path, way: str, size: int, settings: dict[str, str]
) -> None:
    """A body that hangs half-way lies in staging: with a key as noise, while it comes in and after a kill."""
    body = call_log(way, size)
    expected = set() if settings else {NUMBERS[way]}
    async with Endpoint() as endpoint, a_gateway(tmp_path, endpoint, **settings) as gateway:
        address = urlsplit(gateway.intake_url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"POST /v1/calls HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body[: size * 2 // 3])

        async def staged() -> bool:
            files = (gateway.spool / "staging").iterdir()
            return sum(file.stat().st_size for file in files) > size // 2

        await until(staged, "what came lies in the staging file")
        assert found(gateway.spool, WORDS) == expected
        await gateway.kill()
        assert found(gateway.spool, WORDS) == expected
        assert sum(file.stat().st_size for file in (gateway.spool / "staging").iterdir()) > size // 2
        writer.close()


@pytest.mark.slow
async def test_what_expired_is_opened_by_nobody(tmp_path: Path) -> None:
    """The key of what was given up unsent, after its time, is destroyed as that of what was delivered."""
    settings = {**WITH_KEY, "CALLSPOOL_SPOOL_EXPIRE_AFTER": "5s"}
    async with (
        Endpoint(fault=Fault("status", 503)) as endpoint,
        a_gateway(tmp_path, endpoint, **settings) as gateway,
    ):
        assert (await gateway.post(call_log("small"), headers=HEADERS)).status == 202
        copies = Copies(gateway.spool)
        assert NUMBERS["small"] in copies.opened(gateway.spool, RING)

        async def expired() -> bool:
            destinations = (await gateway.status())["destinations"]
            return not any(lane["queued"] for one in destinations for lane in one["lanes"])

        await until(expired, "it has expired")
        assert await gateway.hurry() == 0
        assert found(gateway.spool, WORDS) == set()
        assert copies.opened(gateway.spool, RING) == b""


@pytest.mark.slow
async def test_what_is_adopted_is_nowhere_plain(tmp_path: Path) -> None:
    """Another gateway takes the spool over, with the same key: it is decrypted and encrypted anew in memory alone."""
    (tmp_path / "second").mkdir()
    async with Endpoint(fault=Fault("status", 503)) as endpoint, a_gateway(tmp_path, endpoint, **WITH_KEY) as first:
        for way, size in (("small", 0), ("large", 5_500_000)):
            assert (await first.post(call_log(way, size), headers=HEADERS)).status == 202
        await first.kill()
        async with a_gateway(tmp_path / "second", endpoint, **WITH_KEY) as second:
            await second.command("adopt", str(first.spool), *second.admin)
            assert found(second.spool, WORDS) == found(first.spool, WORDS) == set()
            opened = Copies(second.spool).opened(second.spool, RING)
            assert all(NUMBERS[way] in opened for way in ("small", "large"))
