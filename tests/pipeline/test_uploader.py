"""The destination of a pipeline: what it takes of call logs, and what it leaves in the spool: nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from spool.records import Form, Fragment, Lane
from tests.uploaders.deliveries import Payloads, a_record
from uploaders.base import Delivered, Refused, RetryLater, Scope
from uploaders.pipeline.uploader import PipelineUploader
from uploaders.stores.pipeline import JobState
from uploaders.stores.pipeline_tables import PipelineTables
from uploaders.stores.store import PartRefused, StoreRefused, StoreUnavailable

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)

TURNS = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]


def a_delivery(payloads: Payloads, number: int, fragments: dict[Fragment, bytes], form: Form = Form.WHOLE) -> Any:
    from spool.records import Delivery

    record = a_record(payloads, number, fragments=fragments, event="call_ended")
    return Delivery(record, "pipeline", form, Lane.DETAIL, 0, 0, None)


def body(**members: object) -> dict[Fragment, bytes]:
    return {Fragment.BODY: json.dumps({"call_id": "c", "customer_number": "+1", **members}).encode()}


def members(**given: object) -> bytes:
    return json.dumps(given).encode()[1:-1]


@pytest.fixture
def queued() -> list[str]:
    return []


@pytest.fixture
def payloads() -> Payloads:
    return Payloads()


@pytest.fixture
def uploader(tables: PipelineTables, payloads: Payloads, queued: list[str], tmp_path: Path) -> PipelineUploader:
    return PipelineUploader(lambda: tables, payloads, lambda: queued.append("woken"), tmp_path)


async def test_a_batch_is_queued_in_one_transaction(
    uploader: PipelineUploader, tables: PipelineTables, payloads: Payloads, queued: list[str]
) -> None:
    """Each call once, however often it comes; who works on them is woken once."""
    batch = [a_delivery(payloads, number, body(transcript_json=TURNS)) for number in (1, 2)]
    assert await uploader.deliver_many(batch) == [Delivered()] * 2
    assert await uploader.deliver(batch[0]) == Delivered()
    assert queued == ["woken"]
    jobs = await tables.claim("", "me", 10)
    assert [(job.call_id, job.text.turns) for job in jobs] == [
        (f"call-{number}", (("caller", "hello"), ("agent", "hi"))) for number in (1, 2)
    ]
    assert {job.text.number for job in jobs} == {"+1"}


async def test_of_a_large_call_log_the_core_is_read(
    uploader: PipelineUploader, tables: PipelineTables, payloads: Payloads
) -> None:
    """The detail only where the transcript lies there: that of a call of ten hours is too long for a core."""
    base, rest = members(call_id="c"), members(telemetry_data={"session_traces": ["x" * 3_000_000]})
    derived = members(transcript_json=TURNS)
    parts = {Fragment.BASE: base, Fragment.DERIVED: derived, Fragment.REST: rest}
    assert await uploader.deliver(a_delivery(payloads, 1, parts)) == Delivered()
    assert payloads.frames_read == 2
    hours = [{"user_transcript": f"words {number}", "agent_response": "yes"} for number in range(50_000)]
    parts = {Fragment.BASE: base, Fragment.REST: members(transcript_with_metrics=hours)}
    assert await uploader.deliver(a_delivery(payloads, 2, parts)) == Delivered()
    texts = {job.call_id: job.text for job in await tables.claim("", "me", 10)}
    assert len(texts["call-1"].turns) == 2
    assert len(texts["call-2"].turns) == 5_000


@pytest.mark.parametrize("raw", [b"no json at all", b"[]", b"{}", b'{"transcript_json": "\xff"}'])
async def test_what_says_nothing_is_delivered_and_skipped(
    uploader: PipelineUploader, tables: PipelineTables, payloads: Payloads, raw: bytes
) -> None:
    """A pipeline refuses no call log for its content."""
    assert await uploader.deliver(a_delivery(payloads, 1, {Fragment.BODY: raw})) == Delivered()
    assert (await tables.status()).jobs == {JobState.QUEUED: 1}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StoreUnavailable("down"), RetryLater("down", Scope.DESTINATION)),
        (StoreRefused("no grant"), Refused("no grant", Scope.DESTINATION)),
        (PartRefused("a value"), Refused("a value")),
    ],
)
async def test_a_store_in_trouble_is_the_destinations_matter(
    uploader: PipelineUploader, tables: PipelineTables, payloads: Payloads, monkeypatch: pytest.MonkeyPatch,
    error: Exception, outcome: object,
) -> None:  # fmt: skip
    """Unless it refuses a value: then that call log is a dead letter, and no other."""

    async def enqueue(texts: list[Any]) -> int:
        if any(each.call_id == "call-1" for each in texts) or not isinstance(error, PartRefused):
            raise error
        return len(texts)

    monkeypatch.setattr(tables, "enqueue", enqueue)
    batch = [a_delivery(payloads, number, body()) for number in (1, 2)]
    expected = [outcome, Delivered()] if isinstance(error, PartRefused) else [outcome] * 2
    assert await uploader.deliver_many(batch) == expected


async def test_a_form_that_it_takes_not_is_refused(uploader: PipelineUploader, payloads: Payloads) -> None:
    """A reduced detail is for endpoints that take no full one."""
    outcome = await uploader.deliver(a_delivery(payloads, 1, {Fragment.REST: b'"a": 1'}, Form.REDUCED))
    assert isinstance(outcome, Refused)
