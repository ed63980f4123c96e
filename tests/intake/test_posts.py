"""What becomes of a call log that is posted."""

import asyncio
import gzip
import hashlib
import json
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zstandard

from gateway.intake.body_reader import BodyLimits
from spool.records import DeliveryState, Form, Fragment, Lane
from tests.intake.bodies import ENCODERS, call_log, envelope, incompressible, large_call_log, raw_deflate
from tests.intake.running_intake import DEADLINE, RunningIntake, running

ON_THE_SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("path", ["/send-call-log", "/dev/send-call-log", "/a/b/c/send-call-log/", "/v1/calls"])
async def test_every_path_for_posts_takes_a_call_log(world: RunningIntake, path: str) -> None:
    """A call log is accepted at the SDK's path under any prefix, and at /v1/calls."""
    reply = await world.post(call_log(), path)
    assert reply.status == 202
    assert (await world.only_record("call-1")).record.event == "call_ended"


async def test_the_answer_says_what_was_accepted(world: RunningIntake) -> None:
    """The answer holds exactly the published fields, as JSON with its content type."""
    body = call_log()
    reply = await world.post(body)
    record = (await world.only_record("call-1")).record
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json == {
        "success": True,
        "call_id": "call-1",
        "record_id": record.uid,
        "upload_method": "single",
        "duplicate": False,
        "sha256": hashlib.sha256(body).hexdigest(),
        "raw_bytes": len(body),
        "stored_bytes": record.stored_bytes,
        "phase_1_complete": False,
        "phase_2_started": False,
    }


async def test_the_bytes_are_kept_as_they_came(world: RunningIntake) -> None:
    """What is read back from the spool is, byte for byte, what was posted."""
    body = b'{ "call_id" : "call-1",\n "n": 1.10, "big": 12345678901234567890, "u": "\\u00e9\xc3\xa9" }'
    await world.post(body)
    assert await world.stored((await world.only_record("call-1")).record) == body


async def test_a_repeated_post_is_a_duplicate(world: RunningIntake) -> None:
    """The same call log posted again is acknowledged with the first one's record, and not stored."""
    first = await world.post(call_log())
    second = await world.post(call_log())
    assert second.status == 202
    assert second.json == {**first.json, "duplicate": True}
    await world.only_record("call-1")
    assert world.counted("send_call_log", "duplicate") == 1


async def test_a_phase_2_body_is_not_split_again(world: RunningIntake) -> None:
    """A detail that a gateway posts is kept as it came, however large: it has no core that could be made of it."""
    posted = json.loads(large_call_log())
    detail = {"call_id": "call-1", "update_type": "detailed_telemetry", "telemetry_data": posted["telemetry_data"]}
    body = json.dumps(detail).encode()
    reply = await world.post(body)
    assert (reply.status, reply.json["upload_method"]) == (202, "single")
    record = (await world.only_record("call-1")).record
    assert (record.event, list(record.fragments)) == ("call_detail", [Fragment.BODY])
    assert await world.stored(record) == body
    (delivery,) = (await world.only_record("call-1")).deliveries
    assert (delivery.form, delivery.lane) == (Form.WHOLE, Lane.DETAIL)


async def test_a_start_after_its_end_is_superseded(world: RunningIntake) -> None:
    """A call_started that comes after its call_ended is recorded and owed to nobody."""
    await world.post(call_log())
    reply = await world.post(call_log(wcall_event="call_started"))
    records = await world.spool.trace("call-1")
    assert reply.status == 202
    assert [record.superseded for record in records] == [False, True]
    assert records[1].deliveries == ()
    assert world.counted("send_call_log", "superseded") == 1


@pytest.mark.parametrize("size", [0, 20_000, 200_000, 2_000_000])
@pytest.mark.parametrize("coding", ENCODERS)
@ON_THE_SHARED_LOOP
async def test_content_encodings_are_undone(shared: RunningIntake, coding: str, size: int, call_id: str) -> None:
    """A body in a known Content-Encoding is stored decoded, whatever its size."""
    body = call_log(call_id, size=size)
    reply = await shared.post(ENCODERS[coding](body), content_encoding=coding)
    assert reply.status == 202
    assert await shared.stored((await shared.only_record(call_id)).record) == body


