"""The listener of webhooks: verified, durable, answered as the provider counts it."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict

from gateway.intake.accept import Redactions
from gateway.webhooks.providers import PROVIDERS
from spool.records import Fragment, OwnedCall
from tests.webhooks.senders import PUBLIC_URL, SECRET, Listener, body_of, listening, signing_secret
from uploaders.recordings import DirectoryRecordings
from uploaders.redaction.options import Detector, Redaction

KEPT = [
    (name, kind)
    for name, provider in PROVIDERS.items()
    for kind, sample in provider.samples.items()
    if provider.adapt(sample).event != "webhook"
]


def sample(name: str, kind: str | None = None) -> bytes:
    provider = PROVIDERS[name]
    return body_of(provider, provider.samples[kind or provider.sample])


@pytest.mark.parametrize(("name", "kind"), KEPT, ids=lambda value: value)
async def test_a_genuine_webhook_is_durable_and_answered_200(tmp_path: Path, name: str, kind: str) -> None:
    """200 and not 202: ElevenLabs and Telnyx count nothing else as success. The original is kept whole."""
    async with listening(tmp_path) as listener:
        body = sample(name, kind)
        reply = await listener.push(name, body)
        assert reply.status == 200, reply.raw
        assert reply.json["success"] is True
        record = (await listener.world.only_record(reply.json["call_id"])).record
        stored = await listener.world.stored(record)
        assert (b'"original":' + body if name != "twilio" else json.dumps(body.decode()).encode()) in stored
        assert listener.counted(name, "accepted") == 1


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_wrong_signature_is_401_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    """What is not known to be genuine is refused with the reason, counted, and not kept."""
    async with listening(tmp_path) as listener:
        wrong = "h4uYEUEQY5KyCkRXvAQDsAxJvjMjkqoPYxeVBsA+0S4="
        assert (await listener.push(name, sample(name), secret=wrong)).code == "bad_signature"
        reply = await listener.send(f"/webhooks/{name}", sample(name), {})
        assert (reply.status, reply.code) == (401, "missing_signature")
        assert listener.counted(name, "bad_signature") == listener.counted(name, "missing_signature") == 1
        assert (await listener.world.spool.trace("conv_01")) == ()


async def test_a_stale_signature_says_how_far_off_it_is(tmp_path: Path) -> None:
    """An operator sees which clock is wrong, in the answer and in the gauge."""
    async with listening(tmp_path) as listener:
        reply = await listener.push("elevenlabs", sample("elevenlabs"), at=listener.now - 3600)
        assert (reply.status, reply.code) == (401, "stale_signature")
        assert "3600 s ago" in reply.json["error"]["message"]
        await listener.push("elevenlabs", sample("elevenlabs"), at=listener.now - 42)
        value = listener.world.metrics.registry.get_sample_value(
            "callspool_webhook_clock_skew_seconds", {"source": "elevenlabs"}
        )
        assert value == 42


async def test_without_a_secret_the_provider_is_to_try_again(tmp_path: Path) -> None:
    """A 401 would end the provider's attempts: nothing that may be genuine is refused for a gap of ours."""
    async with listening(tmp_path, secrets={"retell": ()}) as listener:
        reply = await listener.push("retell", sample("retell"))
        assert (reply.status, reply.code) == (503, "no_secret")
        assert reply.headers["Retry-After"]


async def test_a_secret_is_replaced_without_a_gap(tmp_path: Path) -> None:
    """Old and new are accepted while both are configured."""
    async with listening(tmp_path, secrets={"retell": ("old-secret-of-the-webhooks", SECRET)}) as listener:
        body = sample("retell")
        assert (await listener.push("retell", body)).status == 200
        assert (await listener.push("retell", body, secret="old-secret-of-the-webhooks")).json["duplicate"] is True


async def test_an_attempt_that_is_made_again_is_a_duplicate_although_the_body_differs(tmp_path: Path) -> None:
    """Vapi signs the addresses in its bodies anew for each attempt."""
    async with listening(tmp_path) as listener:
        first = await listener.push("vapi", sample("vapi"))
        again = await listener.push("vapi", sample("vapi").replace(b"call-01.wav", b"call-01.wav?X-Signature=2"))
        assert again.json == {**first.json, "duplicate": True}
        assert listener.counted("vapi", "duplicate") == 1


