"""Staging files: private, counted, and gone afterwards."""

import asyncio
import contextlib
import errno
import gzip
import itertools
import mmap
import os
import shutil
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.intake.body_reader import BodyLimits
from gateway.intake.memory import MemoryBudget
from gateway.intake.staging import StagingArea, Workers, prepare_directory
from spool.errors import SpoolFull
from tests.intake.bodies import call_log, envelope, incompressible
from tests.intake.running_intake import RunningIntake, running


class Account:
    """A quota of 10 MiB."""

    def __init__(self) -> None:
        self.promised = 0

    def reserve_staging(self, byte_count: int) -> None:
        if self.promised + byte_count > 10 << 20:
            raise SpoolFull("full", used_bytes=self.promised, limit_bytes=10 << 20)
        self.promised += byte_count

    async def can_make_staging_room(self, byte_count: int) -> bool:
        return False

    async def make_staging_room(self, byte_count: int, rest: int) -> None:
        raise AssertionError("nobody said that it can be made")

    def release_staging(self, byte_count: int) -> None:
        self.promised -= byte_count


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    executor = ThreadPoolExecutor(2)
    yield Workers(executor)
    executor.shutdown()


def _files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def test_a_file_is_private_and_holds_what_was_written(tmp_path: Path, workers: Workers) -> None:
    """Only the user of the process can read a staged body; its map outlives its file."""
    staged = StagingArea(tmp_path, Account(), workers).begin()
    file = await workers.run(staged.file)
    await workers.run(file.write, b"abc" * 1000)
    await workers.run(file.write, b"end")
    assert [stat.S_IMODE(path.stat().st_mode) for path in _files(tmp_path)] == [0o600]
    view = await workers.run(file.map)
    staged.discard()
    await workers.run(file.close)
    assert _files(tmp_path) == []
    assert bytes(view) == b"abc" * 1000 + b"end"


async def test_a_map_that_nobody_holds_ends_with_its_file(tmp_path: Path, workers: Workers) -> None:
    """It ends in the worker thread that removes the file, and not wherever it is forgotten last."""
    file = await workers.run(StagingArea(tmp_path, Account(), workers).begin().file)
    await workers.run(file.write, b"abc" * 1000)
    forgotten, held = [await workers.run(file.map) for _ in range(2)]
    maps = [forgotten.obj, held.obj]
    forgotten.release()
    await workers.run(file.close)
    assert [isinstance(one, mmap.mmap) and one.closed for one in maps] == [True, False]
    assert bytes(held) == b"abc" * 1000


async def test_an_empty_file_maps_to_nothing(tmp_path: Path, workers: Workers) -> None:
    """An empty body cannot be mapped and need not be."""
    file = await workers.run(StagingArea(tmp_path, Account(), workers).begin().file)
    assert bytes(file.map()) == b""
    file.close()
    file.close()
    with pytest.raises(ValueError, match="was cancelled"):
        await workers.run(file.write, b"late")


async def test_what_is_staged_counts_in_the_quota(tmp_path: Path, workers: Workers) -> None:
    """Growth is claimed ahead by as much as came, refused beyond the limit, and given back with the files."""
    account = Account()
    staged = StagingArea(tmp_path, account, workers).begin()
    staged.claim(1 << 20)
    file = await workers.run(staged.file)
    await workers.run(file.write, bytes(1 << 20))
    assert account.promised == 1 << 20
    await workers.run(file.write, bytes(1))
    assert account.promised == 2 << 20
    await workers.run(staged.scratch, 100)
    with pytest.raises(SpoolFull):
        await workers.run(staged.scratch, 20 << 20)
    staged.discard()
    assert account.promised == 0


async def test_a_file_that_is_made_after_its_post_was_cancelled_is_removed(tmp_path: Path, workers: Workers) -> None:
    """A thread that was under way when everything was discarded leaves neither a file nor memory nor a claim behind."""
    for try_reserve in (None, MemoryBudget(1 << 20).try_reserve):
        account = Account()
        staged = StagingArea(tmp_path, account, workers, try_reserve).begin()
        staged.discard()
        file = await workers.run(staged.file)
        assert _files(tmp_path) == []
        with pytest.raises(ValueError, match="was cancelled"):
            await workers.run(file.write, b"late")
        assert account.promised == 0


POSTS = {
    "a batch": (
        "/v1/calls/batch",
        b"\n".join([call_log("a"), call_log("b", size=2 << 20), call_log("c", size=200_000)]),
    ),
    "a giant": ("/v1/calls", call_log("a", size=6 << 20)),
    "an envelope": ("/v1/calls", envelope(call_log("a", size=2 << 20))),
}