@pytest.mark.parametrize(
    ("coding", "encoded"),
    [
        ("deflate", raw_deflate(call_log(size=20_000))),
        ("identity", call_log(size=20_000)),
        ("GZIP", ENCODERS["gzip"](call_log(size=20_000))),
        ("gzip, zstd", ENCODERS["zstd"](ENCODERS["gzip"](call_log(size=20_000)))),
        ("gzip", ENCODERS["gzip"](call_log(size=20_000)[:300]) + ENCODERS["gzip"](call_log(size=20_000)[300:])),
        ("zstd", ENCODERS["zstd"](call_log(size=20_000)[:300]) + ENCODERS["zstd"](call_log(size=20_000)[300:])),
    ],
    ids=["deflate without header", "identity", "upper case", "two codings", "two gzip members", "two zstd frames"],
)
async def test_unusual_encodings_are_undone(world: RunningIntake, coding: str, encoded: bytes) -> None:
    """Several codings, several members, and deflate without its header are what some clients send."""
    assert (await world.post(encoded, content_encoding=coding)).status == 202
    assert await world.stored((await world.only_record("call-1")).record) == call_log(size=20_000)


@pytest.mark.parametrize("size", [0, 20_000, 3_000_000])
@ON_THE_SHARED_LOOP
async def test_the_sdk_s_envelope_is_opened(shared: RunningIntake, size: int, call_id: str) -> None:
    """A compressed call log is stored as the call log that it carries."""
    body = call_log(call_id, size=size)
    reply = await shared.post(envelope(body, original_size=len(body)))
    assert reply.status == 202
    assert reply.json["raw_bytes"] == len(body)
    assert await shared.stored((await shared.only_record(call_id)).record) == body


async def test_an_envelope_with_escaped_base64_is_opened(world: RunningIntake) -> None:
    """Encoders that write slashes and plus signs of base64 as escapes are understood."""
    body = call_log(size=300_000)
    escaped = envelope(body).replace(b"/", b"\\/").replace(b"+", b"\\u002b")
    assert escaped.count(b"\\") > 1000
    assert (await world.post(escaped)).status == 202
    assert await world.stored((await world.only_record("call-1")).record) == body


async def test_an_envelope_in_a_content_encoding_is_opened(world: RunningIntake) -> None:
    """What a proxy compresses on top of the SDK's envelope is undone too."""
    body = call_log(size=100_000)
    reply = await world.post(ENCODERS["gzip"](envelope(body)), content_encoding="gzip")
    assert reply.status == 202
    assert await world.stored((await world.only_record("call-1")).record) == body


@pytest.mark.parametrize("size", [0, 50_000, 400_000])
@ON_THE_SHARED_LOOP
async def test_a_body_without_length_is_taken(shared: RunningIntake, size: int, call_id: str) -> None:
    """A chunked body needs no Content-Length, small or large."""
    body = call_log(call_id, size=size)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 30_000):
            yield body[start : start + 30_000]

    assert (await shared.post(chunks())).status == 202
    assert await shared.stored((await shared.only_record(call_id)).record) == body
    assert shared.intake.budget.used_bytes == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_giant_goes_through_a_staging_file(tmp_path: Path, chunked: bool) -> None:
    """A body above inline_max is staged, accepted whole, and leaves no file and no promised quota behind."""
    body = large_call_log()
    async with running(tmp_path, bodies=BodyLimits(inline_max=1 << 20), memory_budget=2 << 20) as world:

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 500_000):
                yield body[start : start + 500_000]

        reply = await world.post(chunks() if chunked else body)
        assert reply.status == 202
        assert reply.json["raw_bytes"] == len(body)
        await world.until(lambda: not world.staged_files())
        assert world.intake.budget.used_bytes == 0


