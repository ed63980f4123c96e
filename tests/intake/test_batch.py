"""NDJSON batches: a line for a line."""

import asyncio
import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.intake.body_reader import BodyLimits
from spool.records import Accepted, NewRecord
from tests.intake.bodies import call_log, envelope, incompressible, large_call_log
from tests.intake.running_intake import DEADLINE, Reply, RunningIntake, running

BATCH = "/v1/calls/batch"
HEAD = b"POST /v1/calls/batch HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def _answers(reply: Reply) -> list[dict[str, Any]]:
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in reply.raw.splitlines()]


async def test_each_line_has_its_answer_in_order(world: RunningIntake) -> None:
    """Good lines are accepted, bad ones get their error, blank ones nothing; each answer names its line."""
    lines = [
        call_log("a"),
        b"",
        b"{broken",
        call_log("b", size=200_000),
        b" \t\r",
        b"{}",
        envelope(call_log("c", size=50_000)),
        call_log("a"),
        b'{"call_id": "d", "content_type": "application/json"}',
        b'{"s3_reference": true, "s3_key": "k", "call_id": "e"}',
        large_call_log("f"),
    ]
    answers = _answers(await world.post(b"\n".join(lines), BATCH))
    assert [(each["line"], each["status"]) for each in answers] == [
        (1, 202), (3, 400), (4, 202), (6, 422), (7, 202), (8, 202), (9, 200), (10, 202), (11, 202),
    ]  # fmt: skip
    assert answers[1]["error"]["code"] == "not_json"
    assert [each.get("duplicate") for each in answers if each["line"] in {1, 8}] == [False, True]
    assert answers[-1]["upload_method"] == "two_phase"
    for call_id in "abcef":
        await world.only_record(call_id)
    assert world.counted("batch", "accepted") == 5
    await world.until(lambda: not world.staged_files())
    assert world.intake.budget.used_bytes == 0


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\n\n"])
async def test_the_last_line_needs_no_end(world: RunningIntake, ending: bytes) -> None:
    """A last line counts with and without its line feed."""
    answers = _answers(await world.post(call_log("a") + b"\r\n" + call_log("b") + ending, BATCH))
    assert [each["status"] for each in answers] == [202, 202]


async def test_an_empty_batch_has_no_answers(world: RunningIntake) -> None:
    """Nothing posted is nothing answered."""
    assert _answers(await world.post(b"", BATCH)) == []


async def test_a_compressed_batch_is_taken(world: RunningIntake) -> None:
    """A Content-Encoding is undone before lines are looked for."""
    lines = b"\n".join(call_log(f"call-{number}") for number in range(1000))
    answers = _answers(await world.post(gzip.compress(lines), BATCH, content_encoding="gzip"))
    assert [each["status"] for each in answers] == [202] * 1000


async def test_lines_share_commits_and_keep_the_order_of_a_call(world: RunningIntake) -> None:
    """Many lines go into few commits; those of one call are accepted in the order of the batch."""
    events = ["call_started", "call_ended", "recording_ready", "analyzed"]
    lines = [call_log(f"call-{n}", wcall_event=event, size=n * 300) for n in range(200) for event in events]
    before = world.metrics.registry.get_sample_value("callspool_commit_batch_size_count") or 0
    answers = _answers(await world.post(b"\n".join(lines), BATCH))
    assert [each["status"] for each in answers] == [202] * 800
    for number in (0, 100, 199):
        records = await world.spool.trace(f"call-{number}")
        assert [each.record.event for each in records] == events
    assert (world.metrics.registry.get_sample_value("callspool_commit_batch_size_count") or 0) - before < 400


async def test_a_client_may_send_everything_before_it_reads(world: RunningIntake) -> None:
    """Answers that the client does not take yet do not keep its lines from being read."""
    lines = b"".join(call_log(f"call-{number}") + b"\n" for number in range(5000))
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port, limit=1024)
    writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(lines), lines))
    async with asyncio.timeout(60):
        await writer.drain()
        await world.until(lambda: world.counted("batch", "accepted") == 5000, 60)
        received = await reader.read(-1)
    assert received.count(b'"status":202') == 5000
    writer.close()


async def test_a_client_that_never_reads_is_given_up(tmp_path: Path) -> None:
    """A client that takes no answers keeps neither the connection nor the memory; its lines are accepted."""
    refused, accepted = [b"{}"] * 35_000, [b'{"call_id":%d}' % number for number in range(500)]
    async with running(tmp_path, batch_max_lines=40_000, bodies=BodyLimits(progress_timeout=0.3)) as world:
        lines = b"\n".join(refused + accepted)
        reader, writer = await world.connect()
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(lines), lines))
        await world.until(lambda: not world.intake.gate.in_flight and world.counted("batch", "accepted"), 60)
        assert world.counted("batch", "accepted") == len(accepted)
        assert world.intake.budget.used_bytes == 0
        with contextlib.suppress(ConnectionResetError):
            assert b"\r\n0\r\n" not in await reader.read(-1), "all answers found room on their way"
        writer.close()


@pytest.mark.parametrize("size", [1_500_000, 5_000_000])
async def test_a_long_line_goes_through_a_file(tmp_path: Path, size: int) -> None:
    """A line of any length fits into the fixed memory of a batch."""
    lines = [call_log("a"), call_log("b", other="x" * size), call_log("c")]
    async with running(tmp_path, memory_budget=4 << 20) as world:
        answers = _answers(await world.post(b"\n".join(lines), BATCH))
        assert [each["status"] for each in answers] == [202, 202, 202]
        assert answers[1]["raw_bytes"] == len(lines[1])
        await world.until(lambda: not world.staged_files())


