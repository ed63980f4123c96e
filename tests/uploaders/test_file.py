"""Delivering into a folder: names, modes, durability."""

import asyncio
import errno
import json
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from spool.errors import CorruptPayload
from spool.records import Form, Fragment, Record
from tests.uploaders.deliveries import Payloads, a_delivery, a_record, large_fragments
from uploaders.base import CallToErase, Delivered, Erased, Refused, RetryLater, Scope
from uploaders.durable_file import DurableFile, safe_name
from uploaders.file import FileUploader

DAY = "2025-06-15"


def files_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


async def test_each_form_lies_under_its_day_call_and_event(tmp_path: Path) -> None:
    """Wholes and cores are plain JSON, a detail is the zstd frames; each under DATE/CALL_ID/EVENT-UID."""
    payloads = Payloads()
    rest = b'"telemetry_data": "' + b"x" * (3 << 20) + b'"'
    large = a_record(payloads, 1, fragments=large_fragments(rest))
    small = a_record(payloads, 2)
    uploader = FileUploader(tmp_path / "delivered", payloads)
    for delivery in (a_delivery(large, Form.CORE), a_delivery(large, Form.DETAIL), a_delivery(small)):
        assert await uploader.deliver(delivery) == Delivered()
    await uploader.close()
    core, detail, whole = (
        f"{DAY}/call-1/call_ended-spool1-1.core.json",
        f"{DAY}/call-1/call_ended-spool1-1.detail.json.zst",
        f"{DAY}/call-2/call_ended-spool1-2.json",
    )
    root = tmp_path / "delivered"
    assert files_below(root) == [core, detail, whole]
    assert json.loads((root / core).read_bytes())["summary_metrics"] == {"total_turns": 2}
    assert json.loads((root / whole).read_bytes()) == {"call_id": "call-2"}
    with zstandard.open(root / detail, "rb") as stream:
        assert json.loads(stream.read())["telemetry_data"] == "x" * (3 << 20)
    stored = b"".join([frame async for frame in payloads.frames(large, Fragment.REST)])
    assert stored in (root / detail).read_bytes()


async def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    """Call logs hold what people said: files are 0600 and directories 0700."""
    payloads = Payloads()
    await FileUploader(tmp_path / "d", payloads).deliver(a_delivery(a_record(payloads)))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "d").rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "d").rglob("*") if path.is_dir()} == {0o700}


async def test_everything_is_durable_before_it_counts_as_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is flushed before its name appears; then every directory up to the root, and the root's parent."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def noted_replace(source: str, target: str, **directories: int) -> None:
        steps.append(f"rename {target}")
        replace(source, target, **directories)

    monkeypatch.setattr("os.fsync", noted_fsync)
    monkeypatch.setattr("os.replace", noted_replace)
    payloads = Payloads()
    await FileUploader(tmp_path / "made" / "root", payloads).deliver(a_delivery(a_record(payloads)))
    name = "call_ended-spool1-1.json"
    made = [f"fsync {tmp_path.name}", "fsync made", "fsync root", f"fsync {DAY}"]
    kept = ["fsync call-1", f"fsync {DAY}", "fsync root"]
    assert steps == [*made, f"fsync .{name}.partial", f"rename {name}", *kept]


async def test_delivering_again_replaces_the_file_by_the_same_bytes(tmp_path: Path) -> None:
    """A retry after a lost confirmation leaves one file, and nothing temporary, even beside what a crash left."""
    payloads = Payloads()
    uploader = FileUploader(tmp_path, payloads)
    delivery = a_delivery(a_record(payloads))
    await uploader.deliver(delivery)
    left_by_a_crash = tmp_path / DAY / "call-1" / ".call_ended-spool1-1.json.partial"
    left_by_a_crash.write_bytes(b"half of it, and longer than the whole would be")
    assert await uploader.deliver(delivery) == Delivered()
    assert files_below(tmp_path) == [f"{DAY}/call-1/call_ended-spool1-1.json"]
    assert (tmp_path / files_below(tmp_path)[0]).read_bytes() == b'{"call_id": "call-1"}'


async def test_a_corrupt_payload_leaves_nothing_behind(tmp_path: Path) -> None:
    """When the payload cannot be read, the error passes through and no file appears."""
    payloads = Payloads()
    record = a_record(payloads, fragments=large_fragments())
    payloads.corrupt(1, Fragment.DERIVED)
    with pytest.raises(CorruptPayload):
        await FileUploader(tmp_path, payloads).deliver(a_delivery(record, Form.CORE))
    assert files_below(tmp_path) == []