@pytest.mark.parametrize("encrypts", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("post", POSTS)
async def test_a_post_that_is_cancelled_leaves_nothing(
    tmp_path: Path, post: str, encrypts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a thread does for it at that moment: neither files, nor memory, nor what they take of the quota."""
    path, body = POSTS[post]
    async with running(tmp_path, bodies=BodyLimits(inline_max=1 << 20), encrypts=encrypts) as world:
        run, left = world.intake.workers.run, 0

        async def run_or_be_cancelled(*work: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            task = asyncio.current_task()
            if left == 0 and task is not None:
                task.cancel()
            return await run(*work, **more)

        monkeypatch.setattr(world.intake.workers, "run", run_or_be_cancelled)
        for number in itertools.count(1):
            left = number
            with contextlib.suppress(aiohttp.ClientError):
                await world.post(body, path)
            await world.until(lambda: world.holds_nothing() and not world.spool._quota.staged_bytes)
            if left > 0:
                break
        assert number > 4, "it was cancelled at hardly any place"


async def test_a_batch_that_is_cancelled_between_its_lines_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that was read, and is not accepted yet, goes with its batch."""
    async with running(tmp_path) as world:
        for place in ("gateway.intake.turns.Slicer.next", "gateway.intake.sources.batch.LineAcceptor._wait_for_room"):

            async def be_cancelled(*_given: Any) -> None:
                if world.staged_files():
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                    await asyncio.sleep(0)

            with monkeypatch.context() as patched, contextlib.suppress(aiohttp.ClientError):
                patched.setattr(place, be_cancelled)
                await world.post(call_log("b", size=2 << 20) + b"\n" + call_log("c"), "/v1/calls/batch")
            await world.until(lambda: world.holds_nothing() and not world.spool._quota.staged_bytes)


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    """At the start the staging directory is private and holds no staged files; others are left alone."""
    directory = prepare_directory(tmp_path)
    (directory / "abc.staged").write_bytes(b"x")
    (directory / "other").write_bytes(b"x")
    assert prepare_directory(tmp_path) == directory
    assert [path.name for path in directory.iterdir()] == ["other"]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_failing_background_work_is_logged(workers: Workers, capsys: pytest.CaptureFixture[str]) -> None:
    """Work that nobody waits for does not fail in silence."""

    def fail() -> None:
        raise OSError(errno.EIO, "broken disk")

    workers.start(fail)
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: workers.ask_loop(lambda: 1 // 0))
    for _ in range(2):
        await workers.run(os.getpid)
    assert "broken disk" in capsys.readouterr().out


async def test_a_disk_that_is_full_is_507(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room for a staging file refuses the post and keeps nothing of it."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with running(tmp_path, memory_budget=1 << 20) as world:
        monkeypatch.setattr(os, "write", full)
        reply = await world.post(call_log(size=2_000_000))
        assert (reply.status, reply.code) == (507, "disk_full")
        await world.until(lambda: not world.staged_files())


async def ways_in(world: RunningIntake) -> list[tuple[int, str]]:
    """What a giant is answered on each way into staging."""
    giant = call_log(noise=incompressible(300_000))
    wanted = {"call_id": "a", "content_type": "application/json"}
    address = (await world.post(wanted, "/dev/get-upload-url")).json["upload_url"]
    replies = [
        await world.post(giant),
        await world.post(envelope(giant)),
        await world.post(gzip.compress(giant), content_encoding="gzip"),
        await world.ask("PUT", address, giant),
    ]
    return [(reply.status, "" if reply.status < 300 else reply.code) for reply in replies]


async def test_a_staging_directory_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """A giant is accepted on every way in, whatever cleared the directory away; it stays private."""
    async with running(tmp_path, bodies=BodyLimits(inline_max=100_000)) as world:
        for _ in range(2):
            shutil.rmtree(world.staging)
            assert {status for status, _ in await ways_in(world)} <= {200, 202}
        assert stat.S_IMODE(world.staging.stat().st_mode) == 0o700
        line = call_log("b", noise=incompressible(2_000_000))
        shutil.rmtree(world.staging)
        assert b'"status":202' in (await world.post(line, "/v1/calls/batch")).raw


async def test_without_a_staging_directory_giants_wait_at_their_senders(tmp_path: Path) -> None:
    """Where it cannot be made, giants are 503 with the reason; small posts are accepted."""
    async with running(tmp_path, bodies=BodyLimits(inline_max=100_000)) as world:
        shutil.rmtree(world.staging)
        world.staging.write_text("in the way")
        assert {*await ways_in(world)} == {(503, "spool_unavailable")}
        assert (await world.post(call_log("small"))).status == 202
        area = StagingArea(world.staging, world.spool, Workers(ThreadPoolExecutor(1)))
        assert "is no directory that can be written to" in (area.obstacle() or "")
        world.staging.unlink()
        assert area.obstacle() is None
        assert (await world.post(call_log(noise=incompressible(300_000)))).status == 202


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    """A link in place of the staging directory is refused, and files where it leads to are not removed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "somebodys.staged").write_bytes(b"mine")
    (tmp_path / "staging").symlink_to(elsewhere)
    with pytest.raises(OSError, match="staging"):
        prepare_directory(tmp_path)
    assert (elsewhere / "somebodys.staged").read_bytes() == b"mine"