async def test_a_giant_envelope_and_a_giant_encoding_are_decoded_in_files(tmp_path: Path) -> None:
    """What does not fit in memory is decoded from file to file, and stored as it was."""
    body = large_call_log()
    async with running(tmp_path, bodies=BodyLimits(inline_max=1 << 20), memory_budget=2 << 20) as world:
        for call_log_id, encoded, coding in (("a", envelope(body), None), ("b", ENCODERS["gzip"](body), "gzip")):
            reply = await world.post(encoded, content_encoding=coding)
            assert (reply.status, reply.json["raw_bytes"]) == (202, len(body)), call_log_id
        await world.until(lambda: not world.staged_files())
        await world.only_record("call-1")


async def test_a_large_call_log_is_stored_in_two_phases(world: RunningIntake) -> None:
    """Above 5 MiB a call log becomes fragments, and owes a core and a detail in their lanes."""
    reply = await world.post(large_call_log())
    traced = await world.only_record("call-1")
    assert reply.json["upload_method"] == "two_phase"
    assert set(traced.record.fragments) == {Fragment.BASE, Fragment.DERIVED, Fragment.REST}
    assert [(each.form, each.lane, each.state) for each in traced.deliveries] == [
        (Form.CORE, Lane.CORE, DeliveryState.READY),
        (Form.DETAIL, Lane.DETAIL, DeliveryState.WAITING),
    ]
    rest = await world.stored(traced.record, Fragment.REST)
    assert json.loads(b"{%b}" % rest)["transcript_with_metrics"] == [{"turn_id": "1"}]


@pytest.mark.parametrize(
    ("filling", "method"),
    [(incompressible(4_000_000), "single"), (incompressible(4_400_000), "two_phase"), ("a" * 5_200_000, "single")],
    ids=["compresses enough", "does not", "below the raw threshold"],
)
async def test_between_the_thresholds_the_stored_size_decides(world: RunningIntake, filling: str, method: str) -> None:
    """A call log of 3 to 5 MiB goes in one piece if 4/3 of what it compresses to is below 4 MiB."""
    reply = await world.post(call_log(other=filling))
    assert reply.json["upload_method"] == method


async def test_non_finite_numbers_become_null(world: RunningIntake) -> None:
    """NaN and Infinity, which Python writes, are accepted; only they are changed."""
    small = b'{"call_id": "small", "a": NaN, "b": [-Infinity, Infinity], "c": "NaN"}'
    large = call_log("large", size=300_000)[:-1] + b', "a": NaN}'
    assert (await world.post(small)).status == 202
    assert (await world.post(large)).status == 202
    stored = await world.stored((await world.only_record("small")).record)
    assert json.loads(stored) == {"call_id": "small", "a": None, "b": [None, None], "c": "NaN"}
    assert json.loads(await world.stored((await world.only_record("large")).record))["a"] is None
    assert world.metrics.registry.get_sample_value("callspool_nonfinite_numbers_total") == 4
    await world.until(lambda: not world.staged_files())


@pytest.mark.parametrize("count", [10, 15_000, 100_000])
async def test_a_copy_that_grows_is_made_where_there_is_room(world: RunningIntake, count: int) -> None:
    """Each null is longer than its NaN: the copy of a small body may be a large one."""
    body = b'{"call_id": "call-1", "a": [%b]}' % b",".join([b"NaN"] * count)
    assert (await world.post(ENCODERS["gzip"](body), content_encoding="gzip")).status == 202
    stored = json.loads(await world.stored((await world.only_record("call-1")).record))
    assert stored["a"] == [None] * count
    await world.until(lambda: not world.staged_files())


@pytest.mark.parametrize(
    "body",
    [
        b'{"call_id": "call-1", "text": "\\ud800"}',
        b'\xef\xbb\xbf{"call_id": "call-1"}',
        b'{"call_id": "call-1", "a": 1, "a": 2}',
        b'{"call_id": "call-1", "deep": ' + b"[" * 1500 + b"]" * 1500 + b"}",
        b' \n{"call_id": "call-1"}\n ',
    ],
    ids=["lone surrogate", "byte order mark", "duplicate keys", "deep nesting", "white space"],
)
@ON_THE_SHARED_LOOP
async def test_what_real_agents_send_is_taken(shared: RunningIntake, body: bytes) -> None:
    """Oddities that a lenient reader understands are no reason to lose a call log."""
    assert (await shared.post(body)).status == 202


