"""What is refused, with which status and code, and what a sender is told to do about it."""

import base64
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Never

import aiohttp
import pytest
import zstandard

from gateway.intake.body_reader import BodyLimits
from gateway.intake.decoding import DecodingLimits
from spool.errors import SpoolUnavailable
from spool.records import NewRecord
from tests.intake.bodies import call_log, envelope, incompressible, raw_deflate
from tests.intake.running_intake import RunningIntake, running

GZIPPED = gzip.compress(call_log(size=5_000), mtime=0)
ON_THE_SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")
ZSTD = zstandard.ZstdCompressor().compress(call_log(size=5_000))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "not_json"),
        (b"{", 400, "not_json"),
        (b"hello", 400, "not_json"),
        (b'{"call_id": "a"} x', 400, "not_json"),
        (b'{"call_id": "a", "n": 01}', 400, "not_json"),
        (b"[]", 400, "not_an_object"),
        (b'"text"', 400, "not_an_object"),
        (b"NaN", 400, "not_an_object"),
        (b'{"call_id": "a", "t": "\xff"}', 400, "not_utf8"),
        (b'{"call_id": "a", "t": ' + b"[" * 200_000, 400, None),
        (b"{}", 422, "no_call_id"),
        (b'{"call_id": null}', 422, "no_call_id"),
        (b'{"call_id": ""}', 422, "no_call_id"),
        (b'{"call_id": ["a"]}', 422, "bad_call_id"),
        (b'{"call_id": true}', 422, "bad_call_id"),
        (b'{"call_id": "\\ud800"}', 422, "bad_call_id"),
        (b'{"call_id": "%b"}' % (b"x" * 2000), 422, "bad_call_id"),
        (b'{"compressed": true, "data": 1}', 400, "bad_envelope"),
        (b'{"compressed": true, "data": "%%%%"}', 400, "bad_encoding"),
        (b'{"compressed": true, "data": "AAA"}', 400, "bad_encoding"),
        (b'{"compressed": true, "data": ""}', 400, "bad_encoding"),
        (b'{"compressed": true, "data": "AAAA"}', 400, "bad_encoding"),
        (b'{"compressed": true, "data": "\\u00e9"}', 400, "bad_encoding"),
        (b'{"compressed": true, "data": "AA==AAAA"}', 400, "bad_encoding"),
        (envelope(call_log(size=5_000))[:-20] + b'"}', 400, "bad_encoding"),
        (envelope(b"[1]"), 400, "not_an_object"),
        (envelope(b"{}"), 422, "no_call_id"),
        (envelope(envelope(call_log())), 400, "bad_envelope"),
    ],
)  # fmt: skip
@ON_THE_SHARED_LOOP
async def test_bodies_that_are_no_call_log(shared: RunningIntake, body: bytes, status: int, code: str | None) -> None:
    """A broken body is 400, sound JSON without a usable call_id 422; nothing of it is kept."""
    reply = await shared.post(body)
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json["success"] is False
    assert code in {None, reply.code}
    assert reply.json["error"]["message"]
    assert reply.json["error"]["hint"]
    assert shared.intake.budget.used_bytes == 0


@pytest.mark.parametrize(
    ("coding", "body", "code"),
    [
        ("gzip", b"", "bad_encoding"),
        ("gzip", call_log(), "bad_encoding"),
        ("gzip", GZIPPED[:-9], "bad_encoding"),
        ("gzip", GZIPPED[:500] + b"\0\0\0" + GZIPPED[503:], "bad_encoding"),
        ("gzip", GZIPPED + b"garbage", "bad_encoding"),
        ("gzip", GZIPPED[:-8] + b"\0" * 8, "bad_encoding"),
        ("deflate", b"", "bad_encoding"),
        ("deflate", zlib.compress(call_log())[:-5], "bad_encoding"),
        ("deflate", zlib.compress(call_log()) + b"x", "bad_encoding"),
        ("deflate", raw_deflate(call_log()) + b"x", "bad_encoding"),
        ("deflate", b"\xff\xff", "bad_encoding"),
        ("zstd", b"", "bad_encoding"),
        ("zstd", call_log(), "bad_encoding"),
        ("zstd", ZSTD[:-5], "bad_encoding"),
        ("zstd", ZSTD + b"garbage", "bad_encoding"),
        ("zstd", ZSTD[:40] + b"\xff\xff\xff" + ZSTD[43:], "bad_encoding"),
        ("gzip, zstd", ZSTD, "bad_encoding"),
    ],
)
@ON_THE_SHARED_LOOP
async def test_broken_encodings_are_400_with_a_position(
    shared: RunningIntake, coding: str, body: bytes, code: str
) -> None:
    """Truncated data, garbage, and what follows the end are refused, saying where."""
    reply = await shared.post(body, content_encoding=coding)
    assert (reply.status, reply.code) == (400, code)
    assert "byte " in reply.json["error"]["message"]
    assert shared.intake.budget.used_bytes == 0


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, br", "gzip, gzip, gzip, gzip, gzip", "x" * 3000])
@ON_THE_SHARED_LOOP
async def test_unknown_encodings_are_415(shared: RunningIntake, coding: str) -> None:
    """An encoding that cannot be undone is refused without reading the body."""
    reply = await shared.post(call_log(), content_encoding=coding)
    assert (reply.status, reply.code) == (415, "unknown_encoding")


