"""What every uploader does, whatever it delivers to: file, HTTP, S3, upload addresses, and stores."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from bench.postgres_server import PostgresServer
from bench.s3_server import Server
from spool.errors import CorruptPayload
from spool.records import Delivery, Form, Fragment
from tests.s3.destinations_under_test import KINDS, Servers, Subject, subject
from tests.s3.stored_objects import DESTINATION, MEBIBYTE, Store
from tests.uploaders.deliveries import TOKEN, Payloads, a_delivery, a_record, failed
from uploaders.base import Delivered, Refused, RetryLater, Scope

REST = b'"telemetry_data": {"spans": [1, 2.50, 1e400], "text": "' + b"~" * 2 * MEBIBYTE + b'"}'


@pytest.fixture
def payloads() -> Payloads:
    return Payloads({7: TOKEN})


SUBJECTS = [pytest.param(kind, marks=pytest.mark.prove) if kind == "clickhouse" else kind for kind in KINDS]
"""The tables of ClickHouse take half a second for each test."""


@pytest.fixture(params=SUBJECTS)
async def tested(
    request: pytest.FixtureRequest,
    payloads: Payloads,
    tmp_path: Path,
    weed: Server,
    bucket: str,
    store: Store,
    postgres_servers: Callable[[str], PostgresServer],
    broker: str,
) -> AsyncIterator[Subject]:
    servers = Servers(postgres_servers, lambda: request.getfixturevalue("clickhouse_server"))
    async with subject(request.param, payloads, tmp_path, weed, bucket, store, servers, broker) as made:
        yield made


@pytest.fixture
def deliveries(payloads: Payloads) -> Mapping[Form, Delivery]:
    """Every form of one large record; the detail last, since an endpoint wants the core first."""
    fragments = {
        Fragment.BASE: b'"call_id": "call-1", "n": 1.10',
        Fragment.DERIVED: b'"summary_metrics": {"total_turns": 2}',
        Fragment.REST: REST,
    }
    record = a_record(payloads, token_id=7, fragments=fragments)
    location = {Form.NOTICE: "s3://bucket/key"}
    return {
        form: a_delivery(record, form, destination=DESTINATION, location=location.get(form))
        for form in (Form.WHOLE, Form.CORE, Form.DETAIL, Form.NOTICE)
    }


async def test_what_it_calls_delivered_is_there_with_every_value_as_it_came(
    tested: Subject, deliveries: Mapping[Form, Delivery]
) -> None:
    """After Delivered, the document of that form is at the destination, numbers and all."""
    expected = {
        Form.WHOLE: b'{"call_id": "call-1", "n": 1.10,' + REST,
        Form.CORE: b'{"call_id": "call-1", "n": 1.10,"summary_metrics": {"total_turns": 2}}',
        Form.DETAIL: b'{"call_id": "call-1", "update_type": "detailed_telemetry",' + REST,
    }
    for form, beginning in expected.items():
        if form in tested.forms:
            assert isinstance(await tested.uploader.deliver(deliveries[form]), Delivered)
            assert any(document.startswith(beginning) for document in await tested.arrived())


async def test_delivering_again_makes_no_second_one(tested: Subject, deliveries: Mapping[Form, Delivery]) -> None:
    """An attempt whose success nobody wrote down is repeated without harm."""
    for _ in range(2):
        assert isinstance(await tested.uploader.deliver(deliveries[Form.WHOLE]), Delivered)
    (document,) = await tested.arrived()
    assert json.loads(document.replace(b"1e400", b"0"))["call_id"] == "call-1"


async def test_an_attempt_that_is_cancelled_may_be_made_again(
    tested: Subject, deliveries: Mapping[Form, Delivery]
) -> None:
    """Cancelling at any moment leaves nothing behind that keeps the next attempt from delivering."""
    for steps in (1, 5, 20, 60):
        attempt = asyncio.ensure_future(tested.uploader.deliver(deliveries[Form.WHOLE]))
        for _ in range(steps):
            await asyncio.sleep(0)
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
    assert isinstance(await tested.uploader.deliver(deliveries[Form.WHOLE]), Delivered)
    assert len(await tested.arrived()) == 1


async def test_many_deliveries_at_once_all_arrive(tested: Subject, payloads: Payloads) -> None:
    """Attempts do not disturb each other."""
    records = [a_record(payloads, number, token_id=7) for number in range(10, 18)]
    outcomes = await asyncio.gather(
        *(tested.uploader.deliver(a_delivery(record, destination=DESTINATION)) for record in records)
    )
    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    call_ids = {json.loads(document)["call_id"] for document in await tested.arrived()}
    assert call_ids == {record.call_id for record in records}


async def test_a_destination_that_is_not_there_is_an_outcome(
    tested: Subject, deliveries: Mapping[Form, Delivery]
) -> None:
    """Nobody to deliver to is a reason for the whole destination to wait, and shows no token."""
    outcome = failed(await tested.unreachable.deliver(deliveries[Form.WHOLE]))
    assert (type(outcome), outcome.scope) == (RetryLater, Scope.DESTINATION)
    assert outcome.reason
    assert TOKEN not in outcome.reason


async def test_a_damaged_payload_is_told_as_the_spools_own_error(
    tested: Subject, payloads: Payloads, deliveries: Mapping[Form, Delivery]
) -> None:
    """No destination is blamed for what the spool cannot give, and nothing is delivered."""
    payloads.corrupt(1, Fragment.REST)
    with pytest.raises(CorruptPayload):
        await tested.uploader.deliver(deliveries[Form.WHOLE])
    assert await tested.arrived() == []


async def test_a_form_that_it_does_not_deliver_is_refused(tested: Subject, deliveries: Mapping[Form, Delivery]) -> None:
    """A notice goes where notices are understood; elsewhere it is refused and not lost in silence."""
    await tested.uploader.deliver(deliveries[Form.CORE])
    outcome = await tested.uploader.deliver(deliveries[Form.NOTICE])
    assert isinstance(outcome, Delivered if Form.NOTICE in tested.forms else Refused)


async def test_it_may_be_closed_before_it_was_used(tested: Subject) -> None:
    """Closing gives back what there is, even if that is nothing, and twice is as good as once."""
    for _ in range(2):
        await tested.uploader.close()
    assert await tested.arrived() == []
