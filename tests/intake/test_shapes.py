"""Bodies of a costly shape: many members, elements, escapes or lines in few bytes."""

import asyncio
import contextlib
import gzip
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from gateway.calllog.errors import CallLogError
from gateway.calllog.shape import IN_A_THREAD, ON_THE_LOOP, SEPARATORS_MAX, Costly, check_shape, separators
from gateway.intake import parse_worker
from gateway.intake.memory import SMALL_POST_BYTES
from gateway.intake.parse import CallLog, SizeRule, parse
from tests.intake.bodies import call_log, envelope
from tests.intake.running_intake import DEADLINE, Reply, RunningIntake, running
from tests.intake.shapes import SHAPES, SPANS, TURNS, WORST
from tests.processes import cpu_seconds

MIB = 1 << 20
CPU_SECONDS = 4.0
"""What any body of up to 16 MiB may cost, as a whole."""
WORKER_SECONDS = 0.8
"""What the parse worker may spend on a body, where a test waits for bodies that are given up."""


@pytest.mark.parametrize("name", SHAPES)
def test_the_gateway_parses_what_is_cheap(name: str) -> None:
    """In a thread of the gateway a body costs little, or is left to the parse worker at once."""
    body = SHAPES[name].body()
    began = time.process_time()
    with contextlib.suppress(Costly, CallLogError):
        parse(body, bytearray, SizeRule(), IN_A_THREAD)
    assert time.process_time() - began < CPU_SECONDS / 8


def test_members_are_counted_while_they_are_built() -> None:
    """Whatever the samples say, the decoder is stopped at the first top-level member above the limit."""
    at_most = IN_A_THREAD.members
    body = b'{"call_id":"k",%b"z":"%b"}'
    filling = b"x" * 70_000
    fits = body % (b'"a":1,' * (at_most - 2), filling)
    assert isinstance(parse(fits, bytearray, SizeRule(), IN_A_THREAD), CallLog)
    with pytest.raises(Costly):
        parse(body % (b'"a":1,' * (at_most - 1), filling), bytearray, SizeRule(), IN_A_THREAD)