async def test_a_cancelled_attempt_leaves_nothing_behind(tmp_path: Path) -> None:
    """Cancelling while the payload is read removes the temporary file."""
    reading = asyncio.Event()

    class Stalled(Payloads):
        async def frames(self, _record: Record, _fragment: Fragment) -> AsyncIterator[bytes]:
            reading.set()
            await asyncio.Event().wait()
            yield b""

    attempt = asyncio.create_task(FileUploader(tmp_path, Stalled()).deliver(a_delivery()))
    await asyncio.wait_for(reading.wait(), 30)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert files_below(tmp_path) == []


async def test_cancelling_waits_for_the_thread_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is not closed under a thread that still writes to it: its descriptor could be another file by then."""
    loop = asyncio.get_running_loop()
    writing, steps = asyncio.Event(), []
    go_on = threading.Event()
    write, discard = DurableFile.write, DurableFile.discard

    def slow_write(self: DurableFile, data: bytes) -> None:
        loop.call_soon_threadsafe(writing.set)
        go_on.wait(5)
        write(self, data)
        steps.append("written")

    def noted_discard(self: DurableFile) -> None:
        steps.append("closed")
        discard(self)

    monkeypatch.setattr(DurableFile, "write", slow_write)
    monkeypatch.setattr(DurableFile, "discard", noted_discard)
    payloads = Payloads()
    attempt = asyncio.create_task(FileUploader(tmp_path, payloads).deliver(a_delivery(a_record(payloads))))
    await asyncio.wait_for(writing.wait(), 30)
    attempt.cancel()
    loop.call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert steps == ["written", "closed"]


async def test_a_notice_is_refused(tmp_path: Path) -> None:
    """A directory has no use for a notice: it becomes a dead letter instead of an odd file."""
    outcome = await FileUploader(tmp_path, Payloads()).deliver(a_delivery(form=Form.NOTICE, location="s3://b/k"))
    assert outcome == Refused("a directory does not accept the form notice")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
async def test_a_failing_disk_makes_the_destination_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A full or broken disk is nobody's record's fault: everything for this directory waits, and nothing is left."""

    def failing(_self: DurableFile, _data: bytes) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(DurableFile, "write", failing)
    payloads = Payloads()
    outcome = await FileUploader(tmp_path, payloads).deliver(a_delivery(a_record(payloads)))
    assert outcome == RetryLater(f"cannot write into {tmp_path}: {os.strerror(number)}", Scope.DESTINATION)
    assert files_below(tmp_path) == []


async def test_a_directory_that_is_a_file_makes_the_destination_wait(tmp_path: Path) -> None:
    """A directory that cannot be made is reported with the operating system's words."""
    (tmp_path / "file").write_bytes(b"")
    payloads = Payloads()
    outcome = await FileUploader(tmp_path / "file", payloads).deliver(a_delivery(a_record(payloads)))
    assert isinstance(outcome, RetryLater)
    assert "Not a directory" in outcome.reason or "File exists" in outcome.reason


HOSTILE = [
    "..",
    ".",
    "",
    "../../etc/passwd",
    "/abs",
    "a/b",
    "a\\b",
    "nul\x00",
    "x" * 300,
    "é",
    "電話",
    "a b",
    ".hidden",
]
HOSTILE += ["trailing.", "-rf", "\udc80", "new\nline", "~", "a~b"]


@pytest.mark.parametrize("call_id", HOSTILE)
async def test_a_hostile_id_stays_inside_its_day(tmp_path: Path, call_id: str) -> None:
    """Whatever the ids are, the file lies three levels below the root under a name that every file system takes."""
    payloads = Payloads()
    record = a_record(payloads, call_id=call_id, event=call_id)
    assert await FileUploader(tmp_path, payloads).deliver(a_delivery(record)) == Delivered()
    (path,) = files_below(tmp_path)
    day, call, name = path.split("/")
    assert day == DAY
    assert len(call.encode()) <= 100
    assert not call.startswith((".", "-"))
    assert len(f".{name}.partial".encode()) <= 255


def test_ids_that_look_alike_stay_apart() -> None:
    """Ids that would become the same harmless name, or imitate a changed one, have different names."""
    imitation = safe_name("a/b")
    ids = [*HOSTILE, "a_b", "a:b", "x" * 301, "x" * 80, imitation, imitation.replace("~", "_")]
    assert len({safe_name(text) for text in ids}) == len(set(ids))


