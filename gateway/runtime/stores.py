"""The stores of a gateway: opened at the start, swept while it runs, and asked.

A store is written to by its uploader. What is left is here: calls whose missing part does not come in time are given
up, whoever asks for a call asks the first store of the configuration, and objects that call logs refer to are read for
stores that want what they hold.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from config.destinations.stores import StoreTable
from config.receiver import ReferenceSettings
from config.settings import Settings
from config.types import decoded_key
from gateway.announcements import Announcer
from gateway.calllog.document import REFERENCE_EVENT
from gateway.fanout import DestinationRoute, RouteKind
from gateway.intake.accept import Acceptor
from gateway.intake.body_reader import BodyReader
from gateway.operations.erasure import forget_made
from gateway.runtime.destinations import is_store
from gateway.runtime.options import milliseconds
from spool.records import Lane
from spool.store import Spool
from uploaders.dispatch.dispatcher import DestinationPlan
from uploaders.dispatch.policy import RetryPolicy
from uploaders.s3.options import S3Options, ServerSideEncryption
from uploaders.stores.parts import key_text
from uploaders.stores.routing import CallReads, Routing, RoutingObserver
from uploaders.stores.store import OldCalls, Store, StoreError, StoreUnavailable, Swept
from uploaders.tasks import Tasks

if TYPE_CHECKING:
    from gateway.references import ReferenceObserver, ReferenceReader
    from gateway.worker.claims import ClaimReader
    from uploaders.pipeline.service import Pipeline
    from uploaders.s3.client import Bucket, S3Connection


OPEN_SECONDS: Final = 5.0
"""How long a start waits for a database; one that answers later is opened by the first write."""
SWEEP_LIMIT: Final = 1000
"""Calls that are given up in one transaction."""
DELETE_SECONDS: Final = 600.0
"""How often old calls are looked for: some engines read every part for that."""
DELETED_AT_ONCE: Final = 100
"""Old calls that are looked for at a time; each is deleted in a transaction of its own."""

_log = structlog.get_logger(__name__)


class StoreObserver(RoutingObserver, Protocol):
    """Hears what is given up, and how questions are routed, for metrics."""

    def calls_swept(self, destination: str, swept: Swept) -> None:
        """Calls were given up, and others wait still."""


@dataclass(frozen=True, slots=True)
class CallsKept:
    """How long a store keeps its calls, in milliseconds; None: for ever."""

    keep: int | None = None
    tenants: Mapping[str, int] = field(default_factory=dict)
    """In place of that, by tenant."""

    @property
    def rules(self) -> Iterator[OldCalls]:
        """What is old, for each tenant with a time of its own, and for everybody else."""
        for tenant, keep in self.tenants.items():
            yield OldCalls(keep, DELETED_AT_ONCE, project=key_text(tenant))
        if self.keep is not None:
            yield OldCalls(self.keep, DELETED_AT_ONCE, all_but=tuple(map(key_text, self.tenants)))


def calls_kept(settings: Settings) -> dict[str, CallsKept]:
    """How long each store keeps its calls."""
    tenants = {
        name: milliseconds(tenant.calls_keep)
        for name, tenant in settings.tenants.items()
        if tenant.calls_keep is not None
    }
    return {
        each.name: CallsKept(None if each.keep is None else milliseconds(each.keep), tenants)
        for each in settings.destinations
        if isinstance(each, StoreTable)
    }


class CallStores:
    """The stores by the names of their destinations, in the order of the configuration."""

    def __init__(
        self, stores: Mapping[str, Store], sweep_seconds: float, routing: Routing, observer: StoreObserver,
        chance: Callable[[], float], announcer: Announcer | None = None,
        kept: Mapping[str, CallsKept] | None = None,
    ) -> None:  # fmt: skip
        self.pipeline: Pipeline | None = None
        """What makes something of calls, if anything does."""
        self._kept = kept or {}
        self._announcer = announcer
        self._stores = stores
        first = next(iter(stores.values()), None)
        self.reads = None if first is None else CallReads(first, routing, observer, chance)
        """Answers questions from the first store; None where no destination is a store."""
        self._sweep_seconds = sweep_seconds
        self._observer = observer
        self._sweepers = Tasks()

    async def open(self) -> None:
        """Connect and migrate. A database that cannot be reached is waited for later.

        Raises `StoreRefused` where that would not help: a newer schema, the wrong database, a missing grant.
        """
        await asyncio.gather(*[_open(name, store) for name, store in self._stores.items()])

    def start(self) -> None:
        """Begin to sweep, and to announce what becomes complete."""
        if self._announcer is not None:
            self._announcer.start()
        for name, store in self._stores.items():
            self._sweepers.keep(partial(self._sweep, name, store))

    async def stop(self) -> None:
        """End it, before the stores are closed."""
        if self._announcer is not None:
            await self._announcer.stop()
        await self._sweepers.cancel()

    async def _sweep(self, name: str, store: Store) -> None:
        loop = asyncio.get_running_loop()
        next_deletion = loop.time()
        while True:
            # A store in trouble is reported by the deliveries to it.
            with suppress(StoreError):
                await self._sweep_once(name, store)
                if loop.time() >= next_deletion:
                    next_deletion = loop.time() + DELETE_SECONDS
                    await self.delete_old(name)
            await asyncio.sleep(self._sweep_seconds)

    async def delete_old(self, name: str) -> int:
        """Delete the calls that this store has kept for long enough, and what was made of them; returns how many."""
        store, count = self._stores[name], 0
        for rule in self._kept.get(name, CallsKept()).rules:
            while keys := await store.old_calls(rule):
                problem = await forget_made(store, self.pipeline, keys)
                if problem is not None:
                    _log.warning("vectors_not_deleted", destination=name, reason=problem)
                    break
                await store.delete(keys)
                count += len(keys)
        if count:
            _log.info("old_calls_deleted", destination=name, calls=count)
        return count

    async def _sweep_once(self, name: str, store: Store) -> None:
        while True:
            swept = await store.sweep(SWEEP_LIMIT)
            self._observer.calls_swept(name, swept)
            if swept.timed_out + swept.orphans < SWEEP_LIMIT:
                return


async def _open(name: str, store: Store) -> None:
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await store.open()
    except (StoreUnavailable, TimeoutError) as error:
        reason = str(error) or f"no answer within {OPEN_SECONDS:.0f} s"
        _log.warning("store_unavailable", destination=name, reason=reason)


# References: a route beside the destinations, which the dispatcher delivers to.

REFERENCES_NAME: Final = "references"
"""What the reading of references is called among the destinations."""
REFERENCES_ROUTE: Final = DestinationRoute(REFERENCES_NAME, RouteKind.REFERENCES, events=frozenset({REFERENCE_EVENT}))
"""It gets the notes, and nothing else."""
GIVE_UP_SECONDS: Final = 24 * 3600.0
"""How long an object is tried to be read; the same as for one that is not there yet."""
REQUEST_SECONDS: Final = 3600.0
"""For one object, which may be hundreds of megabytes behind a slow line."""


def follows_references(settings: Settings) -> bool:
    """Whether the objects that notes refer to are read: where buckets are allowed, and a store wants what they hold."""
    return bool(settings.references.buckets) and any(map(is_store, settings.destinations))


def reference_plan(
    settings: ReferenceSettings, bodies: BodyReader, acceptor: Acceptor, spool: Spool, observer: "ReferenceObserver"
) -> DestinationPlan:
    """How notes are followed: what they refer to is accepted by `acceptor`."""
    # A gateway without references does without 11 MB of memory and an eighth of a second at its start.
    from gateway.references import ReferenceUploader  # noqa: PLC0415  # see above

    reader = reference_reader(settings, bodies, acceptor, observer)
    return DestinationPlan(
        uploader=ReferenceUploader(reader, acceptor, spool),
        policy=RetryPolicy(give_up_after=GIVE_UP_SECONDS),
        concurrency={Lane.CORE: 1, Lane.DETAIL: settings.concurrency},
        type=REFERENCES_NAME,
    )


def reference_reader(
    settings: ReferenceSettings, bodies: BodyReader, acceptor: Acceptor, observer: "ReferenceObserver"
) -> "ReferenceReader":
    """Reads what notes refer to, as these settings allow."""
    from gateway.references import ReferenceReader  # noqa: PLC0415  # as above

    connection, bucket = allowed_bucket(settings)
    return ReferenceReader(connection, bucket, settings.buckets, bodies, acceptor, observer)


def claim_reader(settings: ReferenceSettings, downloaded: Callable[[float, int], None]) -> "ClaimReader | None":
    """Reads for a worker what notices refer to; None where no bucket may be read."""
    if not settings.buckets:
        return None
    from gateway.worker.claims import ClaimReader  # noqa: PLC0415  # as above

    connection, bucket = allowed_bucket(settings)
    return ClaimReader(connection, bucket, settings.buckets, settings.concurrency, downloaded)


def allowed_bucket(settings: ReferenceSettings) -> "tuple[S3Connection, Bucket]":
    """The first of the buckets that may be read; the others are reached through the same connection."""
    from uploaders.s3.client import Bucket, S3Connection  # noqa: PLC0415  # as above

    options = S3Options(
        bucket=settings.buckets[0],
        endpoint_url=settings.endpoint_url,
        region=settings.region,
        profile=settings.profile,
        encryption=ServerSideEncryption.NONE if settings.customer_key is None else ServerSideEncryption.CUSTOMER,
        customer_key=decoded_key(settings.customer_key),
        request_timeout=REQUEST_SECONDS,
    )
    connection = S3Connection(options)
    return connection, Bucket(options, connection)
