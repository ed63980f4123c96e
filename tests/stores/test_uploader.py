"""Deliveries become parts of calls: through the real embedded store, from records as a spool has them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from spool.errors import CorruptPayload
from spool.records import Delivery, Form, Fragment, Lane
from tests.stores.calls import document_of
from tests.stores.engines import SqliteEngine
from tests.stores.writing import Counts, RefusingStore
from tests.uploaders.deliveries import Payloads, a_delivery, a_record, large_fragments
from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.stores.completion import CallState
from uploaders.stores.options import DetailOptions, SpansStored
from uploaders.stores.parts import PartKind
from uploaders.stores.store import Store, StoreRefused, StoreUnavailable
from uploaders.stores.uploader import StoreUploader

TELEMETRY = {"session_traces": [{"name": "llm", "operation_type": "llm"}, {"name": "tts"}]}


@pytest.fixture
def payloads() -> Payloads:
    return Payloads()


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def engine(tmp_path: Path) -> SqliteEngine:
    return SqliteEngine(tmp_path)


@pytest.fixture
async def uploader(
    engine: SqliteEngine, payloads: Payloads, counts: Counts, tmp_path: Path
) -> AsyncIterator[StoreUploader]:
    made = StoreUploader("db", engine.store(), payloads, counts, tmp_path, 100)
    yield made
    await made.close()


def posted(payloads: Payloads, number: int, event: str, call_id: str = "call-1", **fields: object) -> Delivery:
    """A whole, as it came."""
    body = json.dumps({"call_id": call_id, "wcall_event": event, **fields}).encode()
    record = a_record(
        payloads, number, call_id=call_id, event=event, digest=number.to_bytes(32), fragments={Fragment.BODY: body}
    )
    return a_delivery(record, destination="db")


async def test_two_phases_of_a_sidecar_become_one_call(
    uploader: StoreUploader, payloads: Payloads, store: Store
) -> None:
    """Start, core and Phase 2 body, each its own record here, are one complete call with its detail and spans."""
    deliveries = [
        posted(payloads, 1, "call_started"),
        posted(payloads, 2, "call_ended", summary_metrics={"total_turns": 2}),
        posted(payloads, 3, "call_detail", update_type="detailed_telemetry", telemetry_data=TELEMETRY),
    ]
    assert await uploader.deliver_many(deliveries) == [Delivered()] * 3
    call = await store.call("", "call-1")
    assert call is not None
    assert (call.summary.state, call.summary.has_detail) == (CallState.COMPLETE, True)
    assert call.summary.fields.summary == {"turns": 2}
    assert json.loads(await document_of(store.detail("", "call-1")))["telemetry_data"] == TELEMETRY


async def test_a_large_call_log_is_stored_as_core_and_detail(
    uploader: StoreUploader, payloads: Payloads, store: Store, engine: SqliteEngine
) -> None:
    """The core is the document of the call, the detail its frames: together what was posted, each value unchanged."""
    rest = b'"telemetry_data": {"session_traces": [{"name": "a"}], "n": 1.10, "s": "\\ud800"}'
    record = a_record(payloads, fragments=large_fragments(rest))
    for form in (Form.CORE, Form.DETAIL):
        assert await uploader.deliver(a_delivery(record, form)) == Delivered()
    call = await store.call("", "call-1")
    assert call is not None
    assert b'"n": 1.10' in call.parts[0].document
    assert rest in await document_of(store.detail("", "call-1"))
    assert engine.rows("select name from spans") == [("a",)]


@pytest.mark.parametrize("base", [b'"metadata": {"telemetry_data": {}}', b'"fields": ["telemetry_data"]'])
async def test_a_core_is_no_detail_whatever_it_speaks_of(
    uploader: StoreUploader, payloads: Payloads, store: Store, base: bytes
) -> None:
    """The detail of the same record comes after it, and is stored."""
    fragments = large_fragments(b'"telemetry_data": {"session_traces": [{"name": "a"}]}')
    record = a_record(payloads, fragments={**fragments, Fragment.BASE: b'"call_id": "call-1", ' + base})
    for form in (Form.CORE, Form.DETAIL):
        assert await uploader.deliver(a_delivery(record, form)) == Delivered()
    detail = json.loads(await document_of(store.detail("", "call-1")))
    assert detail["telemetry_data"] == {"session_traces": [{"name": "a"}]}


async def test_a_whole_with_telemetry_is_its_own_detail(
    uploader: StoreUploader, payloads: Payloads, store: Store, engine: SqliteEngine
) -> None:
    """What was small enough to come in one piece is found by the same questions as what was not."""
    delivery = posted(payloads, 1, "call_ended", telemetry_data=TELEMETRY)
    assert await uploader.deliver(delivery) == Delivered()
    assert json.loads(await document_of(store.detail("", "call-1")))["telemetry_data"] == TELEMETRY
    assert engine.rows("select name, operation from spans order by seq") == [("llm", "llm"), ("tts", None)]


async def test_spans_can_be_left_to_the_detail(
    engine: SqliteEngine, payloads: Payloads, counts: Counts, tmp_path: Path
) -> None:
    """Without columns for spans, details are stored all the same."""
    uploader = StoreUploader(
        "db", engine.store(), payloads, counts, tmp_path, 100, options=DetailOptions(SpansStored.NONE)
    )
    assert await uploader.deliver(posted(payloads, 1, "call_detail", telemetry_data=TELEMETRY)) == Delivered()
    await uploader.close()
    assert engine.rows("select count(*) from spans") == [(0,)]
    assert engine.rows("select count(*) from call_details") == [(1,)]


async def test_a_notice_is_a_part_with_its_reference(uploader: StoreUploader, payloads: Payloads, store: Store) -> None:
    """Where the object lies is kept with the call."""
    notice = a_delivery(a_record(payloads), Form.NOTICE, location="s3://bucket/key")
    assert await uploader.deliver(notice) == Delivered()
    call = await store.call("", "call-1")
    assert call is not None
    assert [part.kind for part in call.parts] == [PartKind.REFERENCE]
    assert json.loads(call.parts[0].document)["s3_key"] == "key"
    nowhere = await uploader.deliver(a_delivery(a_record(payloads), Form.NOTICE, location=None))
    assert isinstance(nowhere, Refused)


async def test_a_reduced_detail_is_refused(uploader: StoreUploader, payloads: Payloads) -> None:
    """A store takes full details."""
    reduced = a_delivery(a_record(payloads, fragments=large_fragments()), Form.REDUCED, lane=Lane.DETAIL)
    assert isinstance(await uploader.deliver(reduced), Refused)


async def test_delivering_again_changes_nothing(
    uploader: StoreUploader, payloads: Payloads, engine: SqliteEngine
) -> None:
    """A delivery of which nobody saw the end is made again, and is there once."""
    deliveries = [posted(payloads, 1, "call_ended", telemetry_data=TELEMETRY), posted(payloads, 2, "call_started")]
    for _ in range(2):
        assert await uploader.deliver_many(deliveries) == [Delivered()] * 2
    assert engine.rows("select count(*) from call_parts") == [(3,)]
    assert engine.rows("select count(*) from spans") == [(2,)]


async def test_tenants_share_no_call(uploader: StoreUploader, payloads: Payloads, store: Store) -> None:
    """The tenant of a record is the project of its parts: the same call id of two tenants is two calls."""
    for number, tenant in enumerate(("a", "b", None)):
        delivery = posted(payloads, number, "call_started")
        record = replace(delivery.record, tenant=tenant)
        assert await uploader.deliver(replace(delivery, record=record)) == Delivered()
    assert [await store.call(project, "call-1") is not None for project in ("a", "b", "", "c")] == [True] * 3 + [False]


async def test_a_lost_payload_is_the_spool_s_matter(uploader: StoreUploader, payloads: Payloads) -> None:
    """What cannot be read is told to whoever dispatches, and nothing is written."""
    delivery = posted(payloads, 1, "call_ended")
    payloads.corrupt(1, Fragment.BODY)
    with pytest.raises(CorruptPayload):
        await uploader.deliver(delivery)


async def test_one_refused_part_blocks_nobody(payloads: Payloads, counts: Counts, tmp_path: Path) -> None:
    """A refused batch is halved until the part at fault is alone: that one is refused, all others are written."""
    store = RefusingStore(tmp_path, {"c5"})
    uploader = StoreUploader("db", store, payloads, counts, tmp_path, 100)
    outcomes = await uploader.deliver_many([posted(payloads, n, "call_ended", f"c{n}") for n in range(16)])
    assert [n for n, outcome in enumerate(outcomes) if outcome != Delivered()] == [5]
    assert isinstance(outcomes[5], Refused)
    assert outcomes[5].scope is Scope.RECORD
    assert store.kept == [f"c{n}" for n in range(16) if n != 5]
    assert len(store.batches) == 9
    assert counts.refused == [PartKind.END]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StoreUnavailable("down"), RetryLater("down", Scope.DESTINATION)),
        (StoreRefused("wrong database"), Refused("wrong database", Scope.DESTINATION)),
    ],
)
async def test_a_store_in_trouble_is_the_destination_s_matter(
    payloads: Payloads, counts: Counts, tmp_path: Path, error: Exception, outcome: Outcome
) -> None:
    """Everything for it waits; no record is blamed, and nothing is halved."""
    store = RefusingStore(tmp_path, error=error)
    uploader = StoreUploader("db", store, payloads, counts, tmp_path, 100)
    deliveries = [posted(payloads, n, "call_ended") for n in range(3)]
    assert await uploader.deliver_many(deliveries) == [outcome] * 3
    assert store.batches == [3]