@given(st.text(), st.text())
@example("call-1", "call-1.")
def test_distinct_ids_have_distinct_names(one: str, other: str) -> None:
    """No two texts share a name, and every name is a plain ASCII one."""
    assert (safe_name(one) == safe_name(other)) == (one == other)
    assert set(safe_name(one)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-~")


@pytest.mark.parametrize("usual", ["call_20250615_1", "RM_abc.def-7", "+4930123456".replace("+", "p"), "x" * 80])
def test_usual_ids_stay_readable(usual: str) -> None:
    """An id that is already a harmless name is the name."""
    assert safe_name(usual) == usual


def test_writing_to_a_file_that_is_not_open_is_an_error(tmp_path: Path) -> None:
    """The order of calls is checked, not assumed."""
    with pytest.raises(ValueError, match="not open"):
        DurableFile(tmp_path, tmp_path / "x").write(b"x")
    with pytest.raises(ValueError, match="not open"):
        DurableFile(tmp_path, tmp_path / "x").commit()


async def test_a_partial_file_made_beforehand_gets_no_byte(tmp_path: Path) -> None:
    """Whoever made the temporary file beforehand, as a link or a file held open, sees nothing of the call log."""
    delivery = a_delivery(a_record(payloads := Payloads()))
    folder = tmp_path / "delivered" / DAY / "call-1"
    folder.mkdir(parents=True)
    partial = folder / ".call_ended-spool1-1.json.partial"
    partial.write_bytes(b"")
    with partial.open("rb") as held:
        assert await FileUploader(tmp_path / "delivered", payloads).deliver(delivery) == Delivered()
        assert held.read() == b""
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    partial.symlink_to(target)
    assert await FileUploader(tmp_path / "delivered", payloads).deliver(delivery) == Delivered()
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize("trap", ["link", "open"])
async def test_no_folder_below_the_root_is_used_that_others_made(tmp_path: Path, trap: str) -> None:
    """A link in place of a folder, or one that everybody may write to, keeps deliveries waiting, with the reason."""
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "delivered"
    root.mkdir()
    if trap == "link":
        (root / DAY).symlink_to(tmp_path / "elsewhere")
    else:
        (root / DAY).mkdir()
        (root / DAY).chmod(0o777)
    outcome = await FileUploader(root, payloads := Payloads()).deliver(a_delivery(a_record(payloads)))
    assert isinstance(outcome, RetryLater)
    assert outcome.scope is Scope.DESTINATION
    assert files_below(tmp_path) == []


async def test_the_files_of_an_erased_call_are_removed(tmp_path: Path) -> None:
    """Of every day; those of other calls, and what a link leads to, stay."""
    payloads = Payloads()
    uploader = FileUploader(tmp_path / "d", payloads)
    for number in (1, 2):
        await uploader.deliver(a_delivery(a_record(payloads, number)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (tmp_path / "d" / "2026-01-01").mkdir()
    (tmp_path / "d" / "2026-01-01" / "call-1").symlink_to(elsewhere)
    assert await uploader.erase([CallToErase("call-1")], dry_run=True) == Erased(1)
    assert await uploader.erase([CallToErase("call-1")]) == Erased(1)
    assert await uploader.erase([CallToErase("call-1")]) == Erased(0)
    assert [name for name in files_below(tmp_path / "d") if "call-1" in name] == []
    assert any("call-2" in name for name in files_below(tmp_path / "d"))
    assert (elsewhere / "kept").exists()


async def test_of_two_tenants_calls_of_one_id_the_files_of_one_are_erased(tmp_path: Path) -> None:
    """By the records that their names say; of a file that no receipt knows nobody can tell, and it stays."""
    folder = tmp_path / "2026-01-31" / "call-1"
    folder.mkdir(parents=True)
    names = {uid: folder / f"call-ended-{uid}.core.json" for uid in ("aaaaaaaa-1", "aaaaaaaa-2", "bbbbbbbb-3")}
    for path in names.values():
        path.touch()
    uploader = FileUploader(tmp_path, Payloads())
    call = CallToErase("call-1", frozenset({"acme"}), frozenset({"aaaaaaaa-1"}), frozenset({"aaaaaaaa-2"}))
    erased = await uploader.erase([call])
    assert (erased.count, erased.again) == (1, False)
    assert "1 files of the same id may be another tenant's" in (erased.unreached or "")
    assert sorted(folder.iterdir()) == [names["aaaaaaaa-2"], names["bbbbbbbb-3"]]
    assert await uploader.erase([CallToErase("call-1")]) == Erased(2)
    assert not folder.exists()
