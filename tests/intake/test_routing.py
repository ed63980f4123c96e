"""Which deliveries a record owes."""

import pytest

from gateway.fanout import ANY_OTHER, DestinationRoute, RouteKind, StoredAs, TenantPlans, delivery_plans, plan
from gateway.intake.parse import CallLog, SizeRule, parse
from gateway.tenants import UNASSIGNED, Tenant, TenantTable
from spool.records import Form, Fragment, Lane, NewDelivery
from uploaders.document.options import Large

ENDPOINT = DestinationRoute("endpoint")
WHOLE = DestinationRoute("endpoint", large=Large.WHOLE)
PRESIGNED = DestinationRoute("endpoint", large=Large.PRESIGNED)
REFERENCED = DestinationRoute("endpoint", large=Large.PRESIGNED, referenced=True)
UPLOADS = DestinationRoute("endpoint", RouteKind.UPLOADS)
TOLD_OF_UPLOADS = DestinationRoute("endpoint", RouteKind.UPLOADS, referenced=True)
LONE_BUCKET = DestinationRoute("bucket", RouteKind.BUCKET)
BUCKET = DestinationRoute("bucket", RouteKind.BUCKET, notifies="endpoint")
OTHER = DestinationRoute("other")
REDUCED = DestinationRoute("endpoint", detail=Form.REDUCED)
CORES_ONLY = DestinationRoute("endpoint", detail=None)
STORE = DestinationRoute("store", RouteKind.STORE)
BROKER = DestinationRoute("broker", RouteKind.BROKER)
TELLING_THE_BROKER = DestinationRoute("bucket", RouteKind.BUCKET, notifies="broker")
OVERFLOWING = DestinationRoute("endpoint", overflows=True)


def stored(form: Form, lane: Lane) -> NewDelivery:
    return to("store", form, lane, ordered=False, last_write_wins=False)


def message(form: Form, lane: Lane, **more: object) -> NewDelivery:
    return to("broker", form, lane, ordered=False, last_write_wins=False, **more)


