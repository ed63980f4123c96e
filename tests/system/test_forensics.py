"""What was said, card numbers and agents' keys come in by every way: with a key none of it is in the spool's files."""

import base64
import gzip
import json
import os
from pathlib import Path

import pytest

from bench.endpoint import Endpoint, Fault
from spool.keys import KeyRing
from tests.system.forensics import Copies, found
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

KEY = base64.b64encode(bytes(range(32))).decode()
RING = KeyRing.parse([KEY])
NUMBERS = {way: f"49290000{number:04d}0006".encode() for number, way in enumerate(
    ("small", "gzip", "batch", "upload", "large", "giant", "dead"), 1)}  # fmt: skip
AGENTS_KEY = b"agents-own-key-1234567890"
REFUSED_KEY = b"another-key-0987654321"
WORDS = {*NUMBERS.values(), AGENTS_KEY, REFUSED_KEY}
HEADERS = {"x-pype-token": AGENTS_KEY.decode()}


def call_log(way: str, size: int = 0) -> bytes:
    """One that holds the number of this way in its transcript and, if it is large, at its end, too."""
    number = NUMBERS[way].decode()
    turns = [{"role": "user", "text": f"my card is {number}"}]
    # Of few repetitions, so that compression leaves it large.
    filling = base64.b85encode(os.urandom(size * 4 // 5)).decode()
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


def a_gateway(tmp_path: Path, endpoint: Endpoint, **settings: str) -> GatewayProcess:
    config = tmp_path / "callspool.toml"
    config.write_text(
        f'[[destinations]]\nname = "endpoint"\ntype = "http"\nurl = "{endpoint.url}"\n'
        'retry = { initial = "0.1s", max = "0.2s" }\n'
    )
    return GatewayProcess(tmp_path / "gateway", {"CALLSPOOL_CONFIG": str(config), **settings})


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

    While it waits, the main key opens it. When it was delivered or discarded, the main key does not, nor does whoever
    kept copies of everything that was ever stored.
    """
    async with (
        Endpoint(fault=Fault("status", 503)) as endpoint,
        a_gateway(tmp_path, endpoint, CALLSPOOL_SPOOL_KEY=KEY) as gateway,
    ):
        await posted(gateway)
        await gateway.kill()
        assert found(gateway.spool, WORDS) == set()
        copies = Copies(gateway.spool)
        assert len(copies) == len(NUMBERS)
        opened = copies.opened(gateway.spool, RING)
        assert {number for number in NUMBERS.values() if number in opened} == set(NUMBERS.values())

        endpoint.set_fault(Fault("status", 400, token=REFUSED_KEY.decode()))
        await gateway.start()

        async def given_up() -> bool:
            """One was refused, and the details are too large."""
            (destination,) = (await gateway.status())["destinations"]
            return int(destination["dead"]) >= 1 and not any(lane["queued"] for lane in destination["lanes"])

        await until(given_up, "what was not delivered is dead", deadline=60)
        assert found(gateway.spool, WORDS) == set()
        await gateway.command("dead", "discard", "--all", "--yes", *gateway.admin)
        assert await gateway.hurry() == 0
        assert found(gateway.spool, WORDS) == set()
        assert copies.opened(gateway.spool, RING) == b""
