"""Real call logs with damage go in by every way: none meets an unforeseen error, and what is taken in can be sent."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.intake.body_reader import BodyLimits
from gateway.intake.parse import SizeRule
from spool.records import Delivered, Delivery, Form, Fragment, Lane
from tests.budget import budgeted
from tests.intake.bodies import ENCODERS, envelope
from tests.intake.mutants import mutant
from tests.intake.running_intake import ENDPOINT, Reply, RunningIntake, running
from uploaders.document.render import render

CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
WAYS = ("plain", "envelope", "gzip", "zstd", "deflate", "v1", "batch", "upload", "chunked")


@pytest.fixture
async def narrow_world(tmp_path: Path) -> AsyncIterator[RunningIntake]:
    """An intake that splits and stages what is small elsewhere, so that all its ways are gone."""
    sizes = SizeRule(two_phase_threshold=20_000, two_phase_raw_threshold=60_000, core_max_bytes=20_000)
    async with running(tmp_path, sizes=sizes, bodies=BodyLimits(inline_max=100_000)) as world:
        yield world


@settings(max_examples=25, deadline=None, suppress_health_check=CHECKS)
@given(seed=st.integers(0, 2**32), way=st.sampled_from(WAYS))
async def test_damaged_call_logs_are_taken_whole_or_refused(narrow_world: RunningIntake, seed: int, way: str) -> None:
    """No way in answers a damaged call log with an error of the server, or takes in what cannot be sent."""
    await taken_whole_or_refused(narrow_world, mutant(seed), way)


@pytest.mark.prove
@settings(max_examples=budgeted(small=300, full=5000), deadline=None, suppress_health_check=CHECKS)
@given(seed=st.integers(0, 2**32), way=st.sampled_from(WAYS))
async def test_many_damaged_call_logs_are_taken_whole_or_refused(
    narrow_world: RunningIntake, seed: int, way: str
) -> None:
    """The same with many more."""
    await taken_whole_or_refused(narrow_world, mutant(seed), way)


async def taken_whole_or_refused(world: RunningIntake, body: bytes, way: str) -> None:
    reply = await post(world, body, way)
    assert reply.status < 500
    answers = [json.loads(line) for line in reply.raw.splitlines() if line]
    assert all("internal" not in json.dumps(answer.get("error", {})) for answer in answers)
    await everything_can_be_sent(world)
    assert world.intake.budget.used_bytes == 0
    await world.until(lambda: not world.staged_files())


async def post(world: RunningIntake, body: bytes, way: str) -> Reply:
    match way:
        case "envelope":
            return await world.post(envelope(body))
        case "v1":
            return await world.post(body, "/v1/calls")
        case "batch":
            return await world.post(b'{"call_id": "first"}\n' + body + b'\n{"call_id": "last"}\n', "/v1/calls/batch")
        case "upload":
            asked = await world.post({"call_id": "uploaded", "agent_id": "a"}, "/dev/get-upload-url")
            return await world.ask("PUT", asked.json["upload_url"], body)
        case "chunked":
            return await post_in_chunks(world, body)
        case _:
            encoded = ENCODERS[way](body) if way in ENCODERS else body
            return await world.post(encoded, content_encoding=way if way in ENCODERS else None)


async def post_in_chunks(world: RunningIntake, body: bytes) -> Reply:
    head = b"POST /send-call-log HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
    answer_head, _, answer = (await world.send_raw(head + chunks + b"0\r\n\r\n")).partition(b"\r\n\r\n")
    return Reply(int(answer_head.split()[1]), {}, answer)


async def everything_can_be_sent(world: RunningIntake) -> None:
    """Whatever waits is JSON in the strict sense, and its parts hold all that was taken in; then it is gone."""
    while due := await all_due(world):
        for delivery in due:
            sent = strictly_read(await document(world, delivery))
            if delivery.form is Form.DETAIL:
                assert str(sent["call_id"]) == delivery.record.call_id
            await world.spool.settle(delivery, Delivered())


async def all_due(world: RunningIntake) -> list[Delivery]:
    pages = [await world.spool.due(ENDPOINT.name, lane, now=world.clock.now, limit=100) for lane in Lane]
    return [delivery for page in pages for delivery in page.deliveries]


async def document(world: RunningIntake, delivery: Delivery) -> bytes:
    """What an uploader would send."""
    parts = [
        await world.stored(delivery.record, piece) if isinstance(piece, Fragment) else piece
        for piece in render(delivery)
    ]
    return b"".join(parts)


def strictly_read(text: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    read = json.loads(text, parse_constant=refuse, parse_int=str, parse_float=str)
    assert isinstance(read, dict)
    return read