def to(name: str, form: Form, lane: Lane, **more: object) -> NewDelivery:
    return NewDelivery(name, form, lane, **more)  # type: ignore[arg-type]  # a shorthand


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([], []),
        ([ENDPOINT], [to("endpoint", Form.WHOLE, Lane.CORE)]),
        ([WHOLE], [to("endpoint", Form.WHOLE, Lane.CORE)]),
        ([PRESIGNED], [to("endpoint", Form.WHOLE, Lane.CORE)]),
        ([REFERENCED], [to("endpoint", Form.WHOLE, Lane.CORE)]),
        ([UPLOADS], [to("endpoint", Form.WHOLE, Lane.CORE)]),
        (
            [TOLD_OF_UPLOADS],
            [to("endpoint", Form.WHOLE, Lane.CORE), to("endpoint", Form.NOTICE, Lane.CORE, after="endpoint")],
        ),
        ([LONE_BUCKET], [to("bucket", Form.WHOLE, Lane.CORE, ordered=False)]),
        ([BUCKET, ENDPOINT], [to("endpoint", Form.WHOLE, Lane.CORE)]),
        ([ENDPOINT, OTHER], [to("endpoint", Form.WHOLE, Lane.CORE), to("other", Form.WHOLE, Lane.CORE)]),
        ([STORE], [stored(Form.WHOLE, Lane.CORE)]),
    ],
)
def test_a_record_in_one_piece_goes_whole_and_at_once(
    routes: list[DestinationRoute], expected: list[NewDelivery]
) -> None:
    """A small record owes every destination the whole, in the core lane; a bucket beside an endpoint nothing."""
    assert plan(routes, StoredAs.SINGLE) == tuple(expected)


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([ENDPOINT], [to("endpoint", Form.CORE, Lane.CORE), to("endpoint", Form.DETAIL, Lane.DETAIL)]),
        ([WHOLE], [to("endpoint", Form.WHOLE, Lane.DETAIL)]),
        ([REDUCED], [to("endpoint", Form.CORE, Lane.CORE), to("endpoint", Form.REDUCED, Lane.DETAIL)]),
        ([CORES_ONLY], [to("endpoint", Form.CORE, Lane.CORE)]),
        (
            [BUCKET, CORES_ONLY],
            [
                to("bucket", Form.DETAIL, Lane.DETAIL, ordered=False),
                to("endpoint", Form.CORE, Lane.CORE),
                to("endpoint", Form.NOTICE, Lane.CORE, after="bucket"),
            ],
        ),
        (
            [BUCKET, OVERFLOWING],
            [to("endpoint", Form.CORE, Lane.CORE), to("endpoint", Form.DETAIL, Lane.DETAIL)],
        ),
        ([PRESIGNED], [to("endpoint", Form.WHOLE, Lane.DETAIL)]),
        ([UPLOADS], [to("endpoint", Form.WHOLE, Lane.DETAIL)]),
        (
            [TOLD_OF_UPLOADS],
            [to("endpoint", Form.WHOLE, Lane.DETAIL), to("endpoint", Form.NOTICE, Lane.CORE, after="endpoint")],
        ),
        (
            [REFERENCED],
            [
                to("endpoint", Form.WHOLE, Lane.DETAIL),
                to("endpoint", Form.NOTICE, Lane.CORE, after="endpoint"),
            ],
        ),
        (
            [LONE_BUCKET],
            [
                to("bucket", Form.CORE, Lane.CORE, ordered=False),
                to("bucket", Form.DETAIL, Lane.DETAIL, ordered=False),
            ],
        ),
        (
            [BUCKET, ENDPOINT, OTHER],
            [
                to("bucket", Form.DETAIL, Lane.DETAIL, ordered=False),
                to("endpoint", Form.CORE, Lane.CORE),
                to("endpoint", Form.NOTICE, Lane.CORE, after="bucket"),
                to("other", Form.CORE, Lane.CORE),
                to("other", Form.DETAIL, Lane.DETAIL),
            ],
        ),
        ([STORE], [stored(Form.CORE, Lane.CORE), stored(Form.DETAIL, Lane.DETAIL)]),
    ],
)
def test_a_large_record_goes_as_its_destination_wants_it(
    routes: list[DestinationRoute], expected: list[NewDelivery]
) -> None:
    """Core and detail, or the whole in the detail lane; with a bucket, its object and a notice of that."""
    assert plan(routes, StoredAs.TWO_PHASE) == tuple(expected)


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([ENDPOINT], [to("endpoint", Form.WHOLE, Lane.DETAIL)]),
        ([WHOLE], [to("endpoint", Form.WHOLE, Lane.DETAIL)]),
        ([CORES_ONLY], []),
        ([PRESIGNED], [to("endpoint", Form.WHOLE, Lane.DETAIL)]),
        ([LONE_BUCKET], [to("bucket", Form.WHOLE, Lane.DETAIL, ordered=False)]),
        (
            [BUCKET, ENDPOINT],
            [
                to("bucket", Form.WHOLE, Lane.DETAIL, ordered=False),
                to("endpoint", Form.NOTICE, Lane.CORE, after="bucket"),
            ],
        ),
        ([BUCKET, OVERFLOWING], [to("endpoint", Form.WHOLE, Lane.DETAIL)]),
        ([STORE], [stored(Form.WHOLE, Lane.DETAIL)]),
    ],
)
def test_a_detail_of_another_gateway_goes_on_as_it_came(
    routes: list[DestinationRoute], expected: list[NewDelivery]
) -> None:
    """A Phase 2 body is never split again: it goes in one piece and never before cores, or as an object."""
    assert plan(routes, StoredAs.DETAIL) == tuple(expected)


def test_a_destination_gets_the_events_that_it_subscribes_to() -> None:
    """Without a subscription it gets every event; with one only these, and references are read by nobody else."""
    ends = DestinationRoute("ends", events=frozenset({"call_ended"}))
    reading = DestinationRoute("references", RouteKind.REFERENCES, events=frozenset({"s3_reference"}))
    plans = delivery_plans([ENDPOINT, ends, reading])

    def who(event: str) -> list[str]:
        return [
            delivery.destination for delivery in plans.get((StoredAs.SINGLE, event), plans[StoredAs.SINGLE, ANY_OTHER])
        ]

    assert who("call_ended") == ["endpoint", "ends"]
    assert who("s3_reference") == ["endpoint", "references"]
    assert who("anything") == ["endpoint"]