def _bomb(coding: str) -> bytes:
    zeros = b"\0" * (1 << 20)
    if coding == "zstd":
        compressor = zstandard.ZstdCompressor(level=3).compressobj()
        return b"".join(compressor.compress(zeros) for _ in range(100)) + compressor.flush()
    wanted = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    return b"".join(wanted.compress(zeros) for _ in range(100)) + wanted.flush()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
@ON_THE_SHARED_LOOP
async def test_bombs_are_refused(shared: RunningIntake, coding: str) -> None:
    """What decodes to more than a thousand times its size, beyond the first MiB, is no call log."""
    body = _bomb(coding)
    if coding != "zstd":
        body = gzip.compress(body)
        coding += ", gzip"
    reply = await shared.post(body, content_encoding=coding)
    assert (reply.status, reply.code) == (400, "decompression_bomb")
    await shared.until(lambda: not shared.staged_files())
    assert shared.intake.budget.used_bytes == 0


@ON_THE_SHARED_LOOP
async def test_a_bomb_in_an_envelope_is_refused(shared: RunningIntake) -> None:
    """The same holds for the envelope."""
    inner = base64.b64encode(gzip.compress(_bomb("gzip")))
    reply = await shared.post(b'{"compressed": true, "data": "%b"}' % inner)
    assert reply.status == 400


async def test_a_limit_is_only_there_if_it_is_set(tmp_path: Path) -> None:
    """413 is for configured limits: on the wire, with or without a length, and decoded."""
    bodies, decoding = BodyLimits(body_max=100_000), DecodingLimits(decoded_max=200_000)
    body = call_log(size=150_000)

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    async with running(tmp_path, bodies=bodies, decoding=decoding) as world:
        for sent, coding in ((body, None), (chunks(), None), (gzip.compress(call_log(size=210_000)), "gzip")):
            reply = await world.post(sent, content_encoding=coding)
            assert (reply.status, reply.code) == (413, "too_large")
        assert world.intake.budget.used_bytes == 0
        assert (await world.post(gzip.compress(body), content_encoding="gzip")).status == 202


