"""Tests of the trace of a call: pure, by table."""

import pytest

from gateway.trace import instant, trace_of
from gateway.trace_schemas import Stage
from spool.records import DeliveryState, Form, Fragment, StoredFragment
from spool.stats import TracedDelivery
from tests.admin.admin_app import NOW, traced, traced_delivery

READY, WAITING, HELD, DEAD = DeliveryState.READY, DeliveryState.WAITING, DeliveryState.HELD, DeliveryState.DEAD
DELIVERED, EXPIRED, DISCARDED = DeliveryState.DELIVERED, DeliveryState.EXPIRED, DeliveryState.DISCARDED

CORE_SENT = traced_delivery(Form.CORE, DELIVERED, settled_at=NOW)
DETAIL_SENT = traced_delivery(Form.DETAIL, DELIVERED, settled_at=NOW + 2000)


@pytest.mark.parametrize(
    ("deliveries", "stage", "where"),
    [
        ((), Stage.DELIVERED, "accepted; owed to no destination"),
        (
            (traced_delivery(Form.CORE, READY), traced_delivery(Form.DETAIL, WAITING)),
            Stage.QUEUED,
            "in the spool: core to endpoint, detail to endpoint to be sent",
        ),
        (
            (CORE_SENT, traced_delivery(Form.DETAIL, READY, error="503")),
            Stage.CORE_SENT,
            "in the spool: detail to endpoint (503) to be sent",
        ),
        (
            (traced_delivery(Form.CORE, HELD, error="401"), traced_delivery(Form.DETAIL, WAITING)),
            Stage.HELD,
            "held: core to endpoint (401)",
        ),
        (
            (CORE_SENT, traced_delivery(Form.DETAIL, DEAD, error="413")),
            Stage.DEAD,
            "dead letter: detail to endpoint (413)",
        ),
        ((CORE_SENT, DETAIL_SENT), Stage.DELIVERED, "delivered"),
        (
            (CORE_SENT, traced_delivery(Form.DETAIL, EXPIRED, settled_at=NOW)),
            Stage.GIVEN_UP,
            "given up: detail to endpoint",
        ),
        (
            (traced_delivery(Form.WHOLE, DISCARDED, settled_at=NOW),),
            Stage.GIVEN_UP,
            "given up: whole to endpoint",
        ),
        (
            (
                traced_delivery(Form.WHOLE, DELIVERED, settled_at=NOW),
                traced_delivery(Form.WHOLE, READY, destination="local"),
            ),
            Stage.QUEUED,
            "in the spool: whole to local to be sent",
        ),
    ],
)
def test_the_stage_is_the_most_pressing_thing_about_a_record(
    deliveries: tuple[TracedDelivery, ...], stage: Stage, where: str
) -> None:
    """A record's stage and sentence come from its deliveries, the most pressing first."""
    (record,) = trace_of("call-1", (traced(*deliveries),)).records
    assert (record.stage, record.where) == (stage, where)


def test_a_superseded_record_says_so() -> None:
    """A record that came too late is not mistaken for a delivered one."""
    (record,) = trace_of("call-1", (traced(superseded=True),)).records
    assert (record.stage, record.core_sent_at) == (Stage.SUPERSEDED, None)
    assert "later event" in record.where


def test_core_and_detail_have_their_own_times() -> None:
    """Accepted, core sent, detail sent: each with its time, the last destination deciding."""
    late = traced_delivery(Form.CORE, DELIVERED, destination="local", settled_at=NOW + 1000)
    (record,) = trace_of("call-1", (traced(CORE_SENT, late, DETAIL_SENT),)).records
    assert record.accepted_at == "2025-12-31T23:59:55.000Z"
    assert record.core_sent_at == "2026-01-01T00:00:01.000Z"
    assert record.detail_sent_at == "2026-01-01T00:00:02.000Z"


@pytest.mark.parametrize("form", [Form.WHOLE, Form.REDUCED])
def test_what_goes_in_place_of_a_detail_counts_as_one(form: Form) -> None:
    """A whole or a reduced detail after a core is when the detail was sent; the core has its own time."""
    instead = traced_delivery(form, DELIVERED, settled_at=NOW + 2000)
    (record,) = trace_of("call-1", (traced(CORE_SENT, instead),)).records
    assert record.core_sent_at == "2026-01-01T00:00:00.000Z"
    assert record.detail_sent_at == "2026-01-01T00:00:02.000Z"


def test_only_a_ready_delivery_has_a_next_attempt() -> None:
    """What waits for something else has no time of its next attempt."""
    deliveries = (traced_delivery(Form.CORE, READY), traced_delivery(Form.DETAIL, WAITING))
    (record,) = trace_of("call-1", (traced(*deliveries),)).records
    assert [each.next_attempt_at for each in record.deliveries] == ["2026-01-01T00:00:00.000Z", None]
    assert [each.state for each in record.deliveries] == ["ready", "waiting"]


@pytest.mark.parametrize(
    ("fragments", "form", "method"),
    [
        ({Fragment.BODY: StoredFragment(1, 1, 1)}, Form.WHOLE, "single"),
        ({Fragment.BASE: StoredFragment(1, 1, 1), Fragment.REST: StoredFragment(1, 1, 1)}, Form.WHOLE, "two_phase"),
        ({}, Form.WHOLE, "single"),
        ({}, Form.CORE, "two_phase"),
    ],
)
def test_the_upload_method_is_how_the_record_is_stored(
    fragments: dict[Fragment, StoredFragment], form: Form, method: str
) -> None:
    """A record stored in parts is two-phase however it is sent; of a receipt its deliveries tell."""
    record = traced(traced_delivery(form, DELIVERED, settled_at=NOW), fragments=fragments)
    assert trace_of("call-1", (record,)).records[0].upload_method == method


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "1970-01-01T00:00:00.000Z"), (NOW + 7, "2026-01-01T00:00:00.007Z"), (-1, "1969-12-31T23:59:59.999Z")],
)
def test_times_are_iso_8601_in_utc_with_milliseconds(milliseconds: int, text: str) -> None:
    """Times outside are text that sorts, with the precision that they are kept in."""
    assert instant(milliseconds) == text