@pytest.mark.parametrize(
    ("prefix", "unit", "suffix"),
    [
        (TURNS, '{"turn_id":"1","user_transcript":"abcdefgh","agent_response":"cd"},', "{}]"),
        (TURNS, '{"user_transcript":"abcdefgh"},', "{}]"),
        (SPANS, '{"duration_ms":1},', "{}]}"),
        (SPANS, '{"operation_type":"llm","duration_ms":1,"start_time":1.5},', "{}]}"),
    ],
)
def test_what_is_parsed_in_the_gateway_takes_little_memory(prefix: str, unit: str, suffix: str) -> None:
    """The most objects that a thread of the gateway makes of a body take 24 MiB; two threads do it at a time."""
    lists = prefix + unit * (min(99_000, 190_000 // unit.count(","))) + suffix
    body = f'{lists},"metadata":"{"x" * (6 * MIB - len(lists))}"}}'.encode()
    tracemalloc.start()
    try:
        parse(body, bytearray, SizeRule(), IN_A_THREAD)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("name", WORST)
async def test_no_body_costs_much(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the socket to the answer, worker included, any body costs little more than what the worker may take."""
    monkeypatch.setattr(parse_worker, "CPU_SECONDS", WORKER_SECONDS)
    async with running(tmp_path) as world:
        assert (await world.post(call_log("before"))).status == 202
        body = await asyncio.to_thread(SHAPES[name].body)
        before = cpu_seconds()
        reply = await world.post(body)
        assert reply.status in {202, 400, 413}, reply.raw
        assert reply.status != 413 or reply.code == "too_complex"
        # That of the client and of the spool among it.
        assert cpu_seconds() - before < WORKER_SECONDS + CPU_SECONDS
        assert (await world.post(call_log("after"))).status == 202


async def test_a_small_body_that_is_slow_to_parse_holds_nobody_up(tmp_path: Path) -> None:
    """64 KiB that only the slow way can read are parsed beside the event loop, which answers others meanwhile."""
    costly = b'{"call_id":"k","s":"\\ud800","m":[' + b"[]," * 21_000 + b"[]]}"
    assert len(costly) < SMALL_POST_BYTES
    with pytest.raises(Costly):
        parse(costly, bytearray, SizeRule(), ON_THE_LOOP)
    async with running(tmp_path) as world:
        posting = asyncio.gather(*(world.post(costly) for _ in range(12)))
        await others_are_answered(world, posting)
        assert {reply.status for reply in await posting} == {202}


async def test_a_flood_of_lines_holds_nobody_up(tmp_path: Path) -> None:
    """Batches of lines that are wrong give the event loop back: dozens of others are answered meanwhile, not two."""
    async with running(tmp_path) as world:
        posting = asyncio.gather(*(world.post(b"x\n" * 4_000, "/v1/calls/batch") for _ in range(16)))
        assert await others_are_answered(world, posting) > 10
        await posting


@pytest.mark.parametrize(
    ("encoding", "part"), [("gzip", gzip.compress(b"")), ("zstd", zstandard.compress(b""))], ids=["gzip", "zstd"]
)
async def test_a_body_of_very_many_parts_is_refused(world: RunningIntake, encoding: str, part: bytes) -> None:
    """Each part that was compressed apart costs as much as 10 KB of data: an empty one is no body."""
    reply = await world.post(part * 40_000, content_encoding=encoding)
    assert (reply.status, reply.code) == (413, "too_complex")


async def test_parts_of_a_usual_size_are_accepted(world: RunningIntake) -> None:
    """bgzip, and whoever appends to a compressed file, make many parts."""
    body = call_log(size=1_500_000)
    parts = [gzip.compress(body[start : start + 1_000], 1) for start in range(0, len(body), 1_000)]
    assert len(parts) > 1_000
    assert (await world.post(b"".join(parts), content_encoding="gzip")).status == 202


async def test_a_body_that_is_hardly_more_than_sizes_of_chunks_is_cut_off(world: RunningIntake) -> None:
    """Each chunk costs, however small: above 1 MiB of framing a body must be more than that."""
    reader, writer = await world.connect()
    writer.write(b"POST /v1/calls HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(300):
            writer.write(b"1\r\n \r\n" * 1_000)
            await writer.drain()
        async with asyncio.timeout(DEADLINE):
            assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
    writer.close()
    await world.until(lambda: world.counted("calls", "too_complex"))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["gzip", "envelope"])
async def test_a_shape_costs_no_more_behind_a_decoder(tmp_path: Path, way: str) -> None:
    """24 KB of gzip cost as little as the 16 MB that they hold."""
    async with running(tmp_path) as world:
        body = SHAPES["one key again and again"].body()
        if way == "gzip":
            reply = await world.post(gzip.compress(body), content_encoding="gzip")
        else:
            reply = await world.post(envelope(body))
        assert (reply.status, reply.code) == (413, "too_complex")
        assert (await world.post(call_log("after"))).status == 202


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \t\n"], ids=repr)
async def test_blank_lines_cost_nothing(world: RunningIntake, blank: bytes) -> None:
    """A batch of blank lines is read as fast as it comes in, and the numbers of its lines are right."""
    count = 4_000_000 // len(blank)
    before = time.process_time()
    reply = await world.post(call_log("a") + b"\n" + blank * count + call_log("b"), "/v1/calls/batch")
    first, last = (json.loads(line) for line in reply.raw.splitlines())
    assert (first["line"], first["status"], last["line"], last["status"]) == (1, 202, count + 2, 202)
    assert time.process_time() - before < CPU_SECONDS / 2


@pytest.mark.parametrize("field", ["transcript_with_metrics", "telemetry_data"])
def test_a_summary_that_costs_too_much_is_left_out(field: str) -> None:
    """The call log is accepted without it, with all that it holds."""
    value = b"[%b1]" % (b"1," * 3_000_000)
    if field == "telemetry_data":
        value = b'{"session_traces":%b}' % value
    parsed = parse(b'{"call_id":"k","%b":%b}' % (field.encode(), value), bytearray, SizeRule())
    assert isinstance(parsed, CallLog)
    fragments = {name.name: b"".join(pieces) for name, pieces in parsed.fragments.items()}
    assert value in fragments["REST"]
    assert b"total" not in fragments["DERIVED"]


@pytest.mark.parametrize("place", [lambda: 0.0, lambda: 1 - 2**-53, lambda: 0.5])
def test_the_estimate_is_near_the_count(place: Callable[[], float]) -> None:
    """Wherever the samples lie, a document of one shape is estimated to a twentieth."""
    for unit in (b"1,", b'"a":1,', b'{"duration_ms":-1},'):
        text = unit * (3_000_000 // len(unit))
        assert separators(text, place) == pytest.approx(text.count(b","), rel=0.05)


def test_a_real_call_log_is_parsed_in_the_gateway() -> None:
    """A density of commas as real ones have is not suspect, up to what memory bears."""
    text = b'{"name":"llm_request","value":1234567890,"attributes":"%b"},' % (b"x" * 60) * 60_000
    assert text.count(b",") < SEPARATORS_MAX
    check_shape(text, IN_A_THREAD)


async def others_are_answered(world: RunningIntake, posting: "asyncio.Future[list[Reply]]") -> int:
    """While this is posted, no other post takes a second, or half of all that time where the machine is slow.

    Returns how many were answered, one after the other.
    """
    longest, start, answered = 0.0, time.perf_counter(), 0
    while not posting.done():
        began = time.perf_counter()
        assert (await world.post(call_log("other"))).status == 202
        longest, answered = max(longest, time.perf_counter() - began), answered + 1
    assert longest < max(1.0, (time.perf_counter() - start) / 2)
    return answered
