"""Following references, wired: its name and route beside the destinations, and what the dispatcher does for it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from config.receiver import ReferenceSettings
from config.settings import Settings
from gateway.calllog.document import REFERENCE_EVENT
from gateway.fanout import DestinationRoute, RouteKind
from gateway.intake.accept import Acceptor
from gateway.intake.body_reader import BodyReader
from gateway.runtime.destinations import is_store
from spool.records import Lane
from spool.store import Spool
from uploaders.dispatch.dispatcher import DestinationPlan
from uploaders.dispatch.policy import RetryPolicy
from uploaders.s3.options import S3Options

if TYPE_CHECKING:
    from gateway.references import ReferenceObserver, ReferenceReader
    from gateway.worker.claims import ClaimReader
    from uploaders.s3.client import Bucket, S3Connection

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
        request_timeout=REQUEST_SECONDS,
    )
    connection = S3Connection(options)
    return connection, Bucket(options, connection)