async def test_a_number_as_call_id_names_the_call(world: RunningIntake) -> None:
    """A call_id that came as a number is kept as its text."""
    reply = await world.post(b'{"call_id": 4711}')
    assert reply.json["call_id"] == "4711"
    await world.only_record("4711")


async def test_keep_alive_carries_many_posts(world: RunningIntake) -> None:
    """Posts on one connection, sent without waiting, are answered in their order."""
    reader, writer = await world.connect()
    bodies = [call_log(str(uuid.uuid4())) for _ in range(20)]
    for body in bodies:
        writer.write(b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    async with asyncio.timeout(DEADLINE):
        for body in bodies:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert head.startswith("HTTP/1.1 202 Accepted\r\n")
            length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
            assert json.loads(await reader.readexactly(length))["call_id"] == json.loads(body)["call_id"]
    writer.close()
    await writer.wait_closed()


async def test_no_name_server_is_asked_for_an_upload_address(
    world: RunningIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request without a Host gets the address that it came to: to ask for a name would block everybody else."""

    def blocking(*_: object) -> str:
        raise AssertionError("a name server was asked on the event loop")

    monkeypatch.setattr(socket, "getfqdn", blocking)
    body = b'{"call_id": "call-1"}'
    head = b"POST /get-upload-url HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = await world.send_raw(head + body)
    assert b'"upload_url":"http://127.0.0.1:' in answer, answer


async def test_an_old_client_s_connection_is_closed(world: RunningIntake) -> None:
    """HTTP/1.0 gets a complete answer, and then the end of the connection."""
    body = call_log()
    answer = await world.send_raw(b"POST /v1/calls HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert b"Connection: close\r\n" in answer


async def test_a_trace_tells_what_became_of_a_call(world: RunningIntake) -> None:
    """GET /v1/calls/CALL_ID shows the records of the call, whatever characters its id has."""
    await world.post(call_log("a/b c"))
    reply = await world.ask("GET", "/v1/calls/a%2Fb%20c")
    assert reply.status == 200
    assert reply.json["call_id"] == "a/b c"
    assert reply.json["records"][0]["event"] == "call_ended"


async def test_posts_are_measured(world: RunningIntake) -> None:
    """Counts, bytes and the time to the answer are told to the metrics."""
    await world.post(large_call_log())
    value = world.metrics.registry.get_sample_value
    assert world.counted("send_call_log", "accepted") == 1
    assert value("callspool_ack_seconds_count") == 1
    assert value("callspool_two_phase_total") == 1
    assert value("callspool_payload_bytes_total", {"stage": "raw"}) == len(large_call_log())


@pytest.mark.parametrize("path", ["/v1/calls", "/v1/calls/batch"])
@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Encoding: gzip\r\nContent-Encoding: zstd\r\nContent-Length: %d\r\n",
        b"Content-Encoding: gzip, zstd\r\nContent-Length: %d\r\n",
        b"Content-Encoding: gzip\r\nTransfer-Encoding: zstd, chunked\r\n",
        b"Transfer-Encoding: gzip, zstd, chunked\r\n",
    ],
    ids=["two lines", "one line", "content and transfer", "transfer"],
)
@ON_THE_SHARED_LOOP
async def test_every_coding_of_a_body_is_undone(shared: RunningIntake, path: str, headers: bytes, call_id: str) -> None:
    """All lines of Content-Encoding and Transfer-Encoding count."""
    body = zstandard.ZstdCompressor().compress(gzip.compress(call_log(call_id)))
    framed = body if b"Length" in headers else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    if b"%d" in headers:
        headers %= len(body)
    answer = await shared.send_raw(
        b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n%b" % (path.encode(), headers, framed)
    )
    assert b'"success":true' in answer, answer
    assert (await shared.only_record(call_id)).record.raw_bytes == len(call_log(call_id))
