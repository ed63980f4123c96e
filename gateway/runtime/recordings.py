"""Recordings of webhooks, wired: where they are kept, and what fetches those behind addresses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from config.destinations import S3Destination
from config.settings import Settings
from gateway.admin.metrics import Metrics
from gateway.fanout import DestinationRoute, RouteKind
from gateway.intake.accept import Acceptor
from gateway.intake.body_reader import BodyReader
from gateway.runtime.destinations import s3_options
from gateway.webhooks.recordings import RecordingCopier
from spool.records import Clock, Lane
from spool.store import Spool
from uploaders.base import Eraser
from uploaders.dispatch.dispatcher import DestinationPlan
from uploaders.dispatch.policy import RetryPolicy
from uploaders.http.download import Downloader
from uploaders.recordings import DirectoryRecordings, RecordingStore
from uploaders.upload_hosts import UploadHosts

RECORDINGS_NAME: Final = "recordings"
"""What the copying of recordings is called among the destinations."""
RECORDINGS_ROUTE: Final = DestinationRoute(RECORDINGS_NAME, RouteKind.RECORDINGS)
GIVE_UP_SECONDS: Final = 24 * 3600.0
"""How long a recording is tried to be fetched: most addresses are good for less."""
AT_ONCE: Final = 2
"""Recordings under way; of each, one part of a bucket is in memory."""
MOST_BYTES: Final = 4 << 30
"""Of one recording: a day of sound."""


def copies_recordings(settings: Settings) -> bool:
    """Whether recordings behind addresses are fetched."""
    return settings.webhooks.listen is not None and any(each.copies for each in settings.sources)


@dataclass(frozen=True, slots=True)
class RecordingParts:
    """What webhooks and the dispatcher need for recordings."""

    store: RecordingStore | None
    """None where recordings are kept nowhere."""
    copying: Acceptor | None
    """Accepts call logs whose recording is to be fetched; None where none is."""
    plans: Mapping[str, DestinationPlan]

    @property
    def erasers(self) -> dict[str, Eraser]:
        """What takes recordings back, by the name that it has among the destinations."""
        return {} if self.store is None else {RECORDINGS_NAME: self.store}


def recording_parts(
    settings: Settings, spool: Spool, bodies: BodyReader, routes: Sequence[DestinationRoute],
    make_acceptor: Callable[[Sequence[DestinationRoute]], Acceptor], metrics: Metrics, clock: Clock,
) -> RecordingParts:  # fmt: skip
    """How recordings are kept and fetched; what says where they are goes to the `routes`."""
    store = _store(settings, spool, metrics)
    if store is None or not copies_recordings(settings):
        return RecordingParts(store, None, {})
    hosts = UploadHosts((), settings.webhooks.recording_hosts, any_name=True)
    plan = DestinationPlan(
        uploader=RecordingCopier(Downloader(hosts, MOST_BYTES), store, bodies, make_acceptor(routes), spool, clock),
        policy=RetryPolicy(give_up_after=GIVE_UP_SECONDS),
        concurrency={Lane.CORE: 1, Lane.DETAIL: AT_ONCE},
        type=RECORDINGS_NAME,
    )
    return RecordingParts(store, make_acceptor([*routes, RECORDINGS_ROUTE]), {RECORDINGS_NAME: plan})


def _store(settings: Settings, spool: Spool, metrics: Metrics) -> RecordingStore | None:
    """The directory, else the first bucket that is no tenant's own; None where there is neither."""
    if settings.webhooks.listen is None:
        return None
    if settings.webhooks.recordings is not None:
        return DirectoryRecordings(settings.webhooks.recordings.absolute())
    own = {name for tenant in settings.tenants.values() for name in tenant.destinations}
    for each in settings.destinations:
        if isinstance(each, S3Destination) and each.name not in own:
            # A gateway without a bucket does without 11 MB of memory and an eighth of a second at its start.
            from uploaders.s3.recordings import BucketRecordings  # noqa: PLC0415  # see above

            return BucketRecordings(s3_options(each), spool.uploader_state, metrics)
    return None
