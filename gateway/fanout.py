"""Fan-out: which deliveries a record owes to which destination. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from gateway.tenants import UNASSIGNED, TenantTable
from spool.records import Form, Lane, NewDelivery
from uploaders.document.options import Large


class RouteKind(StrEnum):
    """What a destination is, as far as the plan depends on it."""

    ENDPOINT = "endpoint"
    """Takes requests one after the other, so that the deliveries of a call keep their order: http, file."""
    UPLOADS = "uploads"
    """Takes every call log whole, through an upload address: presigned."""
    BUCKET = "bucket"
    """Takes objects, which wait for nothing: s3."""
    STORE = "store"
    """Keeps every event of a call and puts them together itself, so that none waits for another: the stores."""
    REFERENCES = "references"
    """Not a configured one: reads the objects that notes refer to, so that what they hold reaches the stores."""
    RECORDINGS = "recordings"
    """Not a configured one: fetches the recordings that call logs refer to."""
    PIPELINE = "pipeline"
    """Queues calls to be worked on, and waits for nothing: pipeline."""
    BROKER = "broker"
    """Keeps every event of a call for others to read, in messages of a limited size: kafka."""


class StoredAs(StrEnum):
    """How a record is stored, which decides what can be made of it."""

    SINGLE = "single"
    """As it came: only a whole."""
    TWO_PHASE = "two_phase"
    """In fragments: core, detail, or whole."""
    MEDIUM = "medium"
    """In fragments, because a broker takes no message of this size: for all others a whole, and small."""
    DETAIL = "detail"
    """As it came, a large detail that was split off elsewhere: only a whole, of the detail lane."""


@dataclass(frozen=True, slots=True)
class DestinationRoute:
    """What the plan needs to know about a destination."""

    name: str
    kind: RouteKind = RouteKind.ENDPOINT
    large: Large = Large.TWO_PHASE
    """For an endpoint only."""
    referenced: bool = False
    """With PRESIGNED, or for UPLOADS: whether the endpoint gets a notice of each upload."""
    detail: Form | None = Form.DETAIL
    """With TWO_PHASE: whether it is sent details in full or reduced; None: it is sent none."""
    overflows: bool = False
    """With TWO_PHASE: whether the bucket that notifies it gets only the details that it refuses as too large."""
    notifies: str | None = None
    """For a bucket: the endpoint that gets the rest of the call log and a notice of the detail's object.

    None: the bucket stands alone and takes everything.
    """
    forwards_token: bool = False
    """Whether it is sent the agent's own token."""
    events: frozenset[str] | None = None
    """The events that it subscribes to; None: every event that is posted."""

    def gets(self, event: str) -> bool:
        """Whether call logs of this event are for it."""
        return self.events is None or event in self.events


ANY_OTHER = ""
"""Stands for all events that no destination names."""


def delivery_plans(destinations: Sequence[DestinationRoute]) -> dict[tuple[StoredAs, str], tuple[NewDelivery, ...]]:
    """The deliveries that a new record owes: for each event that a destination names, and for `ANY_OTHER`."""
    named = frozenset(event for route in destinations for event in route.events or ())
    return {
        (stored_as, event): plan([route for route in destinations if route.gets(event)], stored_as)
        for stored_as in StoredAs
        for event in (*named, ANY_OTHER)
    }


class TenantPlans:
    """The same for each tenant, worked out when the first record of a tenant comes."""

    def __init__(self, destinations: Sequence[DestinationRoute], tenants: TenantTable) -> None:
        self._destinations = destinations
        self._tenants = tenants
        self._plans: dict[str, dict[tuple[StoredAs, str], tuple[NewDelivery, ...]]] = {}

    def of(self, tenant: str) -> Mapping[tuple[StoredAs, str], tuple[NewDelivery, ...]]:
        """The plans of a tenant. For what belongs to nobody, the deliveries to any tenant's own destination are held
        until somebody says whose it is."""
        if tenant not in self._plans:
            self._plans[tenant] = self._plans_of(tenant)
        return self._plans[tenant]

    def _plans_of(self, tenant: str) -> dict[tuple[StoredAs, str], tuple[NewDelivery, ...]]:
        own = self._tenants.own_destinations
        known = self._tenants.tenants.get(tenant)
        mine = known.destinations if known else frozenset()
        destinations = [each for each in self._destinations if each.name not in own or each.name in mine]
        if tenant != UNASSIGNED:
            return delivery_plans(destinations)
        # What is sent at once waits for nothing that is held, which may be given up: it is as of any other tenant.
        return {
            (stored_as, event): (
                *plan([route for route in destinations if route.gets(event)], stored_as),
                *[replace(one, held=True) for one in owed if one.destination in own],
            )
            for (stored_as, event), owed in delivery_plans(self._destinations).items()
        }


