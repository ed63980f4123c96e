"""What becomes of the delivery of a recording whose update cannot be accepted, or whose call log cannot be read."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from gateway.intake.responses import Rejection
from gateway.webhooks.recordings import RecordingCopier, can_be_copied, identity_of
from spool.errors import CorruptPayload, SpoolUnavailable
from spool.records import Delivery, Fragment
from tests.intake.running_intake import RunningIntake, running
from tests.uploaders.deliveries import ACCEPTED_AT, Payloads, a_delivery, a_record
from uploaders.base import Delivered, RetryLater, Scope
from uploaders.http.download import Downloader, DownloadFailed
from uploaders.recordings import DirectoryRecordings
from uploaders.upload_hosts import UploadHosts

URL = "https://media.example.com/calls/7.wav"


class Copying:
    """A copier that has the recording already, and the delivery of a call log that refers to it."""

    def __init__(self, world: RunningIntake, directory: Path) -> None:
        self.world = world
        self.payloads = Payloads()
        body = {"call_id": "call-1", "recording_url": URL, "source": {"name": "vapi", "provider": "vapi"}}
        record = a_record(self.payloads, fragments={Fragment.BODY: json.dumps(body).encode()})
        self.delivery: Delivery = a_delivery(record)
        day = datetime.fromtimestamp(ACCEPTED_AT / 1000, UTC).date().isoformat()
        kept = directory / day / "vapi" / "call-1" / f"{identity_of(record, URL)}.wav"
        kept.parent.mkdir(parents=True)
        kept.write_bytes(b"sound")
        self.copier = RecordingCopier(
            Downloader(UploadHosts((), (), any_name=True), 1 << 20), DirectoryRecordings(directory),
            world.intake.reader, world.intake.acceptor, self.payloads, lambda: ACCEPTED_AT,
        )  # fmt: skip


@pytest.fixture
async def copying(tmp_path: Path) -> AsyncIterator[Copying]:
    async with running(tmp_path / "spool") as world:
        yield Copying(world, tmp_path / "recordings")


async def test_an_update_that_cannot_be_accepted_now_is_tried_again(
    copying: Copying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as the intake asks; only a spool in trouble concerns the other recordings, too."""
    acceptor = copying.world.intake.acceptor
    parse = acceptor.parse
    failures: list[Exception] = [
        Rejection(503, "parse_worker_failed", "It failed.", "Later.", retry_after=10),
        SpoolUnavailable("its disk fails"),
    ]

    async def fails(*arguments: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return await parse(*arguments)

    monkeypatch.setattr(acceptor, "parse", fails)
    rejected, unavailable, works = [await copying.copier.deliver(copying.delivery) for _ in range(3)]
    assert isinstance(rejected, RetryLater)
    assert (rejected.scope, rejected.after_seconds) == (Scope.RECORD, 10)
    assert isinstance(unavailable, RetryLater)
    assert unavailable.scope is Scope.DESTINATION
    assert isinstance(works, Delivered)
    assert (await copying.world.only_record("call-1")).record.event == "recording_ready"


async def test_a_call_log_that_is_damaged_stops_no_other_recording(copying: Copying) -> None:
    """The lane is told, which makes a dead letter of it."""
    copying.payloads.corrupt(1, Fragment.BODY)
    with pytest.raises(CorruptPayload):
        await copying.copier.deliver(copying.delivery)


NO_ADDRESSES = [
    "http://h:99999/a.wav", "http://h:abc/a.wav", "http://h:0/a.wav", "http://xn--/a.wav", "http://a..b/a.wav",
    f"http://{'a' * 64}.com/a.wav", "http://h\xe9/a.wav", "ftp://h/a.wav",
]  # fmt: skip


@pytest.mark.parametrize("address", NO_ADDRESSES)
async def test_what_is_no_address_is_not_fetched(address: str) -> None:
    """Nothing is owed for it; neither an address that is there already, nor one that a server redirects to, raises."""
    assert not can_be_copied(address)
    downloader = Downloader(UploadHosts(("127.0.0.1",), (), any_name=True), 1 << 20)

    async def redirect(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=302, headers={"Location": address})

    async with RawTestServer(redirect) as server:
        for asked, words in ((address, "not a valid HTTP URL"), (str(server.make_url("/")), "redirects to no address")):
            with pytest.raises(DownloadFailed, match=words):
                async with downloader.get(asked, now=0):
                    pass
    await downloader.close()
