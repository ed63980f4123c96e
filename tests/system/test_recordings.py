"""Recordings of webhooks: real gateways, a real server that holds them, a real S3 server, and kills in the middle."""

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from random import Random

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.endpoint import Endpoint
from bench.s3_server import Server
from gateway.webhooks.providers import PROVIDERS
from tests.s3.stored_objects import client_of
from tests.system import preloaded
from tests.system.gateway_process import GatewayProcess, ReservedPort
from tests.system.waiting import until

SECRET = "a-secret-of-more-than-thirty-two-characters"
AUDIO = Random(11).randbytes(20 << 20)
"""More than two parts of an object."""


class Recordings:
    """A provider's server of recordings. It counts who asks, and stops in the middle of an answer where told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.statuses: list[int] = []
        self.stalls = asyncio.Event()
        self.stalled = asyncio.Event()
        app = web.Application()
        app.router.add_get("/{name}", self._give)
        self.server = TestServer(app)

    def url(self, name: str) -> str:
        return str(self.server.make_url(f"/{name}"))

    async def _give(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        if request.match_info["name"] == "moved.mp3":
            raise web.HTTPFound(self.url("call.mp3"))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), headers={"Retry-After": "0"})
        response = web.StreamResponse(headers={"Content-Type": "audio/mpeg"})
        response.content_length = len(AUDIO)
        await response.prepare(request)
        await response.write(AUDIO[: 9 << 20])
        if self.stalls.is_set():
            self.stalled.set()
            await asyncio.sleep(3600)
        await response.write(AUDIO[9 << 20 :])
        return response


@pytest.fixture
async def provider() -> AsyncIterator[Recordings]:
    recordings = Recordings()
    await recordings.server.start_server()
    yield recordings
    await recordings.server.close()


class Copying:
    """A gateway whose source `retell` copies recordings, beside an endpoint."""

    def __init__(self, folder: Path, endpoint: Endpoint, more: str = "", hosts: str = '["127.0.0.1"]') -> None:
        self.port = ReservedPort()
        settings = f"""
            [webhooks]
            listen = "127.0.0.1:{self.port.number}"
            recording_hosts = {hosts}
            {more}

            [[sources]]
            name = "retell"
            provider = "retell"
            secrets = ["{SECRET}"]
            recordings = "copy"

            [[sources]]
            name = "elevenlabs"
            provider = "elevenlabs"
            secrets = ["{SECRET}"]
            """
        environment = {
            "CALLSPOOL_ENDPOINT_URL": endpoint.url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.endpoint = endpoint
        self.gateway = GatewayProcess(folder / "gateway", environment, settings=settings)

    async def push(self, source: str, body: bytes) -> None:
        headers = {"Content-Type": "application/json", **PROVIDERS[source].scheme.sign(SECRET, body, time.time())}
        url = f"http://127.0.0.1:{self.port.number}/webhooks/{source}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=io.BytesIO(body), headers=headers) as response,
        ):
            assert response.status == 200, await response.text()

    async def call(self, event: str, recording: str, call_id: str = "call-1") -> None:
        call = {"call_id": call_id, "agent_id": "a", "recording_url": recording}
        await self.push("retell", json.dumps({"event": event, "call": call}).encode())

    async def erase(self, call_id: str) -> None:
        """Erase a call everywhere; at the endpoint nobody can, and the command says so."""
        gateway = self.gateway
        environment = {**gateway.operators_environment, **gateway.environment}
        _, output = await preloaded.run(
            "erase", "--json", "--call-id", call_id, *gateway.admin, environment=environment
        )
        assert b"recordings" in output, output

    def updates(self) -> list[Mapping[str, object]]:
        """The updates that arrived at the endpoint."""
        arrived = self.endpoint.call_logs
        return [each for each in arrived if each.get("wcall_event") == "recording_ready"]

    async def updated(self) -> Mapping[str, object]:
        """The only update, once it has arrived."""

        async def there() -> bool:
            return bool(self.updates())

        await until(there, "the update with the recording's address arrives")
        await self.gateway.delivered()
        (update,) = self.updates()
        return update


def into_bucket(server: Server, bucket: str) -> str:
    """A destination beside the endpoint, into which recordings are copied."""
    return f"""
            [[destinations]]
            name = "bucket"
            type = "s3"
            bucket = "{bucket}"
            endpoint_url = "{server.endpoint}"
            notify = "endpoint"
            """


@pytest.mark.slow
async def test_a_recording_is_fetched_once_kept_as_a_file_and_announced(tmp_path: Path, provider: Recordings) -> None:
    """Two events of a call refer to it, signed anew; it is not there at first; a redirect leads to it."""
    provider.statuses = [404, 503]
    async with Endpoint() as endpoint:
        copying = Copying(tmp_path, endpoint, f'recordings = "{tmp_path / "kept"}"')
        async with copying.gateway as gateway:
            await copying.call("call_ended", provider.url("moved.mp3") + "?X-Amz-Signature=1&track=2")
            update = await copying.updated()
            asked = len(provider.asked)
            await copying.call("call_analyzed", provider.url("moved.mp3") + "?X-Amz-Signature=2&track=2")
            await gateway.delivered()
            assert await gateway.metric("callspool_unaccounted_records") == 0
            (file,) = (path for path in (tmp_path / "kept").rglob("*") if path.is_file())
            assert file.read_bytes() == AUDIO
            await copying.erase("another")
            assert file.exists()
            await copying.erase("call-1")
            assert not file.exists()
        assert file.parent.parts[-2:] == ("retell", "call-1")
        assert update == {
            "call_id": "call-1",
            "wcall_event": "recording_ready",
            "agent_id": "a",
            "recording_url": file.as_uri(),
            "recording_type": "audio/mpeg",
            "source": {"name": "retell", "provider": "retell", "type": "recording_copied"},
        }
        assert len(provider.asked) == asked, "what is kept is not fetched again"
        assert len(copying.updates()) == 1
    copying.port.close()


@pytest.mark.slow
async def test_a_kill_in_the_middle_of_a_recording_loses_nothing(
    tmp_path: Path, provider: Recordings, weed: Server, bucket: str
) -> None:
    """Killed with one part in the bucket, it is fetched again after the start; nothing of the first attempt is left."""
    async with Endpoint() as endpoint, client_of(weed) as client:
        copying = Copying(tmp_path, endpoint, into_bucket(weed, bucket))
        provider.stalls.set()
        async with copying.gateway as gateway:
            await copying.call("call_ended", provider.url("call.mp3"))
            await provider.stalled.wait()

            async def under_way() -> bool:
                listed = await client.list_multipart_uploads(Bucket=bucket)
                return bool(listed.get("Uploads"))

            await until(under_way, "a part is in the bucket")
            await gateway.kill()
            provider.stalls.clear()
            await gateway.start()
            update = await copying.updated()
            assert not await under_way()
            assert await gateway.metric("callspool_unaccounted_records") == 0
            address = str(update["recording_url"])
            assert address.startswith(f"s3://{bucket}/callspool/recordings/")
            stored = await client.get_object(Bucket=bucket, Key=address.removeprefix(f"s3://{bucket}/"))
            assert (await stored["Body"].read(), stored["ContentType"]) == (AUDIO, "audio/mpeg")
            await copying.erase("call-1")
            assert not (await client.list_objects_v2(Bucket=bucket, Prefix="callspool/recordings/")).get("Contents")
    copying.port.close()


@pytest.mark.slow
async def test_audio_inside_of_a_webhook_goes_to_the_bucket(tmp_path: Path, weed: Server, bucket: str) -> None:
    """Base64 of more than one part; what is no base64 in its middle stays in the call log and leaves no part."""
    async with Endpoint() as endpoint, client_of(weed) as client:
        copying = Copying(tmp_path, endpoint, into_bucket(weed, bucket))
        async with copying.gateway as gateway:
            text = base64.b64encode(AUDIO).decode()
            for call_id, audio in (("good", text), ("bad", text[: 16 << 20] + "!" + text[(16 << 20) + 1 :])):
                data = {"conversation_id": call_id, "full_audio": audio}
                event = {"type": "post_call_audio", "event_timestamp": 1, "data": data}
                await copying.push("elevenlabs", json.dumps(event).encode())
            await gateway.delivered()
        (update,) = (each for each in copying.updates() if each["call_id"] == "good")
        address = str(update["recording_url"])
        stored = await client.get_object(Bucket=bucket, Key=address.removeprefix(f"s3://{bucket}/"))
        assert await stored["Body"].read() == AUDIO
        listed = await client.list_objects_v2(Bucket=bucket, Prefix="callspool/recordings/")
        assert [each["Key"] for each in listed["Contents"]] == [address.removeprefix(f"s3://{bucket}/")]
        assert not (await client.list_multipart_uploads(Bucket=bucket)).get("Uploads")
    copying.port.close()


@pytest.mark.slow
async def test_no_recording_is_fetched_from_inside_the_network(tmp_path: Path, provider: Recordings) -> None:
    """A provider that was taken over cannot have the gateway ask loopback: by number, by name, or by a redirect."""
    async with Endpoint() as endpoint:
        copying = Copying(tmp_path, endpoint, f'recordings = "{tmp_path / "kept"}"', hosts="[]")
        async with copying.gateway as gateway:
            port = provider.server.port
            for number, host in enumerate(("127.0.0.1", "localhost", "[::1]", "2130706433", "169.254.169.254")):
                await copying.call("call_ended", f"http://{host}:{port}/call.mp3", f"call-{number}")

            async def refused() -> bool:
                errors = []
                for number in range(5):
                    (record,) = await gateway.trace(f"call-{number}")
                    errors += [each["error"] for each in record["deliveries"] if each["destination"] == "recordings"]
                return len(errors) == 5 and all("leads to" in (error or "") for error in errors)

            await until(refused, "each is refused for its host")
        assert provider.asked == []
    copying.port.close()
