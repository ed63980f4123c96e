"""Webhooks and OpenTelemetry: a real gateway under posts that went wrong on their way, for a while."""

import asyncio
import gzip
import io
import random
import time
from pathlib import Path

import aiohttp
import pytest

from bench.endpoint import Endpoint
from gateway.otlp.source import JSON, PROTOBUF
from gateway.webhooks.providers import PROVIDERS
from tests.budget import budgeted
from tests.otlp.captured import as_json, in_posts, request
from tests.system.gateway_process import GatewayProcess, ReservedPort
from tests.webhooks.senders import body_of

SECRET = "a-secret-of-more-than-thirty-two-characters"
SOURCES = ("retell", "vapi", "elevenlabs")
SECONDS = budgeted(small=6, full=600)
MOST_MIB = budgeted(small=160, full=224)
"""Of anonymous memory; the budget for posts is 64 MiB. After 20,000 posts of both kinds it is some 190 MiB, and stays
there: what is remembered of open traces has come to its bound."""

WEBHOOKS = [(name, body_of(PROVIDERS[name], sample)) for name in SOURCES for sample in PROVIDERS[name].samples.values()]
AUDIO = (
    b'{"type":"post_call_audio","event_timestamp":1,"data":{"conversation_id":"c","full_audio":"' + b"AAAA" * 500_000
)
SPANS = [
    *[(PROTOBUF, post) for name in ("livekit-50-turns", "pipecat-pipeline") for post in in_posts(request(name), 4)],
    (JSON, as_json(request("livekit-10-turns"))),
]


def damaged(chance: random.Random, body: bytes) -> bytes:
    """The body with a few bytes changed, cut out or put in, cut short, or repeated."""
    changed = bytearray(body)
    for _ in range(chance.randrange(4)):
        start = chance.randrange(len(changed))
        changed[start : start + chance.randrange(6)] = chance.randbytes(chance.randrange(6))
    if chance.random() < 0.1:
        del changed[chance.randrange(len(changed)) :]
    return bytes(changed) * chance.choice((1, 1, 1, 1, 7))


def webhook(chance: random.Random) -> tuple[str, bytes, dict[str, str], set[int]]:
    """A webhook to send, and how it may be answered."""
    name, body = chance.choice([*WEBHOOKS, ("elevenlabs", AUDIO + b'"}}')])
    body = damaged(chance, body)
    headers = PROVIDERS[name].scheme.sign(SECRET, body, time.time())
    expected = {200, 501, 503}
    if chance.random() < 0.2:
        header = chance.choice(sorted(headers))
        headers[header] = damaged(chance, headers[header].encode()).decode("latin-1").translate(_NO_CONTROLS)
        expected |= {400, 401}
    return f"/webhooks/{name}", body, headers, expected


def spans(chance: random.Random) -> tuple[str, bytes, dict[str, str], set[int]]:
    """A post of spans to send, and how it may be answered."""
    kind, body = chance.choice(SPANS)
    body, headers = damaged(chance, body), {"Content-Type": kind}
    if chance.random() < 0.3:
        body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        if chance.random() < 0.2:
            body = damaged(chance, body)
    return "/v1/traces", body, headers, {200, 400, 413, 503}


_NO_CONTROLS = dict.fromkeys((*range(32), *range(127, 256)))


@pytest.mark.prove
async def test_damaged_posts_meet_no_error_and_take_no_memory(tmp_path: Path) -> None:
    """Signed and unsigned webhooks and spans with bytes changed, cut and repeated: each is answered for what it is,
    memory stays bounded, and nothing that was acknowledged is unaccounted for."""
    port, chance = ReservedPort(), random.Random(5)
    statuses: set[int] = set()
    peak = sent = 0
    async with Endpoint(keep_documents=False) as endpoint, aiohttp.ClientSession() as session:
        environment = {
            "CALLSPOOL_ENDPOINT_URL": endpoint.url,
            "CALLSPOOL_WEBHOOKS_LISTEN": f"127.0.0.1:{port.number}",
            "CALLSPOOL_WEBHOOKS_RECORDINGS": str(tmp_path / "recordings"),
            "CALLSPOOL_RETELL_KEY": SECRET,
            "CALLSPOOL_VAPI_SECRET": SECRET,
            "CALLSPOOL_ELEVENLABS_SECRET": SECRET,
            "CALLSPOOL_SPOOL_MAX_BYTES": "512MiB",
        }
        async with GatewayProcess(tmp_path / "gateway", environment) as gateway:
            until = time.monotonic() + SECONDS

            async def send(base: str, path: str, body: bytes, headers: dict[str, str], expected: set[int]) -> None:
                nonlocal sent
                async with session.post(base + path, data=io.BytesIO(body), headers=headers) as response:
                    answer = await response.read()
                    assert response.status in expected, (response.status, answer, body[:500])
                    assert b'"internal"' not in answer, body[:500]
                    statuses.add(response.status)
                    sent += 1

            while time.monotonic() < until:
                webhooks = [webhook(chance) for _ in range(6)]
                traces = [spans(chance) for _ in range(6)]
                await asyncio.gather(
                    *[send(f"http://127.0.0.1:{port.number}", *each) for each in webhooks],
                    *[send(gateway.intake_url, *each) for each in traces],
                )
                status = Path(f"/proc/{gateway.process.pid}/status").read_text()
                peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) // 1024)
            assert await gateway.metric("callspool_unaccounted_records") == 0
        assert {200, 400, 401} <= statuses
    assert peak < MOST_MIB, f"{peak} MiB after {sent} posts"
    port.close()