def plan(destinations: Sequence[DestinationRoute], stored_as: StoredAs) -> tuple[NewDelivery, ...]:
    """The deliveries that a new record owes, in the order of the destinations, whatever its event."""
    sent_first = {route.name for route in destinations if route.overflows}
    buckets = [route for route in destinations if route.notifies is not None and route.notifies not in sent_first]
    bucket_of = {route.notifies: route.name for route in buckets}
    owed: list[NewDelivery] = []
    brokers = {route.name for route in destinations if route.kind is RouteKind.BROKER}
    elsewhere = StoredAs.SINGLE if stored_as is StoredAs.MEDIUM else stored_as
    for route in destinations:
        if route.kind is RouteKind.BROKER:
            owed.extend(_to_broker(route, stored_as, bucket_of.get(route.name)))
        elif route.kind is RouteKind.BUCKET:
            to_bucket = stored_as if route.notifies in brokers else elsewhere
            owed.extend([] if route.notifies in sent_first else _to_bucket(route, to_bucket))
        elif route.kind is RouteKind.STORE:
            owed.extend(_to_store(route, elsewhere))
        elif route.kind in {RouteKind.REFERENCES, RouteKind.RECORDINGS, RouteKind.PIPELINE}:
            owed.append(NewDelivery(route.name, Form.WHOLE, Lane.DETAIL, ordered=False, last_write_wins=False))
        elif route.kind is RouteKind.UPLOADS:
            owed.extend(_uploaded(route, Lane.CORE if elsewhere is StoredAs.SINGLE else Lane.DETAIL))
        else:
            owed.extend(_to_endpoint(route, elsewhere, bucket_of.get(route.name)))
    return tuple(owed)


def _to_endpoint(route: DestinationRoute, stored_as: StoredAs, bucket: str | None) -> Iterator[NewDelivery]:
    """With a bucket, the endpoint gets a notice of the detail's object instead of the detail."""
    if stored_as is StoredAs.SINGLE:
        yield NewDelivery(route.name, Form.WHOLE, Lane.CORE)
    elif route.large is Large.PRESIGNED:
        yield from _uploaded(route, Lane.DETAIL)
    elif stored_as is StoredAs.DETAIL:
        if bucket is not None:
            yield NewDelivery(route.name, Form.NOTICE, Lane.CORE, after=bucket)
        elif route.detail is not None:
            yield NewDelivery(route.name, Form.WHOLE, Lane.DETAIL)
    elif route.large is Large.WHOLE:
        yield NewDelivery(route.name, Form.WHOLE, Lane.DETAIL)
    else:
        yield NewDelivery(route.name, Form.CORE, Lane.CORE)
        if bucket is not None:
            yield NewDelivery(route.name, Form.NOTICE, Lane.CORE, after=bucket)
        elif route.detail is not None:
            yield NewDelivery(route.name, route.detail, Lane.DETAIL)


def _uploaded(route: DestinationRoute, lane: Lane) -> Iterator[NewDelivery]:
    """The whole, and a notice of it where that is wanted."""
    yield NewDelivery(route.name, Form.WHOLE, lane)
    if route.referenced:
        yield NewDelivery(route.name, Form.NOTICE, Lane.CORE, after=route.name)


def _to_bucket(route: DestinationRoute, stored_as: StoredAs) -> Iterator[NewDelivery]:
    """Beside an endpoint only the detail is an object; what is small is there already."""
    alone = route.notifies is None
    if stored_as in {StoredAs.TWO_PHASE, StoredAs.MEDIUM}:
        if alone:
            yield NewDelivery(route.name, Form.CORE, Lane.CORE, ordered=False)
        yield NewDelivery(route.name, Form.DETAIL, Lane.DETAIL, ordered=False)
    elif stored_as is StoredAs.DETAIL:
        yield NewDelivery(route.name, Form.WHOLE, Lane.DETAIL, ordered=False)
    elif alone:
        yield NewDelivery(route.name, Form.WHOLE, Lane.CORE, ordered=False)


def _to_broker(route: DestinationRoute, stored_as: StoredAs, bucket: str | None) -> Iterator[NewDelivery]:
    """As to a store; what is too large for a message goes to the bucket, and its notice here (claim check)."""
    if stored_as is StoredAs.SINGLE:
        yield _event(route, Form.WHOLE, Lane.CORE)
        return
    if stored_as is not StoredAs.DETAIL:
        yield _event(route, Form.CORE, Lane.CORE)
    if bucket is not None:
        yield replace(_event(route, Form.NOTICE, Lane.CORE), after=bucket)
    else:
        yield _event(route, Form.WHOLE if stored_as is StoredAs.DETAIL else Form.DETAIL, Lane.DETAIL)


def _to_store(route: DestinationRoute, stored_as: StoredAs) -> Iterator[NewDelivery]:
    """Nothing has an order, and nothing is superseded: a late start completes its call."""
    forms = {
        StoredAs.SINGLE: ((Form.WHOLE, Lane.CORE),),
        StoredAs.TWO_PHASE: ((Form.CORE, Lane.CORE), (Form.DETAIL, Lane.DETAIL)),
        StoredAs.DETAIL: ((Form.WHOLE, Lane.DETAIL),),
    }
    for form, lane in forms[stored_as]:
        yield _event(route, form, lane)


def _event(route: DestinationRoute, form: Form, lane: Lane) -> NewDelivery:
    """What is kept beside every other event of its call."""
    return NewDelivery(route.name, form, lane, ordered=False, last_write_wins=False)
