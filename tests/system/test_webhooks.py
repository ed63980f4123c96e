"""Webhooks as users receive them: a gateway with a listener for providers, killed between the fsync and the answer."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from bench.endpoint import Endpoint
from gateway.webhooks.providers import PROVIDERS
from tests.system.gateway_process import GatewayProcess, ReservedPort
from tests.system.waiting import until

SECRET = "a-secret-of-more-than-thirty-two-characters"


def signed(name: str, body: bytes) -> dict[str, str]:
    return {"Content-Type": "application/json", **PROVIDERS[name].scheme.sign(SECRET, body, time.time())}


@pytest.mark.slow
async def test_what_was_durable_at_a_kill_is_a_duplicate_when_the_provider_repeats_it(tmp_path: Path) -> None:
    """Killed after the fsync and before the provider read its 200, the call arrives once, whatever is repeated."""
    port = ReservedPort()
    async with Endpoint() as endpoint, aiohttp.ClientSession() as session:
        settings = {
            "CALLSPOOL_ENDPOINT_URL": endpoint.url,
            "CALLSPOOL_WEBHOOKS_LISTEN": f"127.0.0.1:{port.number}",
            "CALLSPOOL_VAPI_SECRET": SECRET,
            "CALLSPOOL_ELEVENLABS_SECRET": SECRET,
        }
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            url = f"http://127.0.0.1:{port.number}"
            report = json.dumps(PROVIDERS["vapi"].samples["end-of-call-report"]).encode()

            async def push(body: bytes) -> int:
                async with session.post(f"{url}/webhooks/vapi", data=body, headers=signed("vapi", body)) as response:
                    return response.status

            pushing = asyncio.create_task(push(report))

            async def durable() -> bool:
                return bool(endpoint.documents) or pushing.done()

            await until(durable, "the report is in the spool")
            await gateway.kill()
            await asyncio.gather(pushing, return_exceptions=True)
            await gateway.start()
            again = report.replace(b"call-01.wav", b"call-01.wav?signature=2")
            async with session.post(f"{url}/webhooks/vapi", data=again, headers=signed("vapi", again)) as response:
                assert (response.status, (await response.json())["duplicate"]) == (200, True)
            body = json.dumps(PROVIDERS["elevenlabs"].samples["post_call_transcription"]).encode()
            path = "/api/webhooks/elevenlabs/call-ended"
            async with session.post(url + path, data=body, headers=signed("elevenlabs", body)) as response:
                assert response.status == 200
            await gateway.delivered()
            assert await gateway.metric("callspool_unaccounted_records") == 0
        arrived = [call_log["call_id"] for call_log in endpoint.call_logs]
        assert sorted(arrived) == ["call-01", "conv_01"]
    port.close()


@pytest.mark.slow
async def test_the_listener_of_providers_has_no_other_route(tmp_path: Path) -> None:
    """Providers come from outside: what the intake and the admin listener serve is not there."""
    port = ReservedPort()
    settings = {"CALLSPOOL_WEBHOOKS_LISTEN": f"127.0.0.1:{port.number}", "CALLSPOOL_VAPI_SECRET": SECRET}
    async with (
        GatewayProcess(tmp_path / "gateway", settings, arguments=("--local",)) as gateway,
        aiohttp.ClientSession(f"http://127.0.0.1:{port.number}") as session,
    ):
        assert (await gateway.post({"call_id": "call-01"})).status == 202
        for method, path in (
            ("GET", "/v1/calls/call-01"), ("POST", "/v1/calls"), ("POST", "/v1/calls/batch"),
            ("POST", "/dev/send-call-log"), ("POST", "/dev/get-upload-url"), ("POST", "/v1/traces"),
            ("GET", "/metrics"), ("GET", "/api/status"), ("GET", "/"),
        ):  # fmt: skip
            async with session.request(method, path, data=b'{"call_id":"x"}') as response:
                assert response.status == 404, path
    port.close()


@pytest.mark.slow
async def test_audio_of_an_hour_takes_little_memory(tmp_path: Path) -> None:
    """40 MB of chunked base64 become a file, beside 110 MB of anonymous memory at most."""
    port = ReservedPort()
    settings = {
        "CALLSPOOL_WEBHOOKS_LISTEN": f"127.0.0.1:{port.number}",
        "CALLSPOOL_ELEVENLABS_SECRET": SECRET,
        "CALLSPOOL_WEBHOOKS_RECORDINGS": str(tmp_path / "recordings"),
    }
    audio = bytes(range(256)) * 117_188
    event = {"type": "post_call_audio", "event_timestamp": 1, "data": {"conversation_id": "hour", "full_audio": ""}}
    head, tail = json.dumps(event).encode().split(b'"full_audio": "')
    body = head + b'"full_audio": "' + base64.b64encode(audio) + tail

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    async with GatewayProcess(tmp_path / "gateway", settings, arguments=("--local",)) as gateway:
        peak = 0

        async def watch() -> None:
            nonlocal peak
            while True:
                status = Path(f"/proc/{gateway.process.pid}/status").read_text()
                peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) // 1024)
                await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port.number}/webhooks/elevenlabs"
            async with session.post(url, data=pieces(), headers=signed("elevenlabs", body)) as response:
                assert response.status == 200, await response.text()
        watching.cancel()
    (file,) = (tmp_path / "recordings").rglob("*.mp3")
    assert file.read_bytes() == audio
    assert peak < 110, f"{peak} MB"
    port.close()