async def test_a_question_is_never_acknowledged(tmp_path: Path) -> None:
    """A success of ours would be taken for the tool's result."""
    async with listening(tmp_path) as listener:
        reply = await listener.push("vapi", sample("vapi", "tool-calls"))
        assert (reply.status, reply.code) == (501, "needs_answer")
        assert listener.counted("vapi", "needs_answer") == 1


Serve = Callable[[web.Application], Awaitable[TestServer]]
"""What `aiohttp_server` is."""


@pytest.fixture
async def passing_on(tmp_path: Path, aiohttp_server: Serve) -> AsyncIterator[tuple[Listener, list[bytes]]]:
    """A listener, and what it asked a server that answers with bytes that no JSON library would write."""
    app, asked = web.Application(), []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.read())
        body = b'{ "results" : [ 1.0,  "\xc3\xa9" ] }\n'
        return web.Response(status=201, body=body, headers={"Content-Type": "application/json", "X-Mine": "1"})

    app.router.add_post("/tools", answer)
    server = await aiohttp_server(app)
    async with listening(tmp_path, forward_url=str(server.make_url("/tools"))) as listener:
        yield listener, asked


async def test_the_answer_to_a_question_is_passed_on_as_it_is(passing_on: tuple[Listener, list[bytes]]) -> None:
    """Byte for byte, with status and headers; the question too. Nothing of it is spooled."""
    listener, asked = passing_on
    body = sample("vapi", "tool-calls")
    reply = await listener.push("vapi", body)
    assert (reply.status, reply.raw) == (201, b'{ "results" : [ 1.0,  "\xc3\xa9" ] }\n')
    assert reply.headers["X-Mine"] == "1"
    assert asked == [body]
    assert await listener.world.spool.trace("call-01") == ()


async def test_a_question_that_came_compressed_is_passed_on_as_what_it_is(
    passing_on: tuple[Listener, list[bytes]],
) -> None:
    """Its body is decoded to be verified, so no header may say that it is compressed."""
    listener, asked = passing_on
    body = sample("vapi", "tool-calls")
    headers = PROVIDERS["vapi"].scheme.sign(signing_secret("vapi"), body, listener.now, f"{PUBLIC_URL}/webhooks/vapi")
    reply = await listener.send("/webhooks/vapi", gzip.compress(body), {**headers, "Content-Encoding": "gzip"})
    assert (reply.status, asked) == (201, [body])


async def test_the_cookie_of_one_answer_does_not_go_with_another_question(
    tmp_path: Path, aiohttp_server: Serve
) -> None:
    """Each question is of a call of its own: a session that the server began with one is none of the next."""
    app, cookies = web.Application(), []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        return web.Response(headers=CIMultiDict((("Set-Cookie", "session=of-call-01; Path=/"), ("Set-Cookie", "a=b"))))

    app.router.add_post("/tools", answer)
    server = await aiohttp_server(app)
    async with listening(tmp_path, forward_url=f"http://localhost:{server.port}/tools") as listener:
        for _ in range(2):
            reply = await listener.push("vapi", sample("vapi", "tool-calls"))
            assert CIMultiDict(reply.headers).getall("Set-Cookie") == ["session=of-call-01; Path=/", "a=b"]
        assert cookies == [None, None]
        assert listener.world.counted("webhook", "answered") == 2


async def test_a_question_that_leads_back_is_refused(tmp_path: Path, aiohttp_server: Serve) -> None:
    """Who is asked learns who asks: a gateway that is its own `forward_url` would ask itself without end."""
    app = web.Application()

    async def pass_back(request: web.Request) -> web.Response:
        """A proxy before the gateway itself."""
        reply = await listener.send("/webhooks/vapi", await request.read(), request.headers)
        return web.Response(status=reply.status, body=reply.raw)

    app.router.add_post("/tools", pass_back)
    server = await aiohttp_server(app)
    async with listening(tmp_path, forward_url=str(server.make_url("/tools"))) as listener:
        reply = await listener.push("vapi", sample("vapi", "tool-calls"))
        assert (reply.status, reply.code) == (508, "loop_detected")


