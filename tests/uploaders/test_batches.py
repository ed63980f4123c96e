"""Uploaders that deliver many at once: what goes into a batch, and what each of its deliveries gets back."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from spool.errors import CorruptPayload
from spool.records import DeadLetter, Delivery, Form, Fragment, Lane, RetryAt
from spool.records import Delivered as Settled
from tests.spool.spool_parts import ENDPOINT, Clock, Commits, due, opened
from tests.spool.spool_parts import a_record as a_new_record
from tests.uploaders.deliveries import Payloads, a_delivery, a_record
from tests.uploaders.dispatcher_stage import LONE_DETAIL, POLICY, WHOLE, Observed, Stage, ToldUploader, a_stage, names
from tests.uploaders.fake_time import FakeTime, turns
from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.dispatch.dispatcher import DestinationPlan, Dispatcher
from uploaders.file import FileUploader


class Batching(ToldUploader):
    """Delivers up to 4 at once; `batches` holds the calls of each batch. It raises for a batch with `unreadable`."""

    batch_size = 4

    def __init__(self, time: FakeTime) -> None:
        super().__init__(time)
        self.batches: list[list[str]] = []
        self.unreadable: str | None = None

    async def deliver_many(self, deliveries: Sequence[Delivery]) -> list[Outcome]:
        calls = [delivery.record.call_id for delivery in deliveries]
        self.batches.append(calls)
        if self.unreadable in calls:
            raise CorruptPayload("chunk 1 is missing")
        return [await super(Batching, self).deliver(delivery) for delivery in deliveries]

    async def deliver(self, delivery: Delivery) -> Outcome:
        if delivery.record.call_id == self.unreadable:
            raise CorruptPayload("chunk 1 is missing")
        return await super().deliver(delivery)


def batching(stage: Stage) -> Batching:
    """Its uploader."""
    assert isinstance(stage.uploader, Batching)
    return stage.uploader


def settled(stage: Stage) -> dict[str, object]:
    """What was written for each call."""
    calls = {key.record_id: entry.delivery.record.call_id for key, entry in stage.queue.entries.items()}
    return {calls[key.record_id]: settlement for key, settlement in stage.queue.settlements}


async def test_what_waits_for_the_slot_goes_as_batches() -> None:
    """Deliveries that wait for one slot go together, as many at once as the uploader takes."""
    async with a_stage(uploader=Batching) as stage:
        await stage.post_all(*names(10))
        assert batching(stage).batches == [names(4), names(4, 4), names(2, 8)]
        assert stage.uploader.calls == names(10)
        assert set(settled(stage).values()) == {Settled()}


async def test_one_that_the_uploader_fails_over_holds_up_no_other() -> None:
    """A defect that one of a batch meets fails that one alone, however often it is tried."""

    class Failing(Batching):
        """Meets it with the call `2`, in a batch and alone."""

        async def deliver_many(self, deliveries: Sequence[Delivery]) -> list[Outcome]:
            return [await self.deliver(delivery) for delivery in deliveries]

        async def deliver(self, delivery: Delivery) -> Outcome:
            if delivery.record.call_id == names(3)[2]:
                raise OverflowError
            return await super().deliver(delivery)

    async with a_stage(uploader=Failing) as stage:
        await stage.post_all(*names(4))
        assert set(stage.uploader.calls) == set(names(4)) - {names(3)[2]}
        failed = settled(stage)[names(3)[2]]
        assert isinstance(failed, RetryAt)
        assert failed.error == "the uploader failed unexpectedly: OverflowError"


async def test_a_batch_is_the_share_of_one_free_slot() -> None:
    """With slots free for all, nothing is put together: parallel attempts are faster than a batch."""
    async with a_stage(uploader=Batching, core_slots=8) as stage:
        for call_id in names(8):
            await stage.post(call_id)
        await turns()
        assert batching(stage).batches == []
        assert sorted(stage.uploader.calls) == names(8)


async def test_each_delivery_of_a_batch_has_its_own_outcome() -> None:
    """One refused and one to be retried change nothing for the others."""
    outcomes: dict[str, Outcome] = {"c0001": Refused("400"), "c0002": RetryLater("500")}
    async with a_stage(
        uploader=Batching, answer=lambda delivery: outcomes.get(delivery.record.call_id, Delivered())
    ) as stage:
        await stage.post_all(*names(4))
        assert batching(stage).batches == [names(4)]
        kinds = {call_id: type(settlement) for call_id, settlement in settled(stage).items()}
        assert kinds == {"c0000": Settled, "c0001": DeadLetter, "c0002": RetryAt, "c0003": Settled}


async def test_the_deliveries_of_a_call_never_share_a_batch() -> None:
    """The order of a call is kept: its second delivery is due only after the first one was settled."""
    async with a_stage(uploader=Batching) as stage:
        for _ in range(3):
            for call_id in ("a", "b"):
                await stage.post(call_id, WHOLE)
        await turns()
        assert batching(stage).batches == [["a", "b"]] * 3


async def test_a_probe_goes_alone() -> None:
    """To find out whether a destination takes deliveries again, one is sent and not a batch."""
    async with a_stage(uploader=Batching, answer=RetryLater("HTTP 503", Scope.DESTINATION)) as stage:
        await stage.post_all(*names(6))
        batches, attempts = list(batching(stage).batches), len(stage.uploader.calls)
        await stage.time.advance(60)
        assert len(stage.uploader.calls) > attempts
        assert batching(stage).batches == batches


async def test_an_unreadable_payload_takes_nobody_along() -> None:
    """A batch that fails because of one payload is attempted one by one: only that delivery is a dead letter."""
    async with a_stage(uploader=Batching) as stage:
        batching(stage).unreadable = "c0002"
        await stage.post_all(*names(4))
        dead = [call_id for call_id, settlement in settled(stage).items() if isinstance(settlement, DeadLetter)]
        assert dead == ["c0002"]
        assert sorted(stage.uploader.calls) == ["c0000", "c0001", "c0003"]


async def test_large_deliveries_are_not_gathered() -> None:
    """A batch ends with a call log of 1 MiB: large ones gain nothing by it, and hold up the others."""
    async with a_stage(uploader=Batching) as stage:
        for call_id in names(3):
            await stage.post(call_id, LONE_DETAIL, raw_bytes=1 << 20)
        await turns()
        assert batching(stage).batches == []
        assert stage.uploader.calls == names(3)


async def test_a_directory_flushes_shared_directories_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight files of a day: each is flushed with its own directory; the day and the root once for all."""
    flushed: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    payloads = Payloads()
    deliveries = [a_delivery(a_record(payloads, number)) for number in range(1, 9)]
    uploader = FileUploader(tmp_path, payloads)
    await uploader.deliver_many(deliveries)  # makes the directories
    monkeypatch.setattr("os.fsync", noted)
    assert await uploader.deliver_many(deliveries) == (Delivered(),) * 8
    assert len(flushed) == 8 + 8 + 2
    assert flushed[-2:] == ["2025-06-15", tmp_path.name]
    found = {json.loads(path.read_bytes())["call_id"] for path in tmp_path.rglob("*.json")}
    assert found == {delivery.record.call_id for delivery in deliveries}