async def test_a_line_above_the_limit_spoils_no_other(tmp_path: Path) -> None:
    """A configured limit counts for each line; one above it is read to its end and answered 413."""
    lines = [call_log("a"), call_log("b", other="x" * 3_000_000), call_log("c")]
    async with running(tmp_path, bodies=BodyLimits(body_max=2_000_000)) as world:
        answers = _answers(await world.post(b"\n".join(lines), BATCH))
        assert [each["status"] for each in answers] == [202, 413, 202]
        await world.until(lambda: not world.staged_files())


async def test_a_line_for_which_the_spool_has_no_room_spoils_no_other(tmp_path: Path) -> None:
    """A full spool refuses the line that is too much for it, staged or not."""
    lines = [call_log("a"), call_log("b", size=6_000_000), call_log("c", other=incompressible(900_000)), call_log("d")]
    async with running(tmp_path, spool_max=1_600_000) as world:
        answers = _answers(await world.post(b"\n".join(lines), BATCH))
        assert [each["status"] for each in answers] == [202, 507, 507, 202]
        await world.until(lambda: not world.staged_files())


async def test_a_line_that_outgrows_the_quota_at_its_end_spoils_no_other(tmp_path: Path) -> None:
    """The last part of a staged line is written when the line is complete; that may be what is too much."""
    lines = [call_log("a"), call_log("b", other="x" * ((4 << 20) + 50_000)), call_log("c")]
    async with running(tmp_path, spool_max=5_842_000) as world:
        answers = _answers(await world.post(b"\n".join(lines), BATCH))
        assert [each["status"] for each in answers] == [202, 507, 202]
        await world.until(lambda: not world.staged_files())


async def test_lines_above_the_count_are_refused(tmp_path: Path) -> None:
    """Beyond max_lines each line is told so; beyond twice that the batch ends with a last answer."""
    async with running(tmp_path, batch_max_lines=3) as world:
        answers = _answers(await world.post(b"\n".join(call_log(str(number)) for number in range(20)), BATCH))
        assert [each["status"] for each in answers] == [202] * 3 + [413] * 4
        assert answers[-1]["line"] == 7
        assert "not read" in answers[-1]["error"]["message"]
        assert await world.spool.trace("3") == ()


async def test_a_batch_that_stalls_ends_with_an_error(tmp_path: Path) -> None:
    """Lines that came are answered; then the client is told that the rest did not come."""
    async with running(tmp_path, bodies=BodyLimits(progress_timeout=0.1)) as world:
        answer = await world.send_raw(HEAD + b"Content-Length: 1000\r\n\r\n" + call_log() + b"\n{")
        assert b'{"line":1,"status":202' in answer
        assert b'{"line":2,"status":408' in answer
        await world.only_record("call-1")
        assert world.intake.budget.used_bytes == 0


async def test_a_batch_whose_client_goes_away_leaves_nothing_behind(world: RunningIntake) -> None:
    """What came in whole lines is accepted, the rest forgotten."""
    _, writer = await world.connect()
    writer.write(HEAD + b"Content-Length: 9000000\r\n\r\n" + call_log() + b"\n" + b"x" * 2_000_000)
    await writer.drain()
    await world.until(lambda: world.counted("batch", "accepted") and world.staged_files())
    writer.transport.abort()
    await world.until(lambda: not world.intake.gate.in_flight and not world.staged_files())
    assert world.intake.budget.used_bytes == 0


async def test_a_batch_ends_when_the_gateway_stops(world: RunningIntake) -> None:
    """Lines that come after the gate was shut are told to come back."""
    reader, writer = await world.connect()
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")

    def chunk(data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data)

    async with asyncio.timeout(DEADLINE):
        writer.write(chunk(call_log("a") + b"\n"))
        assert b'"status":202' in await reader.readuntil(b'"phase_2_started":false}\n')
        world.intake.gate.close()
        writer.write(chunk(call_log("b") + b"\n") + b"0\r\n\r\n")
        assert b'{"line":2,"status":503' in await reader.read()
    writer.close()


async def test_a_batch_that_does_not_end_is_cut_off_by_a_stop(world: RunningIntake) -> None:
    """A batch whose client goes on for ever ends with the drain time, and what it had is answered or accepted."""
    reader, writer = await world.connect()
    writer.write(HEAD + b"Content-Length: 100000\r\n\r\n" + call_log("a") + b"\n{")
    async with asyncio.timeout(DEADLINE):
        await reader.readuntil(b'"phase_2_started":false}\n')
        assert await world.intake.server.stop(0.05) == 1
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
    writer.close()
    assert world.intake.budget.used_bytes == 0


async def test_an_unexpected_error_is_the_line_s_own(world: RunningIntake, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw is a 503 for its line, and the next ones are accepted."""
    accept = world.spool.accept

    async def fail_for_b(record: NewRecord) -> Accepted:
        if record.call_id == "b":
            raise KeyError("boom")
        return await accept(record)

    monkeypatch.setattr(world.spool, "accept", fail_for_b)
    answers = _answers(await world.post(b"\n".join(call_log(name) for name in "abc"), BATCH))
    assert [each["status"] for each in answers] == [202, 503, 202]
    assert answers[1]["error"]["code"] == "internal"


@pytest.mark.parametrize(("headers", "status"), [({"Content-Encoding": "br"}, 415), ({"Expect": "x"}, 417)])
async def test_a_batch_is_refused_as_a_whole_before_it_begins(
    world: RunningIntake, headers: dict[str, str], status: int
) -> None:
    """What speaks against all of it is answered with its status, as for a post."""
    assert (await world.post(call_log(), BATCH, headers=headers)).status == status
