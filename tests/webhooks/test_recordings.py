"""Which recording an address means, and what counts as one."""

import asyncio
import errno
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.webhooks.recordings import can_be_copied, identity_of
from spool.records import Record
from uploaders import durable_file
from uploaders.base import CallToErase
from uploaders.durable_file import DurableFile
from uploaders.recordings import DirectoryRecordings, NotKept, RecordingsBySource

RECORD = Record(
    record_id=1, uid="s-1", call_id="c", agent_id=None, event="call_ended", environment=None, digest=b"", raw_bytes=1,
    stored_bytes=1, accepted_at=0, token_id=None, first_chunk=0, fragments={}, principal="tenant:acme",
)  # fmt: skip
URL = "https://media.example.com/calls/7.wav"


@pytest.mark.parametrize(
    "signed",
    [
        f"{URL}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=k%2F20260101&X-Amz-Signature=aa",
        f"{URL}?Expires=1&Signature=b~&Key-Pair-Id=c",
        f"{URL}?X-Goog-Signature=aa",
        f"{URL}?se=2026-01-01&sr=b&sp=r&sv=2024&sig=x",
    ],
)
def test_an_address_that_is_signed_anew_means_the_same_recording(signed: str) -> None:
    """Providers sign the address of a recording for each webhook."""
    assert identity_of(RECORD, signed) == identity_of(RECORD, URL)


@pytest.mark.parametrize(
    ("record", "url"),
    [
        (RECORD, f"{URL}?channel=2"),
        (RECORD, "https://media.example.com/calls/8.wav"),
        (RECORD, "https://other.example.com/calls/7.wav"),
        (replace(RECORD, call_id="d"), URL),
        (replace(RECORD, principal="tenant:globex"), URL),
    ],
)
def test_whatever_else_differs_is_another_recording(record: Record, url: str) -> None:
    """Another channel, another call, another tenant: one never stands for the other."""
    assert identity_of(record, url) != identity_of(RECORD, URL)


@pytest.mark.parametrize(
    "address", [None, 7, "", "s3://bucket/key", "file:///etc/passwd", "rtsp://h/x", "https://[bad]/x"]
)
def test_what_has_no_address_of_http_is_not_fetched(address: object) -> None:
    """LiveKit's egress names objects in the user's own bucket."""
    assert not can_be_copied(address)


async def test_each_tenant_has_its_recordings_in_its_own_place(tmp_path: Path) -> None:
    """Those of a source that has a store go there, all others to the shared one; an erasure looks into all of them.
    Where there is no shared one, nothing is kept, and the reason says what to set."""
    owners = {"acme-retell": "acme"}
    shared, acme = (DirectoryRecordings(tmp_path / name, owners) for name in ("shared", "acme"))
    store = RecordingsBySource(shared, {"acme-retell": acme, "acme-vapi": acme})
    for source in ("retell", "acme-retell", "acme-vapi"):
        await store.put(f"2026-01-02/{source}/c/r.mp3", "audio/mpeg", sound())
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.mp3")}
    assert kept == {
        "shared/2026-01-02/retell/c/r.mp3",
        "acme/2026-01-02/acme-retell/c/r.mp3",
        "acme/2026-01-02/acme-vapi/c/r.mp3",
    }
    address = await store.find("2026-01-02/acme-vapi/c/r.mp3")
    assert address == (tmp_path / "acme/2026-01-02/acme-vapi/c/r.mp3").as_uri()
    assert (await store.erase([CallToErase("c", None)], dry_run=True)).count == 3
    alone = RecordingsBySource(None, {"acme-retell": acme})
    with pytest.raises(NotKept, match=r"set webhooks\.recordings"):
        await alone.put("2026-01-02/retell/c/r.mp3", "audio/mpeg", sound())


async def test_cancelling_waits_for_the_thread_that_opens_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is closed under its thread stays open, or is another file by then: nothing of it is left."""
    loop = asyncio.get_running_loop()
    opening, go_on, steps = asyncio.Event(), threading.Event(), list[str]()
    opened, discard = DurableFile.open, DurableFile.discard

    def slow_open(self: DurableFile) -> None:
        loop.call_soon_threadsafe(opening.set)
        go_on.wait(5)
        opened(self)
        steps.append("opened")

    def noted_discard(self: DurableFile) -> None:
        steps.append("closed")
        discard(self)

    monkeypatch.setattr(DurableFile, "open", slow_open)
    monkeypatch.setattr(DurableFile, "discard", noted_discard)
    keeping = asyncio.create_task(DirectoryRecordings(tmp_path).put("2026-01-02/retell/c/r.mp3", "audio/mpeg", sound()))
    await asyncio.wait_for(opening.wait(), 30)
    keeping.cancel()
    loop.call_later(0.1, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert steps == ["opened", "closed"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def sound() -> AsyncIterator[bytes]:
    yield b"sound"


async def test_a_name_that_is_not_durable_yet_is_made_so_before_it_is_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may be killed, or its disk fail, between the name of a recording and the flush of its directory: the
    next delivery finds the file, and must not call it kept while a power cut can take it away."""

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def audio() -> AsyncIterator[bytes]:
        yield b"RIFF"

    store, name = DirectoryRecordings(tmp_path), "2026-01-01/source/call/audio.wav"
    with monkeypatch.context() as broken:
        broken.setattr(durable_file, "sync_directory", fail)
        with pytest.raises(NotKept):
            await store.put(name, "audio/wav", audio())
        assert (tmp_path / name).read_bytes() == b"RIFF"
        with pytest.raises(NotKept):
            await store.find(name)
    assert await store.find(name) == (tmp_path / name).as_uri()
