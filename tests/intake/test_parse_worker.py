"""The process that examines giants: what it finds, and what becomes of a post when it ends."""

import asyncio
import ctypes
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from gateway.intake import parse_worker
from gateway.intake.body_reader import BodyLimits
from spool.records import Fragment
from tests.intake.bodies import call_log, envelope, large_call_log
from tests.intake.running_intake import RunningIntake, running
from tests.system.waiting import until

PARENT = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from gateway.intake.parse_worker import ParseWorker
from gateway.intake.staging import Workers

async def main():
    parse_worker = ParseWorker(Workers(ThreadPoolExecutor(1)))
    print((await parse_worker._start()).pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[RunningIntake]:
    """An intake that stages everything above 64 KiB."""
    async with running(tmp_path, bodies=BodyLimits(inline_max=1 << 16)) as world:
        yield world


def has_landlock() -> bool:
    """Whether the kernel of this machine has it."""
    return int(ctypes.CDLL(None).syscall(444, None, 0, 1)) > 0


_giant = partial(large_call_log, spans=900)


async def test_only_giants_need_the_process(small: RunningIntake) -> None:
    """It is started with the first body that is too large to be looked at here, and then kept."""
    assert (await small.post(call_log("a"))).status == 202
    assert (await small.post(call_log("b", size=3_000_000))).status == 202
    before = small.intake.parse_worker.pid
    assert before is None
    assert (await small.post(_giant("c"))).status == 202
    first = small.intake.parse_worker.pid
    assert first is not None
    assert (await small.post(envelope(_giant("d")))).status == 202
    assert small.intake.parse_worker.pid == first
    await small.until(small.holds_nothing)


@pytest.mark.parametrize(
    ("prefix", "value"),
    [(b"", "1.50"), (b"\xef\xbb\xbf", "1.50"), (b"\xef\xbb\xbf", "NaN")],
    ids=["plain", "with a byte order mark", "with a mark and a number that is none"],
)
async def test_a_giant_is_stored_as_it_came(small: RunningIntake, prefix: bytes, value: str) -> None:
    """What another process found is stored byte for byte, but for the token, and null for what is no number."""
    filling = b"x" * 5_300_000
    body = b'%b{"call_id": 17, "token": "t", "n": %b, "telemetry_data": "%b"}' % (prefix, value.encode(), filling)
    reply = await small.post(body)
    assert (reply.status, reply.json["call_id"], reply.json["upload_method"]) == (202, "17", "two_phase")
    record = (await small.only_record("17")).record
    kept = value.replace("NaN", "null").encode()
    assert await small.stored(record, Fragment.BASE) == b'"call_id": 17,"n": ' + kept
    assert await small.stored(record, Fragment.REST) == b'"telemetry_data": "%b"' % filling
    assert await small.stored(record, Fragment.CALL_ID) == b"17"
    await small.until(small.holds_nothing)


async def test_a_giant_that_is_wrong_is_refused_with_the_position(small: RunningIntake) -> None:
    """What the process finds wrong is told as if it had been found here, and the process lives on."""
    body = _giant()
    reply = await small.post(body[:-1])
    assert (reply.status, reply.code) == (400, "not_json")
    assert str(len(body) - 1) in reply.json["error"]["message"]
    assert (await small.post(body)).status == 202
    await small.until(small.holds_nothing)


async def test_what_needs_too_much_memory_is_refused(small: RunningIntake) -> None:
    """A body of a million top-level members cannot exhaust the machine: 413, and the next post is taken."""
    members = b",".join(b'"m%d":0' % number for number in range(900_000))
    reply = await small.post(b'{"call_id":"a",%b}' % members)
    assert (reply.status, reply.code) == (413, "too_complex")
    pid = small.intake.parse_worker.pid
    assert (await small.post(_giant())).status == 202
    assert small.intake.parse_worker.pid == pid
    await small.until(small.holds_nothing)


async def test_lists_that_need_too_much_memory_are_not_summarised(small: RunningIntake) -> None:
    """A giant of very many tiny spans is taken: its core comes without their summary, its detail with all of them."""
    spans = b'{"name":"a","duration_ms":1.5}'
    telemetry = b'"telemetry_data":{"session_traces":[%b]}' % b",".join([spans] * 800_000)
    reply = await small.post(b'{"call_id":"a","transcript_with_metrics":[{"user_transcript":"hi"}],%b}' % telemetry)
    assert reply.status == 202
    record = (await small.only_record("a")).record
    derived = await small.stored(record, Fragment.DERIVED)
    assert b"total_turns" in derived
    assert b"telemetry_summary" not in derived
    assert (await small.stored(record, Fragment.REST)).endswith(telemetry)


async def test_a_post_survives_the_death_of_the_process(small: RunningIntake) -> None:
    """A process that is killed in the middle of an examination is replaced, and the post is taken."""
    await small.post(_giant("a"))
    await small.until(small.holds_nothing)
    pid = small.intake.parse_worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    posting = asyncio.create_task(small.post(_giant("b")))
    await small.until(lambda: sum(file.stat().st_size for file in small.staged_files()) > 8_500_000)
    os.kill(pid, signal.SIGKILL)
    assert (await posting).status == 202
    assert small.intake.parse_worker.pid not in {None, pid}
    await small.until(small.holds_nothing)


async def test_a_post_that_cannot_be_parsed_is_503(small: RunningIntake, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a second process ends too, the sender keeps its call log; the next giant gets another process."""
    with monkeypatch.context() as patched:
        patched.setattr(parse_worker, "_COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
        reply = await small.post(_giant())
        assert (reply.status, reply.code) == (503, "parse_worker_failed")
        assert reply.headers["Retry-After"]
        assert "status 3" in reply.json["error"]["message"]
    assert (await small.post(_giant())).status == 202
    await small.until(small.holds_nothing)


@pytest.mark.parametrize(
    ("occupied", "status", "code"), [(0, 413, "larger_than_quota"), (18_000_000, 507, "spool_full")]
)
async def test_the_copy_of_a_giant_counts_in_the_quota(tmp_path: Path, occupied: int, status: int, code: str) -> None:
    """The copy that non-finite numbers need counts before it is made: 413 where it can never fit, 507 where not now."""
    body = b'{"call_id": "a", "n": [NaN], "telemetry_data": "%b"}' % (b"x" * 6_000_000)
    quota = 10_000_000 + occupied
    async with running(tmp_path, spool_max=quota, bodies=BodyLimits(inline_max=1 << 16)) as world:
        world.spool.reserve_staging(occupied)
        reply = await world.post(body)
        assert (reply.status, reply.code) == (status, code)
        await world.until(world.holds_nothing)


async def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    """However the gateway ends, nothing of it stays: here by SIGKILL. SIGTERM alone does not end the process."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", PARENT, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    process = psutil.Process(int(await parent.stdout.readline()))

    async def listens() -> bool:
        return "gateway.intake.parse_worker_main" in process.cmdline() and process.num_threads() > 1

    async def gone() -> bool:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

    await until(listens, "the process works")
    process.terminate()
    assert process.is_running()
    parent.kill()
    await parent.wait()
    await until(gone, "the process has ended")


async def test_the_process_has_little_to_lose(small: RunningIntake, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret is in its environment, and it can gain no privileges."""
    monkeypatch.setenv("CALLSPOOL_ENDPOINT_TOKEN", "hush")
    assert (await small.post(_giant("a"))).status == 202
    worker = small.intake.parse_worker
    process = psutil.Process(worker.pid)
    assert "hush" not in process.environ().values()
    assert process.rlimit(psutil.RLIMIT_NPROC) == (0, 0)
    status = Path(f"/proc/{worker.pid}/status").read_text()
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


CURIOUS = """
import sys

def look(*_):
    with open({path!r}) as file:
        raise ValueError(file.read())

sys.modules["__main__"].parse = look
"""


async def test_the_process_opens_no_file(
    small: RunningIntake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has the files of bodies that it is given; nothing that it could be made to do opens another one."""
    (tmp_path / "curious.py").write_text(CURIOUS.format(path=str(small.staging / "another")))
    (small.staging / "another").write_text("hush")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    small.intake.parse_worker._modules = ("curious",)
    assert (await small.post(_giant())).code == "parse_worker_failed"
    assert ("PermissionError" if has_landlock() else "ValueError: hush") in capsys.readouterr().out
