"""From settings to the options of each part: durations to milliseconds where a part counts in these, no more."""

from dataclasses import replace

from config.destinations import (
    Destination,
    DetailSent,
    FileDestination,
    HttpDestination,
    LaneConcurrency,
    PresignedDestination,
    RetrySettings,
    S3Destination,
    TokenMode,
    WayOn,
)
from config.drain import DrainSettings
from config.endpoint_table import EndpointTable
from config.settings import IntakeSettings, Settings, SplitSettings
from gateway.assembly.s3_options import s3_route
from gateway.courtesy import CourtesyRule
from gateway.intake.batch import BatchLimits
from gateway.intake.decoding import DecodingLimits
from gateway.intake.examining import SizeRule
from gateway.intake.protocol import ConnectionLimits
from gateway.intake.reading import BodyLimits
from gateway.routing import DestinationRoute, Large, RouteKind
from spool.options import SpoolOptions, WhenFull
from spool.records import Form, Lane
from uploaders.deadlines import Timeouts
from uploaders.encoding import Encoding
from uploaders.http import HttpOptions
from uploaders.presigned import PresignedOptions
from uploaders.retry import RetryPolicy

FORM_OF_DETAILS = {
    DetailSent.FULL: Form.DETAIL,
    DetailSent.CRITICAL: Form.REDUCED,
    DetailSent.TOP_N: Form.REDUCED,
    DetailSent.NONE: None,
}
"""None: no detail is owed."""


def milliseconds(seconds: float) -> int:
    """As the spool counts time."""
    return round(seconds * 1000)


def spool_options(settings: Settings) -> SpoolOptions:
    """How the spool is kept."""
    spool = settings.spool
    return SpoolOptions(
        directory=spool.dir.absolute(),
        max_bytes=spool.max_bytes,
        reserve_for_cores=spool.reserve_for_cores,
        when_full=WhenFull(spool.when_full),
        compression_level=spool.compression_level,
        duplicate_window=milliseconds(settings.intake.duplicate_window),
        expire_after=None if spool.expire_after is None else milliseconds(spool.expire_after),
        receipts_keep=milliseconds(spool.receipts_keep),
        receipts_max=spool.receipts_max,
    )


def body_limits(intake: IntakeSettings) -> BodyLimits:
    """What is read of a body, and where to."""
    return BodyLimits(intake.inline_max, intake.body_max, intake.progress_timeout)


def decoding_limits(intake: IntakeSettings) -> DecodingLimits:
    """What a body may decode to."""
    return DecodingLimits(intake.decoded_max, intake.decoded_ratio_max)


def batch_limits(intake: IntakeSettings) -> BatchLimits:
    """What a batch may hold."""
    return BatchLimits(intake.batch_max_lines, intake.progress_timeout)


def connection_limits(intake: IntakeSettings) -> ConnectionLimits:
    """How many clients there may be, and how long they may be silent."""
    return ConnectionLimits(header_timeout=intake.header_timeout, connections_max=intake.connections_max)


def size_rule(split: SplitSettings, compression_level: int) -> SizeRule:
    """Which call logs are split, and how."""
    return SizeRule(
        two_phase_threshold=split.two_phase_threshold,
        two_phase_raw_threshold=split.two_phase_raw_threshold,
        core_max_bytes=split.core_max_bytes,
        compression_level=compression_level,
    )


def posting_options(destination: EndpointTable) -> HttpOptions:
    """How to post to an endpoint: what all of them have."""
    return HttpOptions(
        url=destination.url,
        token=_own_token(destination),
        ca_file=destination.ca_file,
        timeouts=_timeouts(destination, destination.total_timeout),
    )


def http_options(destination: HttpDestination) -> HttpOptions:
    """How to post call logs to an endpoint."""
    return replace(
        posting_options(destination),
        encoding=Encoding(destination.encoding),
        max_request_bytes=destination.max_request_bytes,
    )


def presigned_options(destination: HttpDestination | PresignedDestination) -> PresignedOptions:
    """How to reach an endpoint that gives upload addresses."""
    return PresignedOptions(
        url=destination.url,
        address_url=destination.presigned.address_url,
        token=_own_token(destination),
        ca_file=destination.ca_file,
        timeouts=_timeouts(destination, destination.presigned.timeout, "presigned.timeout"),
    )


def _timeouts(destination: EndpointTable, total: float, total_name: str = "total_timeout") -> Timeouts:
    """How long one request may take; `total_name` is the setting that bounds all of it."""
    return Timeouts(
        destination.connect_timeout, destination.send_timeout, destination.first_byte_timeout, total, total_name
    )


def _own_token(destination: EndpointTable) -> str | None:
    """The destination's own token, where it replaces the agents'."""
    return destination.token.get_secret_value() if replaces_token(destination) and destination.token else None


def replaces_token(destination: EndpointTable) -> bool:
    """Whether all requests carry the destination's own token."""
    return destination.token_mode is TokenMode.REPLACE


def retry_policy(retry: RetrySettings) -> RetryPolicy:
    """How patient to be with a destination."""
    return RetryPolicy(initial=retry.initial, maximum=retry.max, give_up_after=retry.give_up_after)


def concurrency(lanes: LaneConcurrency) -> dict[Lane, int]:
    """Attempts under way at once, by lane."""
    return {Lane.CORE: lanes.core, Lane.DETAIL: lanes.detail}


def courtesy_rule(drain: DrainSettings) -> CourtesyRule:
    """What details leave to live calls, and to the line."""
    return CourtesyRule(
        rate=drain.max_bytes_per_second,
        when_idle=drain.when_idle,
        live_rate=drain.live_bytes_per_second,
        live_concurrency=drain.live_concurrency,
        live_max_age=milliseconds(drain.live_max_age),
    )


def destination_route(destination: Destination) -> DestinationRoute:
    """What planning the deliveries of a record must know of a destination."""
    match destination:
        case HttpDestination():
            return DestinationRoute(
                destination.name,
                large=Large(destination.large),
                referenced=destination.presigned.reference,
                detail=FORM_OF_DETAILS[destination.detail],
                overflows=WayOn.S3 in destination.when_too_large,
                forwards_token=not replaces_token(destination),
            )
        case PresignedDestination():
            return DestinationRoute(
                destination.name,
                RouteKind.UPLOADS,
                referenced=destination.presigned.reference,
                forwards_token=not replaces_token(destination),
            )
        case S3Destination():
            return s3_route(destination)
        case FileDestination():
            return DestinationRoute(destination.name)
