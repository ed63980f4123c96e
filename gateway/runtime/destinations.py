"""The registry of destinations: for each kind its settings, its place in the plan of deliveries, and its uploader.

A further kind is a settings model in `config.destinations`, an `Uploader`, and one entry in `KINDS`. Libraries that
only one kind needs are imported by its factory, so that a gateway without that kind does without them.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from config.destinations import (
    ClickHouseDestination,
    Destination,
    DestinationTable,
    DetailSent,
    Fallback,
    FileDestination,
    HttpDestination,
    KafkaDestination,
    PipelineDestination,
    PostgresDestination,
    PresignedDestination,
    S3Destination,
    SqliteDestination,
)
from config.destinations.base import REDUCTIONS
from config.destinations.stores import StoreTable, detail_options
from gateway.admin.metrics import Metrics
from gateway.calllog.errors import CallLogError
from gateway.calllog.reduce import Critical, Policy, TopN, reduce_detail
from gateway.calllog.shape import Costly
from gateway.calls import CALL_COMPLETE
from gateway.fanout import DestinationRoute, RouteKind
from gateway.intake.routes import via_pseudonym
from gateway.live_calls import DrainThrottle
from gateway.operations.selection import Accepts
from gateway.runtime.options import http_options, kafka_options, posting_options, presigned_options, s3_options
from spool.records import OBJECT_FORMS, REQUEST_FORMS, Buffer, Clock, Form, Lane
from spool.store import Spool
from uploaders.base import Uploader
from uploaders.dispatch.policy import FallbackStep, reduced, to_bucket, upload
from uploaders.document.encoding import NotReducible, Reduction
from uploaders.document.options import Large
from uploaders.file import FileUploader
from uploaders.http.uploader import HttpUploader
from uploaders.presigned import PresignedUploader, RoutingUploader
from uploaders.rate_limit import Bandwidth, RateLimit
from uploaders.stores.completion import CompletionRule
from uploaders.stores.pipeline import Database
from uploaders.stores.sqlite.store import SqliteStore
from uploaders.stores.store import Store, StoreRefused
from uploaders.stores.uploader import FORMS as STORE_FORMS
from uploaders.stores.uploader import StoreUploader

Model = TypeVar("Model", bound=DestinationTable)


class DriverMissing(Exception):
    """A kind of destination needs a library that is not installed; says how to install it."""


class PipelineQueue:
    """Where a pipeline's calls are queued: known once every store is made."""

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self._stores = stores
        self.queued: Callable[[], None] | None = None
        """Is called when there is something to do."""

    def call(self) -> None:
        """There is something to do."""
        if self.queued is not None:
            self.queued()

    def database(self, destination: PipelineDestination) -> Database:
        """The store that it names, or the first one that can have a queue."""
        able = {name: store for name, store in self._stores.items() if isinstance(store, Database)}
        return able[destination.store or next(iter(able))]


class UploaderContext:
    """What uploaders are made of besides their settings.

    `scratch` is a directory for what an uploader has to keep for a moment.
    """

    def __init__(
        self, spool: Spool, scratch: Path, metrics: Metrics, clock: Clock, throttle: DrainThrottle,
        completion: CompletionRule, announces: str | None,
    ) -> None:  # fmt: skip
        self.announces = announces
        """The name of the store whose calls are announced once they are complete."""
        self.completed = asyncio.Event()
        """Is set when calls became complete there."""
        self.stores: dict[str, Store] = {}
        """The stores that were made, by the names of their destinations."""
        self.queue = PipelineQueue(self.stores)
        self.completion = completion
        self.spool = spool
        self.via = via_pseudonym(spool.id)
        self.scratch = scratch
        self.metrics = metrics
        self.clock = clock
        self._shared = (RateLimit(throttle.rate),) if throttle.limits_rate else ()

    def bandwidth(self, destination: DestinationTable) -> Bandwidth:
        """The limit that all destinations share, and the destination's own."""
        rate = destination.max_bytes_per_second
        own = () if rate is None else (RateLimit(lambda: rate),)
        return Bandwidth((*self._shared, *own), time.monotonic)