async def test_a_directory_refuses_notices_alone(tmp_path: Path) -> None:
    """A form that a directory has no name for is refused beside others that are written."""
    payloads = Payloads()
    record = a_record(payloads)
    batch = [a_delivery(record), a_delivery(record, Form.NOTICE, location="s3://bucket/key")]
    outcomes = await FileUploader(tmp_path, payloads).deliver_many(batch)
    assert outcomes == (Delivered(), Refused("a directory does not accept the form notice"))


async def test_a_batch_of_files_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """A payload that cannot be read in the middle of a batch leaves no file of it behind."""
    payloads = Payloads()
    deliveries = [a_delivery(a_record(payloads, number)) for number in range(1, 4)]
    payloads.corrupt(2, Fragment.BODY)
    with pytest.raises(CorruptPayload):
        await FileUploader(tmp_path, payloads).deliver_many(deliveries)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_batch_is_settled_in_few_commits(tmp_path: Path) -> None:
    """Eight deliveries of one batch into a directory: their settlements share group commits, two at most."""
    commits = Commits()
    async with opened(tmp_path / "spool", commits=commits) as spool:
        uploader = FileUploader(tmp_path / "delivered", spool)
        slots = dict.fromkeys(Lane, 1)
        observed = Observed()
        dispatcher = Dispatcher(
            spool, {ENDPOINT: DestinationPlan(uploader, POLICY, slots)}, Clock(), lambda: 0.5, observed
        )
        for number in range(8):
            await spool.accept(a_new_record(f"call-{number}"))
        before = len(commits.batches)
        dispatcher.start()
        while await due(spool):
            pass
        await dispatcher.stop(10)
        settling = commits.batches[before:]
        assert observed.attempts == ["delivered"] * 8
        assert sum(settling) >= 8
        assert len([batch for batch in settling if batch > 1]) <= 2
        assert max(settling) >= 4
