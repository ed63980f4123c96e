"""From settings to the options of each part: durations to milliseconds where a part counts in these, no more."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from config.destinations import (
    Destination,
    DetailSent,
    Fallback,
    FileDestination,
    HttpDestination,
    LaneConcurrency,
    PresignedDestination,
    RetrySettings,
    S3Destination,
    TokenMode,
)
from config.destinations.base import REDUCTIONS, EndpointTable
from config.destinations.s3 import Encryption
from config.settings import DrainSettings, IntakeSettings, Settings, SplitSettings
from gateway.calllog.errors import CallLogError
from gateway.calllog.reduce import Critical, Policy, TopN, reduce_detail
from gateway.fanout import DestinationRoute, Large, RouteKind
from gateway.intake.batch import BatchLimits
from gateway.intake.body_reader import BodyLimits
from gateway.intake.decoding import DecodingLimits
from gateway.intake.parse import SizeRule
from gateway.intake.protocol import ConnectionLimits
from gateway.live_calls import CourtesyRule
from gateway.operations.selection import Takes
from spool.records import OBJECT_FORMS, REQUEST_FORMS, Buffer, Form, Lane
from spool.store import SpoolOptions, WhenFull
from uploaders.dispatch.policy import FallbackStep, RetryPolicy, reduced, to_bucket, upload
from uploaders.document.encoding import Encoding, NotReducible, Reduction
from uploaders.http.timeouts import Timeouts
from uploaders.http.uploader import HttpOptions
from uploaders.presigned import PresignedOptions
from uploaders.s3.options import Content, ObjectEncoding, S3Options, ServerSideEncryption

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
                overflows=Fallback.S3 in destination.when_too_large,
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


# From the settings of a bucket to the options of its uploader and its place in the plan of deliveries.

ENCRYPTION = MappingProxyType(
    {
        Encryption.AES256: ServerSideEncryption.AES256,
        Encryption.KMS: ServerSideEncryption.KMS,
        Encryption.NONE: ServerSideEncryption.NONE,
    }
)


def s3_options(destination: S3Destination) -> S3Options:
    """How to deliver to a bucket."""
    return S3Options(
        bucket=destination.bucket,
        prefix=destination.prefix,
        key=destination.key,
        endpoint_url=destination.endpoint_url,
        region=destination.region,
        profile=destination.profile,
        path_style=destination.path_style,
        encryption=ENCRYPTION[destination.encryption],
        kms_key_id=destination.kms_key_id,
        storage_class=destination.storage_class,
        content=Content(destination.object),
        token_in_whole=destination.token_in_whole,
        encoding=ObjectEncoding(destination.encoding),
        part_bytes=destination.part_size,
        parts_at_once=destination.parts_at_once,
        if_none_match=destination.if_none_match,
        checksums=destination.checksums,
        ca_file=destination.ca_file,
        connect_timeout=destination.connect_timeout,
        read_timeout=destination.read_timeout,
        request_timeout=destination.request_timeout,
    )


def s3_route(destination: S3Destination) -> DestinationRoute:
    """What planning the deliveries of a record must know of a bucket; it keeps tokens only where objects hold them."""
    return DestinationRoute(
        destination.name,
        RouteKind.BUCKET,
        notifies=destination.notify,
        forwards_token=destination.token_in_whole,
    )


# From settings to what is done about details that are too large: the fallbacks, and how details are reduced.


def fallbacks(destination: Destination, destinations: Iterable[Destination]) -> tuple[FallbackStep, ...]:
    """How what this destination refuses as too large goes on; `destinations` are all of them."""
    if not isinstance(destination, HttpDestination):
        return ()
    steps: list[FallbackStep] = []
    for way in destination.when_too_large:
        if way is Fallback.PRESIGNED:
            steps.append(upload(destination.name, referenced=destination.presigned.reference))
        elif way is Fallback.S3:
            steps += [to_bucket(destination.name, bucket) for bucket in _buckets_of(destination.name, destinations)]
        else:
            steps.append(reduced(destination.name))
    return tuple(steps)


def takes_uploads(destination: HttpDestination) -> bool:
    """Whether wholes of the detail lane go through upload addresses because they were refused otherwise."""
    return Fallback.PRESIGNED in destination.when_too_large


def reduction(destination: HttpDestination, directory: Path) -> Reduction | None:
    """How its details are reduced, always or where full ones are refused; None where never."""
    asked = {way.value for way in REDUCTIONS.intersection(destination.when_too_large)} | {destination.detail.value}
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

    return Reduction(reduce, directory)


def _buckets_of(name: str, destinations: Iterable[Destination]) -> list[str]:
    """The bucket that notifies this endpoint; the check of the settings lets no second one through."""
    return [each.name for each in destinations if isinstance(each, S3Destination) and each.notify == name]


# From settings to what deliveries a destination can be given by an operator that were planned for another.


def takes(destination: Destination) -> Takes:
    """What it takes, and whether in the order of the calls."""
    match destination:
        case HttpDestination():
            return Takes(REQUEST_FORMS | ({Form.REDUCED} if _reduces(destination) else set()), ordered=True)
        case PresignedDestination():
            return Takes(REQUEST_FORMS, ordered=True)
        case S3Destination():
            return Takes(OBJECT_FORMS, ordered=False)
        case FileDestination():
            return Takes(OBJECT_FORMS, ordered=True)


def _reduces(destination: HttpDestination) -> bool:
    """Whether it can make reduced details, always or where full ones are refused."""
    always = destination.detail in {DetailSent.CRITICAL, DetailSent.TOP_N}
    return always or bool(REDUCTIONS.intersection(destination.when_too_large))