@pytest.mark.parametrize(
    ("stored_as", "routes", "expected"),
    [
        (StoredAs.SINGLE, [BROKER], [message(Form.WHOLE, Lane.CORE)]),
        (StoredAs.TWO_PHASE, [BROKER], [message(Form.CORE, Lane.CORE), message(Form.DETAIL, Lane.DETAIL)]),
        (StoredAs.MEDIUM, [BROKER], [message(Form.CORE, Lane.CORE), message(Form.DETAIL, Lane.DETAIL)]),
        (StoredAs.DETAIL, [BROKER], [message(Form.WHOLE, Lane.DETAIL)]),
        (StoredAs.SINGLE, [BROKER, TELLING_THE_BROKER], [message(Form.WHOLE, Lane.CORE)]),
        (
            StoredAs.MEDIUM,
            [BROKER, TELLING_THE_BROKER],
            [
                message(Form.CORE, Lane.CORE),
                message(Form.NOTICE, Lane.CORE, after="bucket"),
                to("bucket", Form.DETAIL, Lane.DETAIL, ordered=False),
            ],
        ),
        (
            StoredAs.DETAIL,
            [BROKER, TELLING_THE_BROKER],
            [
                message(Form.NOTICE, Lane.CORE, after="bucket"),
                to("bucket", Form.WHOLE, Lane.DETAIL, ordered=False),
            ],
        ),
    ],
)
def test_a_broker_gets_what_fits_into_a_message(
    stored_as: StoredAs, routes: list[DestinationRoute], expected: list[NewDelivery]
) -> None:
    """Each event is a message, in no order; what is too large goes to its bucket, and the notice is the message."""
    assert plan(routes, stored_as) == tuple(expected)


@pytest.mark.parametrize("route", [ENDPOINT, UPLOADS, LONE_BUCKET, STORE, WHOLE, PRESIGNED])
def test_what_is_too_large_for_a_message_alone_is_small_for_all_others(route: DestinationRoute) -> None:
    """Beside a broker, nobody else gets a call log in another form, or later."""
    assert plan([route], StoredAs.MEDIUM) == plan([route], StoredAs.SINGLE)


@pytest.mark.parametrize(
    ("event", "size", "limit", "stored_as"),
    [
        ("call_ended", 2_000, 1_000, StoredAs.MEDIUM),
        ("call_ended", 2_000, 3_000, StoredAs.SINGLE),
        ("call_ended", 2_000, None, StoredAs.SINGLE),
        ("call_ended", 9_000, 1_000, StoredAs.TWO_PHASE),
        ("call_detail", 2_000, 1_000, StoredAs.DETAIL),
    ],
)
def test_the_largest_message_decides_what_is_stored_in_fragments(
    event: str, size: int, limit: int | None, stored_as: StoredAs
) -> None:
    """A call log that a broker takes no message of has a core for it, and is still there as a whole for the others."""
    says = '"update_type":"detailed_telemetry"' if event == "call_detail" else f'"wcall_event":"{event}"'
    body = f'{{"call_id":"c",{says},"telemetry_data":"{"x" * size}"}}'.encode()
    rule = SizeRule(two_phase_raw_threshold=5_000, core_max_bytes=500, message_max_bytes=limit)
    parsed = parse(body, bytearray, rule)
    assert isinstance(parsed, CallLog)
    assert parsed.stored_as is stored_as
    assert (Fragment.REST in parsed.pieces) is (stored_as in {StoredAs.MEDIUM, StoredAs.TWO_PHASE})


def test_a_tenants_own_destination_gets_nobody_elses_call_logs() -> None:
    """What belongs to nobody is planned for it too, and held there; what is nobody's own gets everything at once."""
    table = TenantTable([Tenant("acme", destinations=frozenset({"bucket"})), Tenant("other")])
    plans = TenantPlans([ENDPOINT, LONE_BUCKET], table)

    def who(tenant: str) -> list[tuple[str, bool]]:
        return [(one.destination, one.held) for one in plans.of(tenant)[StoredAs.SINGLE, ANY_OTHER]]

    assert who("acme") == [("endpoint", False), ("bucket", False)]
    assert who("other") == who("one that was removed") == [("endpoint", False)]
    assert who(UNASSIGNED) == [("endpoint", False), ("bucket", True)]


def test_what_goes_out_at_once_waits_for_no_tenants_own_bucket() -> None:
    """What is held there may be given up once it is known whose call it is: a notice of it would tell of nothing, and
    the endpoint would never get the detail."""
    table = TenantTable([Tenant("acme", destinations=frozenset({"bucket"})), Tenant("other")])
    plans = TenantPlans([ENDPOINT, BUCKET], table)
    of_other, of_nobody = (plans.of(tenant)[StoredAs.TWO_PHASE, ANY_OTHER] for tenant in ("other", UNASSIGNED))
    assert of_nobody == (*of_other, to("bucket", Form.DETAIL, Lane.DETAIL, ordered=False, held=True))
    assert of_other == (to("endpoint", Form.CORE, Lane.CORE), to("endpoint", Form.DETAIL, Lane.DETAIL))
