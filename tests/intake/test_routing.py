"""Which deliveries a record owes."""

import pytest

from gateway.fanout import DeliveryPlans, DestinationRoute, RouteKind, StoredAs, plan
from spool.records import Form, Lane, NewDelivery
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
OVERFLOWING = DestinationRoute("endpoint", overflows=True)


def stored(form: Form, lane: Lane) -> NewDelivery:
    return to("store", form, lane, ordered=False, last_write_wins=False)


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
    plans = DeliveryPlans([ENDPOINT, ends, reading])

    def who(event: str) -> list[str]:
        return [delivery.destination for delivery in plans.of(StoredAs.SINGLE, event)]

    assert who("call_ended") == ["endpoint", "ends"]
    assert who("s3_reference") == ["endpoint", "references"]
    assert who("anything") == ["endpoint"]