async def test_who_cannot_be_asked_is_said(tmp_path: Path, unused_tcp_port: int) -> None:
    """A server that is down is a 502: never a success."""
    async with listening(tmp_path, forward_url=f"http://127.0.0.1:{unused_tcp_port}/tools") as listener:
        reply = await listener.push("vapi", sample("vapi", "tool-calls"))
        assert (reply.status, reply.code) == (502, "forward_failed")


async def test_who_answers_too_late_is_said(tmp_path: Path, aiohttp_server: Serve) -> None:
    """The provider gives up after some seconds, so it is told before."""
    app, forever = web.Application(), asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        await forever.wait()
        return web.Response()

    app.router.add_post("/tools", answer)
    server = await aiohttp_server(app)
    url = str(server.make_url("/tools"))
    async with listening(tmp_path, forward_url=url, forward_timeout=0.2) as listener:
        reply = await listener.push("vapi", sample("vapi", "tool-calls"))
        forever.set()
        assert (reply.status, reply.code) == (504, "forward_failed")


async def test_what_comes_many_times_a_second_is_acknowledged_and_not_kept(tmp_path: Path) -> None:
    """`speech-update` and its like say nothing that the report at the end does not."""
    async with listening(tmp_path) as listener:
        body = json.dumps({"message": {"type": "speech-update", "call": {"id": "call-01"}}}).encode()
        reply = await listener.push("vapi", body)
        assert reply.json == {"success": True, "ignored": True}
        assert listener.counted("vapi", "ignored") == 1
        assert await listener.world.spool.trace("call-01") == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'"text"',
        b"{}",
        b'{"type":"new_kind_of_event","data":{"conversation_id":"c9"}}',
        b'{"type":"post_call_transcription","data":{"conversation_id":"' + b"x" * 600 + b'"}}',
        b"\xff\xfe\x00",
        b'\xef\xbb\xbf{"type":"x"}',
        b"[" * 5000,
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_a_genuine_body_is_never_refused_for_its_content(tmp_path: Path, body: bytes) -> None:
    """Unknown types, no id, no JSON: it is kept and counted."""
    async with listening(tmp_path) as listener:
        reply = await listener.push("elevenlabs", body)
        assert reply.status == 200, reply.raw
        record = (await listener.world.only_record(reply.json["call_id"])).record
        assert record.event == "webhook"


