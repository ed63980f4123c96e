"""What becomes of the delivery of a recording whose update cannot be accepted, or whose call log cannot be read."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.intake.responses import Rejection
from gateway.webhooks.recordings import RecordingCopier, identity_of
from spool.errors import CorruptPayload, SpoolUnavailable
from spool.records import Delivery, Fragment
from tests.intake.running_intake import RunningIntake, running
from tests.uploaders.deliveries import ACCEPTED_AT, Payloads, a_delivery, a_record
from uploaders.base import Delivered, RetryLater, Scope
from uploaders.http.download import Downloader
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
