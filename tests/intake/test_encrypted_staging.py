"""Staging where the spool has a key: nothing of a body has a readable name, whatever way it comes in."""

import asyncio
import gzip
from pathlib import Path

import pytest

from gateway.intake.accept import Redactions
from gateway.intake.body_reader import BodyLimits
from gateway.intake.staging import StagedFile
from spool.errors import SpoolUnavailable
from spool.records import Fragment
from tests.intake.bodies import envelope, large_call_log
from tests.intake.running_intake import RunningIntake, running
from uploaders.redaction.options import Detector, Redaction

WORDS = b"whispered-4929000000006"
LIMITS = BodyLimits(inline_max=1 << 16)


def a_giant(call_id: str, size: int = 5_300_000, number: str = "1") -> bytes:
    """One that is stored in two pieces; with a number that is none it is copied."""
    said = WORDS + b" " * 40
    filling = said * (size // len(said))
    return b'{"call_id": "%b", "n": %b, "telemetry_data": "%b"}' % (call_id.encode(), number.encode(), filling)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each file that is mapped, or that another process is given: whether it is in memory."""
    where: list[bool] = []
    original = StagedFile._plain_file

    def watched(file: StagedFile) -> int:
        descriptor = original(file)
        assert file._path is None, "what is plain has no name"
        where.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("/memfd:"))
        return descriptor

    monkeypatch.setattr(StagedFile, "_plain_file", watched)
    return where


async def stored(world: RunningIntake, call_id: str) -> bytes:
    record = (await world.only_record(call_id)).record
    return await world.stored(record, Fragment.REST)


@pytest.mark.parametrize("way", ["plain", "gzip", "envelope", "a copy"])
async def test_a_giant_is_stored_as_it_came(tmp_path: Path, seen: list[bool], way: str) -> None:
    """However it comes in: it is decrypted into memory, and its memory is given back."""
    body = a_giant("a", number="NaN" if way == "a copy" else "1")
    async with running(tmp_path, bodies=LIMITS, encrypts=True) as world:
        if way == "gzip":
            reply = await world.post(gzip.compress(body), content_encoding="gzip")
        else:
            reply = await world.post(envelope(body) if way == "envelope" else body)
        assert (reply.status, reply.json["upload_method"]) == (202, "two_phase")
        assert (await stored(world, "a")).count(WORDS) == body.count(WORDS)
        assert seen
        assert all(seen)
        await world.until(world.holds_nothing)


async def test_a_body_that_hangs_half_way_cannot_be_read(tmp_path: Path) -> None:
    """Its beginning is on the disk, encrypted; the key is nowhere but in the process."""
    body = a_giant("a")
    async with running(tmp_path, bodies=LIMITS, encrypts=True) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(b"POST /v1/calls HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body[:4_000_000])
        await writer.drain()
        await world.until(lambda: sum(file.stat().st_size for file in world.staged_files()) > 2_000_000)
        assert not [file for file in world.staged_files() if WORDS[:12] in file.read_bytes()]
        writer.write(body[4_000_000:])
        assert b" 202 " in await reader.readline()
        writer.close()
        await world.until(world.holds_nothing)


async def test_a_body_in_memory_that_another_process_redacts_stays_in_memory(tmp_path: Path, seen: list[bool]) -> None:
    """Neither the body nor the redacted copy is written to the disk."""
    body = large_call_log("a", spans=900).replace(b'"call_id"', b'"said": "+49 171 1234567", "call_id"', 1)
    redactions = Redactions(Redaction(detect=(Detector.PHONE,)))
    async with running(tmp_path, encrypts=True, redactions=redactions) as world:
        assert (await world.post(body)).status == 202
        assert seen
        assert all(seen)
        await world.until(world.holds_nothing)


async def test_what_memory_has_no_room_for_lies_in_a_file_without_a_name(tmp_path: Path, seen: list[bool]) -> None:
    """A giant that is larger than the budget is accepted all the same."""
    body = a_giant("a")
    async with running(tmp_path, bodies=LIMITS, encrypts=True, memory_budget=4 << 20) as world:
        assert (await world.post(body)).status == 202
        assert (await stored(world, "a")).count(WORDS) == body.count(WORDS)
        assert seen
        assert not any(seen)
        await world.until(world.holds_nothing)


async def test_a_body_waits_for_memory_before_it_is_decrypted_on_the_disk(tmp_path: Path, seen: list[bool]) -> None:
    """Memory that others give back within the time that a post waits is waited for."""
    async with running(tmp_path, bodies=LIMITS, encrypts=True, memory_budget=8 << 20, memory_wait=20.0) as world:
        budget = world.intake.budget
        held = await budget.reserve(budget.largest)
        posting = asyncio.create_task(world.post(a_giant("a")))
        await world.until(lambda: budget.waiting == 1 and bool(world.staged_files()))
        held.release()
        assert (await posting).status == 202
        assert seen
        assert all(seen)
        await world.until(world.holds_nothing)


async def test_a_file_that_somebody_changed_is_not_used(tmp_path: Path) -> None:
    """What is read is what came, or nothing."""
    async with running(tmp_path, encrypts=True) as world:
        staged, run = world.intake.staging.begin(), world.intake.workers.run
        file = await run(staged.file)
        await run(file.write, WORDS)
        (path,) = world.staged_files()
        path.write_bytes(bytes(path.stat().st_size))
        with pytest.raises(SpoolUnavailable, match="changed by somebody else"):
            await run(file.map)
        staged.discard()
        await world.until(world.holds_nothing)