def _no_fallbacks(_destination: DestinationTable, _all: Sequence[Destination]) -> tuple[FallbackStep, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class DestinationKind(Generic[Model]):
    """Everything that the gateway must know of a kind of destination."""

    settings: type[Model]
    route: Callable[[Model], DestinationRoute]
    """Its place in the plan of the deliveries that a new record owes."""
    forms: Callable[[Model], frozenset[Form]]
    """What it accepts, also of deliveries that were planned for another destination."""
    ordered: bool
    """Whether the deliveries of a call go one after the other."""
    uploader: Callable[[Model, UploaderContext], Uploader]
    """Raises `OSError` where a certificate file cannot be read, and `DriverMissing`."""
    fallbacks: Callable[[Model, Sequence[Destination]], tuple[FallbackStep, ...]] = _no_fallbacks
    """What happens to a delivery that it refuses as too large, given all destinations."""


def kind_of(destination: Destination) -> DestinationKind[Any]:
    """The kind of a configured destination."""
    return KINDS[type(destination)]


def route_of(destination: Destination) -> DestinationRoute:
    """Its place in the plan of deliveries."""
    events = None if destination.events is None else frozenset(destination.events)
    events = frozenset() if destination.standby else events
    return replace(kind_of(destination).route(destination), events=events)


def is_store(destination: Destination) -> bool:
    """Whether it is a store of calls."""
    return route_of(destination).kind is RouteKind.STORE


def announcing_store(destinations: Sequence[Destination]) -> str | None:
    """Where a destination subscribes to complete calls: the first store with transactions, which announces each once,
    else the first one."""
    if not any(destination.events and CALL_COMPLETE in destination.events for destination in destinations):
        return None
    stores = [each for each in destinations if isinstance(each, StoreTable)]
    return next((each.name for each in sorted(stores, key=lambda each: not isinstance(each, _Transactional))), None)


def accepts(destination: Destination) -> Accepts:
    """What an operator may reroute to it."""
    kind = kind_of(destination)
    return Accepts(kind.forms(destination), ordered=kind.ordered)


def make_uploader(destination: Destination, context: UploaderContext) -> Uploader:
    """The uploader of this destination. Raises `OSError` where a certificate file cannot be read."""
    return kind_of(destination).uploader(destination, context)


def fallbacks(destination: Destination, destinations: Sequence[Destination]) -> tuple[FallbackStep, ...]:
    """What happens to a delivery that this destination refuses as too large; `destinations` are all of them."""
    return kind_of(destination).fallbacks(destination, destinations)


# Endpoints: what `http` and `presigned` have in common.


def _presigned(
    destination: HttpDestination | PresignedDestination, context: UploaderContext, bandwidth: Bandwidth
) -> PresignedUploader:
    """Through the upload addresses of this endpoint."""
    options = presigned_options(destination, context.via)
    return PresignedUploader(options, context.spool, context.clock, context.metrics, bandwidth)


# `http`: an endpoint that accepts call logs as JSON.

FORM_OF_DETAILS = MappingProxyType(
    {
        DetailSent.FULL: Form.DETAIL,
        DetailSent.CRITICAL: Form.REDUCED,
        DetailSent.TOP_N: Form.REDUCED,
        DetailSent.NONE: None,
    }
)
"""None: no detail is owed."""


def _http_route(destination: HttpDestination) -> DestinationRoute:
    return DestinationRoute(
        destination.name,
        large=destination.large,
        referenced=destination.presigned.reference,
        detail=FORM_OF_DETAILS[destination.detail],
        overflows=Fallback.S3 in destination.when_too_large,
        forwards_token=not destination.replaces_token,
    )


def _http_forms(destination: HttpDestination) -> frozenset[Form]:
    """With reduced details where it can make them, always or where full ones are refused."""
    always = destination.detail in {DetailSent.CRITICAL, DetailSent.TOP_N}
    reduces = always or REDUCTIONS.intersection(destination.when_too_large)
    return REQUEST_FORMS | {Form.REDUCED} if reduces else REQUEST_FORMS


def _http_uploader(destination: HttpDestination, context: UploaderContext) -> Uploader:
    """It posts; where large call logs go through upload addresses, always or as a fallback, it does both."""
    bandwidth = context.bandwidth(destination)
    options = replace(
        http_options(destination),
        reduction=reduction(destination, context.scratch),
        scratch=context.scratch,
        via=context.via,
    )
    posting = HttpUploader(options, context.spool, context.clock, bandwidth)
    if destination.large is not Large.PRESIGNED and Fallback.PRESIGNED not in destination.when_too_large:
        return posting
    return RoutingUploader(posting, _presigned(destination, context, bandwidth), frozenset({Lane.DETAIL}))


def _http_fallbacks(destination: HttpDestination, destinations: Sequence[Destination]) -> tuple[FallbackStep, ...]:
    steps: list[FallbackStep] = []
    for way in destination.when_too_large:
        if way is Fallback.PRESIGNED:
            steps.append(upload(destination.name, referenced=destination.presigned.reference))
        elif way is Fallback.S3:
            steps += [to_bucket(destination.name, bucket) for bucket in _buckets_of(destination.name, destinations)]
        else:
            steps.append(reduced(destination.name))
    return tuple(steps)


def _buckets_of(name: str, destinations: Iterable[Destination]) -> list[str]:
    """The bucket that notifies this endpoint; the check of the settings lets no second one through."""
    return [each.name for each in destinations if isinstance(each, S3Destination) and each.notify == name]


def reduction(destination: HttpDestination | KafkaDestination, directory: Path) -> Reduction | None:
    """How its details are reduced, always or where full ones are refused; None where never."""
    asked = {way.value for way in REDUCTIONS.intersection(destination.when_too_large)}
    if isinstance(destination, HttpDestination):
        asked.add(destination.detail.value)
    policy: Policy
    if DetailSent.CRITICAL.value in asked:
        policy = Critical()
    elif DetailSent.TOP_N.value in asked:
        policy = TopN(destination.top_n)
    else:
        return None

    def reduce(detail: Buffer) -> Sequence[Buffer]:
        """The detail by this policy; its errors become the uploader's own."""
        try:
            return reduce_detail(detail, policy)
        except CallLogError as error:
            raise NotReducible(f"the detail cannot be reduced: {error.message}") from error
        except Costly as error:
            raise NotReducible("the detail cannot be reduced: it has too many members and elements") from error

    return Reduction(reduce, directory)


# `presigned`: an endpoint that accepts every call log whole, through its upload addresses.


def _presigned_route(destination: PresignedDestination) -> DestinationRoute:
    return DestinationRoute(
        destination.name,
        RouteKind.UPLOADS,
        referenced=destination.presigned.reference,
        forwards_token=not destination.replaces_token,
    )


def _presigned_uploader(destination: PresignedDestination, context: UploaderContext) -> Uploader:
    """It uploads; notices are posted."""
    bandwidth = context.bandwidth(destination)
    posting = HttpUploader(posting_options(destination, context.via), context.spool, context.clock, bandwidth)
    return RoutingUploader(posting, _presigned(destination, context, bandwidth), frozenset(Lane))


# `s3`: a bucket.


def _s3_route(destination: S3Destination) -> DestinationRoute:
    """It needs tokens only where objects hold them."""
    return DestinationRoute(
        destination.name,
        RouteKind.BUCKET,
        notifies=destination.notify,
        forwards_token=destination.token_in_whole,
    )


def _s3_uploader(destination: S3Destination, context: UploaderContext) -> Uploader:
    # A gateway without a bucket does without 11 MB of memory and an eighth of a second at its start.
    from uploaders.s3.uploader import S3Uploader  # noqa: PLC0415  # see above

    options, ledger, bandwidth = s3_options(destination), context.spool.uploader_state, context.bandwidth(destination)
    return S3Uploader(options, context.spool, ledger, context.metrics, bandwidth)


# `file`: a directory on this machine.


def _file_uploader(destination: FileDestination, context: UploaderContext) -> Uploader:
    return FileUploader(destination.path.absolute(), context.spool, context.bandwidth(destination))


# `kafka`: topics of a cluster.


def require_kafka(name: str) -> None:
    """Raises `DriverMissing` where the client of this destination is not installed."""
    try:
        import confluent_kafka  # noqa: F401, PLC0415  # an extra
    except ImportError as error:
        raise DriverMissing(
            f"destination {name} needs the Kafka client: pip install 'callspool[kafka]' ({error})"
        ) from error


def _kafka_uploader(destination: KafkaDestination, context: UploaderContext) -> Uploader:
    require_kafka(destination.name)
    from uploaders.kafka.uploader import KafkaUploader  # noqa: PLC0415  # an extra

    bandwidth, reduces = context.bandwidth(destination), reduction(destination, context.scratch)
    return KafkaUploader(kafka_options(destination), context.spool, bandwidth, reduces)


def _kafka_forms(destination: KafkaDestination) -> frozenset[Form]:
    return REQUEST_FORMS | {Form.REDUCED} if destination.when_too_large else REQUEST_FORMS


def _kafka_fallbacks(destination: KafkaDestination, _all: Sequence[Destination]) -> tuple[FallbackStep, ...]:
    return tuple([reduced(destination.name) for _ in destination.when_too_large])


# Stores: `sqlite`, `postgres` and `clickhouse`. Who opens and sweeps them is in `gateway.runtime.stores`.


_Transactional = SqliteDestination | PostgresDestination


class TransactionalStore(Store, Database, Protocol):
    """A store that can have the queue of a pipeline, too."""


def _store_uploader(destination: StoreTable, context: UploaderContext) -> Uploader:
    announces = destination.name == context.announces
    store = store_of(destination, context.completion, context.clock, announces=announces)
    context.stores[destination.name] = store
    return StoreUploader(
        destination.name,
        store,
        context.spool,
        context.metrics,
        context.scratch,
        destination.batch_max,
        context.bandwidth(destination),
        options=detail_options(destination),
        completed=context.completed.set,
    )


def store_of(destination: StoreTable, rule: CompletionRule, clock: Clock, *, announces: bool = False) -> Store:
    """The store of this destination; nothing is opened yet. Raises `StoreRefused` where its driver is missing.

    With `announces` its completions are put into its outbox.
    """
    if isinstance(destination, _Transactional):
        return transactional_store(destination, rule, clock, announces=announces)
    assert isinstance(destination, ClickHouseDestination)
    try:
        from uploaders.stores.clickhouse.store import ClickHouseStore  # noqa: PLC0415  # an extra, and 6 MB of memory
    except ImportError as error:
        raise StoreRefused(
            f"destination {destination.name} needs ClickHouse's client: pip install 'callspool[clickhouse]' ({error})"
        ) from error
    return ClickHouseStore(destination.url, clock, rule, timeout=destination.statement_timeout, announces=announces)


def transactional_store(
    destination: _Transactional, rule: CompletionRule, clock: Clock, *, announces: bool = False
) -> TransactionalStore:
    """With `announces` its completions are put into its outbox."""
    if isinstance(destination, SqliteDestination):
        return SqliteStore(destination.path.absolute(), clock, rule, announces=announces)
    try:
        from uploaders.stores.postgres.store import PostgresStore  # noqa: PLC0415  # an extra, and 12 MB of memory
    except ImportError as error:
        raise StoreRefused(
            f"destination {destination.name} needs the PostgreSQL driver: pip install 'callspool[postgres]' ({error})"
        ) from error
    return PostgresStore(
        destination.url,
        rule,
        pool=destination.pool,
        statement_timeout=destination.statement_timeout,
        announces=announces,
    )


# `pipeline`: what is made of calls after they ended. Who works on them is in `gateway.runtime.pipeline`.


def _pipeline_uploader(destination: PipelineDestination, context: UploaderContext) -> Uploader:
    # A gateway without a pipeline does without this.
    from uploaders.pipeline.uploader import PipelineUploader  # noqa: PLC0415  # see above
    from uploaders.stores.pipeline_tables import PipelineTables  # noqa: PLC0415  # see above

    def tables() -> PipelineTables:
        return PipelineTables(context.queue.database(destination), context.clock)

    return PipelineUploader(
        cache(tables), context.spool, context.queue.call, context.scratch, context.bandwidth(destination)
    )


def _store_kind(settings: type[StoreTable]) -> DestinationKind[Any]:
    return DestinationKind(
        settings=settings,
        route=lambda destination: DestinationRoute(destination.name, RouteKind.STORE),
        forms=lambda _: STORE_FORMS,
        ordered=False,
        uploader=_store_uploader,
    )


KINDS: MappingProxyType[type[DestinationTable], DestinationKind[Any]] = MappingProxyType(
    {
        kind.settings: kind
        for kind in (
            DestinationKind(
                settings=HttpDestination,
                route=_http_route,
                forms=_http_forms,
                ordered=True,
                uploader=_http_uploader,
                fallbacks=_http_fallbacks,
            ),
            DestinationKind(
                settings=PresignedDestination,
                route=_presigned_route,
                forms=lambda _: REQUEST_FORMS,
                ordered=True,
                uploader=_presigned_uploader,
            ),
            DestinationKind(
                settings=S3Destination,
                route=_s3_route,
                forms=lambda _: OBJECT_FORMS,
                ordered=False,
                uploader=_s3_uploader,
            ),
            DestinationKind(
                settings=FileDestination,
                route=lambda destination: DestinationRoute(destination.name),
                forms=lambda _: OBJECT_FORMS,
                ordered=True,
                uploader=_file_uploader,
            ),
            DestinationKind(
                settings=KafkaDestination,
                route=lambda destination: DestinationRoute(destination.name, RouteKind.BROKER),
                forms=_kafka_forms,
                ordered=False,
                uploader=_kafka_uploader,
                fallbacks=_kafka_fallbacks,
            ),
            _store_kind(SqliteDestination),
            _store_kind(PostgresDestination),
            _store_kind(ClickHouseDestination),
            DestinationKind(
                settings=PipelineDestination,
                route=lambda destination: DestinationRoute(destination.name, RouteKind.PIPELINE),
                forms=lambda _: REQUEST_FORMS,
                ordered=False,
                uploader=_pipeline_uploader,
            ),
        )
    }
)
"""The kinds of destinations, by the model of their settings."""