@pytest.mark.parametrize("size", [0, 2 << 20], ids=["small", "large"])
async def test_a_byte_order_mark_costs_no_call_its_name(tmp_path: Path, size: int) -> None:
    """Some libraries write one; the original is kept as JSON without it."""
    async with listening(tmp_path) as listener:
        call = {"call_id": "c1", "noise": ["x" * 1000] * (size // 1000)}
        body = json.dumps({"event": "call_ended", "call": call}).encode()
        reply = await listener.push("retell", b"\xef\xbb\xbf" + body)
        record = (await listener.world.only_record("c1")).record
        assert (reply.status, record.event) == (200, "call_ended")
        assert b'"original":' + body in await listener.world.stored(record)


async def test_a_form_with_an_id_that_names_no_call_is_kept_too(tmp_path: Path) -> None:
    """An id that is too long costs the name, and not the event."""
    async with listening(tmp_path) as listener:
        reply = await listener.push("twilio", b"CallSid=" + b"x" * 600 + b"&CallStatus=completed")
        assert reply.status == 200, reply.raw
        assert reply.json["call_id"].startswith("unknown-")


async def test_a_full_spool_is_503_with_a_time(tmp_path: Path) -> None:
    """No provider repeats a 507."""
    async with listening(tmp_path, spool_max=4 << 20) as listener:
        noise = Random(1)
        statuses = set()
        for number in range(12):
            body = {"event": "call_ended", "call": {"call_id": f"c{number}", "noise": noise.randbytes(400_000).hex()}}
            reply = await listener.push("retell", json.dumps(body).encode())
            statuses.add((reply.status, reply.headers.get("Retry-After") is not None))
        assert (503, True) in statuses
        assert statuses <= {(200, False), (503, True)}


async def test_a_compressed_body_is_verified_as_it_was_before(tmp_path: Path) -> None:
    """Providers sign what they wrote; a proxy between may compress it."""
    async with listening(tmp_path) as listener:
        body = sample("retell")
        headers = PROVIDERS["retell"].scheme.sign(signing_secret("retell"), body, listener.now)
        reply = await listener.send("/webhooks/retell", gzip.compress(body), headers, content_encoding="gzip")
        assert reply.status == 200


async def test_the_listener_serves_no_other_route(tmp_path: Path) -> None:
    """Providers come from outside; the intake shows calls."""
    async with listening(tmp_path) as listener:
        await listener.push("retell", sample("retell"))
        base = f"http://127.0.0.1:{listener.server.port}"
        for method, path in (
            ("GET", "/v1/calls/call_01"),
            ("POST", "/v1/calls"),
            ("POST", "/dev/send-call-log"),
            ("POST", "/dev/get-upload-url"),
            ("POST", "/webhooks/retell/x"),
            ("POST", "/webhooks/"),
            ("GET", "/metrics"),
        ):
            assert (await listener.world.ask(method, base + path, b"{}")).status == 404, path
        assert (await listener.world.ask("GET", f"{base}/webhooks/retell")).status == 405


async def test_audio_becomes_a_file_that_the_call_log_refers_to(tmp_path: Path) -> None:
    """The recording is durable before the answer, and the original keeps everything but its text."""
    audio = Random(7).randbytes(3_000_001)
    body = json.dumps(
        {
            "type": "post_call_audio",
            "event_timestamp": 1739537319,
            "data": {"full_audio": base64.b64encode(audio).decode(), "conversation_id": "conv/../01", "agent_id": "a"},
        }
    ).encode()
    async with listening(tmp_path / "spool", store=DirectoryRecordings(tmp_path / "recordings")) as listener:
        reply = await listener.push("elevenlabs", body)
        assert reply.status == 200, reply.raw
        (file,) = (tmp_path / "recordings").rglob("*.mp3")
        assert file.read_bytes() == audio
        record = (await listener.world.only_record("conv/../01")).record
        call_log = json.loads(await listener.world.stored(record))
        assert call_log["recording_url"] == file.as_uri()
        assert call_log["original"]["data"] == {"full_audio": None, "conversation_id": "conv/../01", "agent_id": "a"}
        again = await listener.push("elevenlabs", body)
        assert again.json["duplicate"] is True


async def test_audio_of_a_call_that_was_erased_is_not_kept(tmp_path: Path) -> None:
    """Its call log is refused, so nobody would know of the recording: nothing of it is written, not even a name."""
    audio = base64.b64encode(Random(7).randbytes(300_000)).decode()
    body = {"type": "post_call_audio", "event_timestamp": 1, "data": {"conversation_id": "c", "full_audio": audio}}
    async with listening(tmp_path / "spool", store=DirectoryRecordings(tmp_path / "recordings")) as listener:
        await listener.world.spool.erasures.order([OwnedCall("c")])
        assert (await listener.push("elevenlabs", json.dumps(body).encode())).status == 410
        assert not list((tmp_path / "recordings").rglob("*"))


class ErasedMeanwhile(DirectoryRecordings):
    """Keeps what it is given while its call is erased."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.erase_it: Callable[[], Awaitable[None]] | None = None

    async def put(self, name: str, content_type: str, chunks: AsyncIterator[bytes]) -> str:
        async def slowly() -> AsyncIterator[bytes]:
            async for chunk in chunks:
                assert self.erase_it is not None
                await self.erase_it()
                yield chunk

        return await super().put(name, content_type, slowly())


async def test_audio_of_a_call_that_is_erased_while_it_is_written_is_not_kept(tmp_path: Path) -> None:
    """The order has looked for recordings by then."""
    audio = base64.b64encode(Random(7).randbytes(300_000)).decode()
    body = {"type": "post_call_audio", "event_timestamp": 1, "data": {"conversation_id": "c", "full_audio": audio}}
    store = ErasedMeanwhile(tmp_path / "recordings")
    async with listening(tmp_path / "spool", store=store) as listener:
        store.erase_it = lambda: listener.world.spool.erasures.order([OwnedCall("c")])
        assert (await listener.push("elevenlabs", json.dumps(body).encode())).status == 410
        assert not [path for path in (tmp_path / "recordings").rglob("*") if path.is_file()]


@pytest.mark.parametrize("audio", ["not base64!", 7, None])
async def test_audio_that_is_none_stays_in_the_call_log(tmp_path: Path, audio: object) -> None:
    """Nothing is lost where the text is no base64."""
    body = {"type": "post_call_audio", "event_timestamp": 1, "data": {"conversation_id": "c", "full_audio": audio}}
    async with listening(tmp_path / "spool", store=DirectoryRecordings(tmp_path / "recordings")) as listener:
        assert (await listener.push("elevenlabs", json.dumps(body).encode())).status == 200
        record = (await listener.world.only_record("c")).record
        assert json.loads(await listener.world.stored(record))["original"] == body
        assert not list((tmp_path / "recordings").rglob("*.mp3*"))


async def test_audio_that_cannot_be_kept_stays_in_the_call_log(tmp_path: Path) -> None:
    """No provider sends audio twice: a directory that cannot be written to loses none."""
    (tmp_path / "recordings").write_text("a file is in the way")
    text = base64.b64encode(b"audio").decode()
    body = {"type": "post_call_audio", "event_timestamp": 1, "data": {"conversation_id": "c", "full_audio": text}}
    async with listening(tmp_path / "spool", store=DirectoryRecordings(tmp_path / "recordings")) as listener:
        assert (await listener.push("elevenlabs", json.dumps(body).encode())).status == 200
        record = (await listener.world.only_record("c")).record
        assert json.loads(await listener.world.stored(record))["original"] == body


async def test_a_large_report_is_split_like_any_call_log(tmp_path: Path) -> None:
    """What does not fit into a core goes to the detail."""
    async with listening(tmp_path) as listener:
        call = {"call_id": "large", "noise": Random(3).randbytes(3_500_000).hex()}
        reply = await listener.push("retell", json.dumps({"event": "call_ended", "call": call}).encode())
        assert reply.status == 200
        record = (await listener.world.only_record("large")).record
        assert Fragment.REST in record.fragments


async def test_what_a_provider_dropped_is_counted(tmp_path: Path) -> None:
    """LiveKit says itself how many webhooks it gave up."""
    async with listening(tmp_path) as listener:
        await listener.push("livekit", sample("livekit"))
        name = "callspool_webhook_provider_dropped_total"
        assert listener.world.metrics.registry.get_sample_value(name, {"source": "livekit"}) == 2


async def test_a_count_below_zero_lowers_no_counter(tmp_path: Path) -> None:
    """What was counted before is still counted; the webhook is accepted."""
    body = json.dumps({**json.loads(sample("livekit")), "id": "another", "numDropped": -1}).encode()
    async with listening(tmp_path) as listener:
        await listener.push("livekit", sample("livekit"))
        assert (await listener.push("livekit", body)).status == 200
        name = "callspool_webhook_provider_dropped_total"
        assert listener.world.metrics.registry.get_sample_value(name, {"source": "livekit"}) == 2


async def test_made_up_types_do_not_fill_the_metrics(tmp_path: Path) -> None:
    """The labels of a source are bounded, whatever a sender calls its events."""
    async with listening(tmp_path) as listener:
        for number in range(80):
            await listener.push("retell", json.dumps({"event": f"e{number}"}).encode())
        family = next(f for f in listener.world.metrics.registry.collect() if f.name == "callspool_webhooks")
        assert len(family.samples) == 65


async def test_only_what_is_genuine_is_read_to_its_end(tmp_path: Path) -> None:
    """A request without a signature is refused before its body came."""
    async with listening(tmp_path) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.server.port)
        writer.write(b"POST /webhooks/retell HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        async with asyncio.timeout(5):
            assert b" 401 " in await reader.readline()
        writer.close()


async def test_a_webhook_is_redacted_before_it_is_kept(tmp_path: Path) -> None:
    """The provider's original, too, which is kept whole otherwise."""
    rules = Redactions(Redaction((Detector.CARD,)))
    async with listening(tmp_path, redactions=rules) as listener:
        provider = PROVIDERS["vapi"]
        sample = provider.samples[provider.sample]
        assert isinstance(sample, dict)
        body = body_of(provider, {**sample, "note": "4111 1111 1111 1111"})
        reply = await listener.push("vapi", body)
        assert reply.status == 200, reply.raw
        stored = await listener.world.stored((await listener.world.only_record(reply.json["call_id"])).record)
        assert b"4111 1111" not in stored
        assert b"[card]" in stored