async def test_a_staged_body_without_length_keeps_to_the_limit(tmp_path: Path) -> None:
    """A limit above inline_max is found out while the body is staged."""
    async with running(tmp_path, bodies=BodyLimits(inline_max=100_000, body_max=3_000_000)) as world:

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"x" * 500_000

        assert (await world.post(chunks())).status == 413
        await world.until(lambda: not world.staged_files())


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("POST", "/", 404, None),
        ("POST", "/v1", 404, None),
        ("POST", "/send-call-logs", 404, None),
        ("GET", "/uploads", 404, None),
        ("GET", "/dev/send-call-log", 405, "POST"),
        ("PUT", "/dev/send-call-log", 405, "POST"),
        ("HEAD", "/v1/calls", 405, "POST"),
        ("POST", "/v1/calls/some-call", 405, "GET"),
        ("POST", "/uploads/secret", 405, "PUT"),
        ("GET", "/get-upload-url", 405, "POST"),
        ("GET", "/v1/calls/unknown", 404, None),
    ],
)
@ON_THE_SHARED_LOOP
async def test_wrong_paths_and_methods(
    shared: RunningIntake, method: str, path: str, status: int, allow: str | None
) -> None:
    """An unknown path is 404 with a hint that lists the routes, a wrong method 405 with Allow."""
    reply = await shared.ask(method, path, b"x" if method == "POST" else None)
    assert reply.status == status
    assert reply.headers.get("Allow") == allow
    if method != "HEAD":
        assert "hint" in reply.json["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-pype-token": "wrong"}, 401),
        ({"x-pype-token": "gate-key"}, 202),
        ({"X-Pype-Token": "gate-key"}, 202),
        ({"Authorization": "Bearer gate-key"}, 202),
        ({"Authorization": "bearer  gate-key "}, 202),
        ({"Authorization": "Basic gate-key"}, 401),
        ({"Authorization": "gate-key"}, 401),
        ({"x-pype-token": "agents-key", "Authorization": "Bearer gate-key"}, 202),
        ({"x-pype-token": "gät"}, 401),
    ],
)
async def test_the_intake_s_token_is_checked(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    """Where an intake token is set, a request without it is 401, in either of two headers."""
    async with running(tmp_path, token="gate-key") as world:
        for reply in (
            await world.post(call_log(), headers=headers),
            await world.ask("GET", "/v1/calls/call-1", headers=headers),
        ):
            assert reply.status == (status if status == 401 else reply.status)
        assert world.counted("send_call_log", "accepted" if status == 202 else "unauthorized") == 1


async def test_a_full_spool_is_507(tmp_path: Path) -> None:
    """A call log for which the quota has no room now is 507 with Retry-After, staged or not; nothing is kept."""
    async with running(tmp_path, spool_max=3_000_000, bodies=BodyLimits(inline_max=1_000_000)) as world:
        world.spool.reserve_staging(1_500_000)
        for body in (call_log("a", size=950_000, noise=incompressible(900_000)), call_log("b", size=2_000_000)):
            reply = await world.post(body)
            assert (reply.status, reply.code) == (507, "spool_full")
            assert reply.json["error"]["runbook"] == "docs/runbooks.md#the-spool-is-full"
            assert int(reply.headers["Retry-After"]) > 0
        assert await world.spool.trace("a") == ()
        await world.until(lambda: not world.staged_files())


QUOTA = 12_000_000


async def never(world: RunningIntake, way: str) -> tuple[int, str, str, bool]:
    """The status, code and message of a call log that could never be stored, and whether it is to be sent again."""
    body = call_log("a", noise=incompressible(18_000_000))
    match way:
        case "length":
            reply = await world.post(body)
        case "no length":
            reply = await world.post(aiohttp.payload.AsyncIterablePayload(pieces_of(body)))
        case "gzip":
            reply = await world.post(gzip.compress(body), content_encoding="gzip")
        case "envelope":
            reply = await world.post(envelope(body))
        case "upload":
            wanted = {"call_id": "a", "content_type": "application/json"}
            given = (await world.post(wanted, "/dev/get-upload-url")).json
            reply = await world.ask("PUT", given["upload_url"], body)
        case "line":
            reply = await world.post(call_log("small") + b"\n" + body, "/v1/calls/batch")
            first, second = (json.loads(line) for line in reply.raw.splitlines())
            assert first["status"] == 202
            return second["status"], second["error"]["code"], second["error"]["message"], "Retry-After" in reply.headers
        case "staged and stored":
            reply = await world.post(call_log("a", noise=incompressible(10_300_000)))
    return reply.status, reply.code, reply.json["error"]["message"], "Retry-After" in reply.headers


async def pieces_of(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 100_000):
        yield body[start : start + 100_000]


@pytest.mark.parametrize(
    ("way", "inline_max"),
    [
        ("length", 1_000_000), ("no length", 1_000_000), ("gzip", 1_000_000), ("envelope", 1_000_000),
        ("upload", 1_000_000), ("line", 1_000_000), ("staged and stored", 1_000_000),
    ],
)  # fmt: skip
async def test_what_could_never_be_stored_is_413(tmp_path: Path, way: str, inline_max: int) -> None:
    """A call log larger than the whole quota is refused by the limit's name, and not told to come back."""
    async with running(tmp_path, spool_max=QUOTA, bodies=BodyLimits(inline_max=inline_max)) as world:
        status, code, message, again = await never(world, way)
        assert (status, code, again) == (413, "larger_than_quota", False)
        assert any(f"allows {limit} for one" in message for limit in (QUOTA, QUOTA - QUOTA // 20))
        assert await world.spool.trace("a") == ()
        await world.until(lambda: not world.staged_files())
        assert (await world.post(call_log("b"))).status == 202


async def test_a_spool_that_is_closed_is_503(world: RunningIntake) -> None:
    """While the spool takes nothing, the sender is told to come back."""
    await world.spool.close()
    reply = await world.post(call_log())
    assert (reply.status, reply.code) == (503, "spool_unavailable")
    assert reply.headers["Retry-After"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("x"), SpoolUnavailable("disk"), MemoryError()])
async def test_nothing_answers_500(world: RunningIntake, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """An error that nobody foresaw is a 503, because the SDK keeps what met a 503 and drops what met a 500."""

    async def fail(_record: NewRecord) -> Never:
        raise error

    monkeypatch.setattr(world.spool, "accept", fail)
    reply = await world.post(call_log())
    assert reply.status == 503
    assert reply.headers["Retry-After"]
    assert "boom" not in reply.raw.decode()


async def test_a_shut_gate_is_503(world: RunningIntake) -> None:
    """A gateway that is not open answers 503 with Retry-After and ends the connection."""
    world.intake.gate.close()
    reply = await world.post(call_log())
    assert (reply.status, reply.code) == (503, "stopping")
    assert reply.headers["Retry-After"]
    assert reply.headers["Connection"] == "close"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/calls HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/calls HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
@ON_THE_SHARED_LOOP
async def test_broken_http_is_400_in_json(shared: RunningIntake, request_bytes: bytes) -> None:
    """What is no HTTP request is told so in JSON, and the connection ends."""
    before = shared.counted("none", "bad_request")
    answer = await shared.send_raw(request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/json" in head
    assert json.loads(body)["error"]["code"] == "bad_request"
    assert shared.counted("none", "bad_request") == before + 1


@ON_THE_SHARED_LOOP
async def test_secrets_are_not_repeated_in_refusals(shared: RunningIntake) -> None:
    """No answer quotes the body or a header."""
    reply = await shared.post(b'{"call_id": "a", "token": "s3cret", ]', headers={"x-pype-token": "s3cret"})
    assert reply.status == 400
    assert b"s3cret" not in reply.raw
