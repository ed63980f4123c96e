"""From settings to the options of each part: durations to milliseconds where a part counts in these, no more."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from config.destinations import (
    Destination,
    HttpDestination,
    KafkaDestination,
    LaneConcurrency,
    PresignedDestination,
    RetrySettings,
    S3Destination,
)
from config.destinations.base import EndpointTable
from config.listeners import AdminSettings, IntakeSettings, ListenerTable
from config.privacy import LaterPosts
from config.receiver import CompletionSettings
from config.settings import DrainSettings, Settings, SplitSettings
from config.tenants import TenantSettings
from config.types import decoded_key
from gateway.admin.permissions import Role
from gateway.intake.accept import Redactions
from gateway.intake.body_reader import BodyLimits
from gateway.intake.decoding import DecodingLimits
from gateway.intake.parse import SizeRule
from gateway.intake.protocol import ConnectionLimits
from gateway.intake.sources.batch import BatchLimits
from gateway.listeners import CannotListen, ListenOptions, SocketOptions, owner_ids
from gateway.live_calls import ThrottlePolicy
from gateway.tenants import Tenant, TenantTable, digest_of
from gateway.tls import TlsFiles
from spool.keys import KeyRing
from spool.records import Lane
from spool.space import TenantLimits
from spool.store import SpoolOptions
from uploaders.dispatch.policy import RetryPolicy
from uploaders.http.options import parse_rule
from uploaders.http.timeouts import Timeouts
from uploaders.http.uploader import HttpOptions
from uploaders.kafka.options import KafkaOptions, Topics
from uploaders.presigned import PresignedOptions
from uploaders.redaction.options import Redaction
from uploaders.s3.options import S3Options
from uploaders.stores.completion import CompletionRule
from uploaders.stores.routing import Routing


def milliseconds(seconds: float) -> int:
    """As the spool counts time."""
    return round(seconds * 1000)


def spool_options(settings: Settings) -> SpoolOptions:
    """How the spool is kept."""
    spool, erasure = settings.spool, settings.erasure
    return SpoolOptions(
        directory=spool.dir.absolute(),
        max_bytes=spool.max_bytes,
        reserve_for_cores=spool.reserve_for_cores,
        when_full=spool.when_full,
        compression_level=spool.compression_level,
        duplicate_window=milliseconds(settings.intake.duplicate_window),
        expire_after=None if spool.expire_after is None else milliseconds(spool.expire_after),
        dead_keep=None if spool.dead_keep is None else milliseconds(spool.dead_keep),
        receipts_keep=milliseconds(spool.receipts_keep),
        receipts_max=spool.receipts_max,
        refuse_erased=milliseconds(erasure.keep) if erasure.later_posts is LaterPosts.REFUSE else None,
        erase_freed=spool.erase_freed,
        keys=key_ring(settings),
        tenants={name: _tenant_limits(tenant) for name, tenant in settings.tenants.items()},
    )


def _tenant_limits(tenant: TenantSettings) -> TenantLimits:
    keep, expire, dead = tenant.receipts_keep, tenant.expire_after, tenant.dead_keep
    return TenantLimits(
        tenant.quota_share,
        None if keep is None else milliseconds(keep),
        None if expire is None else milliseconds(expire),
        None if dead is None else milliseconds(dead),
    )


def key_ring(settings: Settings) -> KeyRing:
    """The keys of the spool, if there are any."""
    return KeyRing.parse(key.get_secret_value() for key in settings.spool.key)


def admin_tokens(admin: AdminSettings) -> dict[Role, tuple[str, ...]]:
    """The tokens of each role."""
    roles = {Role.ADMIN: admin.token, Role.OPERATE: admin.operate_token, Role.READ: admin.read_token}
    return {role: tuple(token.get_secret_value() for token in tokens) for role, tokens in roles.items()}


def listen_options(listener: ListenerTable) -> ListenOptions:
    """Where to listen, and who may connect. Raises `CannotListen` for an owner whom this system does not know."""
    try:
        uid, gid = owner_ids(listener.socket_owner or "")
    except LookupError as error:
        raise CannotListen(f"socket_owner = {listener.socket_owner} is not known here: {error.args[0]}") from None
    address = listener.listen
    assert address is not None, "asked of a listener that there is"
    return ListenOptions(address.host, address.port, address.path, SocketOptions(listener.socket_mode, uid, gid))


def tls_files(listener: ListenerTable) -> TlsFiles | None:
    """Where the certificate of a listener lies; None where it has no TLS."""
    if listener.listen is None or listener.tls_cert_file is None:
        return None
    return TlsFiles(listener.tls_cert_file, listener.tls_key_file, listener.tls_client_ca_file)


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


def size_rule(split: SplitSettings, compression_level: int, destinations: Sequence[Destination]) -> SizeRule:
    """Which call logs are split, and how."""
    messages = [each.max_message_bytes for each in destinations if isinstance(each, KafkaDestination)]
    return SizeRule(
        two_phase_threshold=split.two_phase_threshold,
        two_phase_raw_threshold=split.two_phase_raw_threshold,
        core_max_bytes=split.core_max_bytes,
        compression_level=compression_level,
        message_max_bytes=min(messages, default=None),
    )


def completion_rule(completion: CompletionSettings) -> CompletionRule:
    """How long the calls in a store wait."""
    timeouts = milliseconds(completion.timeout), milliseconds(completion.open_timeout)
    return CompletionRule(*timeouts, pairs=completion.enabled)


def routing(completion: CompletionSettings) -> Routing:
    """From which path questions about calls are answered."""
    return Routing(completion.reads, completion.cutoff, frozenset(completion.projects), completion.compare)


def tenant_table(tenants: Mapping[str, TenantSettings]) -> TenantTable | None:
    """Whose call logs there are; None where there are no tenants."""
    if not tenants:
        return None
    return TenantTable(
        Tenant(
            name,
            tenant.agents,
            frozenset(digest_of(token.get_secret_value()) for token in tenant.token),
            frozenset(tenant.destinations),
            tenant.endpoint_token.get_secret_value() if tenant.endpoint_token else None,
            tenant.posts_per_second,
            tenant.weight,
        )
        for name, tenant in tenants.items()
    )


def redactions(settings: Settings) -> Redactions:
    """What is redacted of whose call logs."""
    of_all = settings.redaction.rules
    by_tenant: dict[str | None, Redaction | None] = {
        name: tenant.redaction.rules for name, tenant in settings.tenants.items() if tenant.redaction is not None
    }
    return Redactions(None, by_tenant | {None: of_all}) if by_tenant else Redactions(of_all)


def tenant_tokens(tenants: Mapping[str, TenantSettings]) -> dict[str, list[str]]:
    """The tokens that show the calls of each tenant."""
    return {name: [token.get_secret_value() for token in each.read_token] for name, each in tenants.items()}


def retry_policy(retry: RetrySettings) -> RetryPolicy:
    """How patient to be with a destination."""
    return RetryPolicy(initial=retry.initial, maximum=retry.max, give_up_after=retry.give_up_after)


def concurrency(lanes: LaneConcurrency) -> dict[Lane, int]:
    """Attempts under way at once, by lane."""
    return {Lane.CORE: lanes.core, Lane.DETAIL: lanes.detail}


def throttle_policy(drain: DrainSettings) -> ThrottlePolicy:
    """What details leave to live calls, and to the line."""
    return ThrottlePolicy(
        rate=drain.max_bytes_per_second,
        when_idle=drain.when_idle,
        live_rate=drain.live_bytes_per_second,
        live_concurrency=drain.live_concurrency,
        live_max_age=milliseconds(drain.live_max_age),
    )


# Destinations.


def posting_options(destination: EndpointTable, via: str | None = None) -> HttpOptions:
    """How to post to an endpoint."""
    return HttpOptions(
        via=via,
        url=destination.url,
        token=_own_token(destination),
        ca_file=destination.ca_file,
        timeouts=_timeouts(destination, destination.total_timeout),
        delivered_when=tuple(parse_rule(rule) for rule in destination.delivered_when),
    )


def presigned_options(destination: HttpDestination | PresignedDestination, via: str | None = None) -> PresignedOptions:
    """How to reach an endpoint that gives upload addresses."""
    return PresignedOptions(
        via=via,
        url=destination.url,
        address_url=destination.presigned.address_url,
        upload_hosts=destination.presigned.upload_hosts,
        token=_own_token(destination),
        ca_file=destination.ca_file,
        timeouts=_timeouts(destination, destination.presigned.timeout, "presigned.timeout"),
    )


def _timeouts(destination: EndpointTable, total: float, total_name: str = "total_timeout") -> Timeouts:
    """How long one request may take; `total_name` is the setting that limits all of it."""
    return Timeouts(
        destination.connect_timeout, destination.send_timeout, destination.first_byte_timeout, total, total_name
    )


def _own_token(destination: EndpointTable) -> str | None:
    """The destination's own token, where it replaces the agents'."""
    return destination.token.get_secret_value() if destination.replaces_token and destination.token else None


def http_options(destination: HttpDestination) -> HttpOptions:
    """How to post call logs to an endpoint."""
    return replace(
        posting_options(destination),
        encoding=destination.encoding,
        max_request_bytes=destination.max_request_bytes,
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
        encryption=destination.encryption,
        kms_key_id=destination.kms_key_id,
        customer_key=decoded_key(destination.customer_key),
        storage_class=destination.storage_class,
        content=destination.object,
        token_in_whole=destination.token_in_whole,
        encoding=destination.encoding,
        part_bytes=destination.part_size,
        parts_at_once=destination.parts_at_once,
        if_none_match=destination.if_none_match,
        checksums=destination.checksums,
        ca_file=destination.ca_file,
        connect_timeout=destination.connect_timeout,
        read_timeout=destination.read_timeout,
        request_timeout=destination.request_timeout,
    )


def kafka_options(destination: KafkaDestination) -> KafkaOptions:
    """How to reach a cluster."""
    names = destination.topics
    return KafkaOptions(
        brokers=destination.brokers,
        topics=Topics(names.started, names.ended, names.details, names.dead),
        max_message_bytes=destination.max_message_bytes,
        compression=destination.compression,
        delivery_timeout=destination.delivery_timeout,
        sasl=destination.sasl,
        username=destination.username,
        password=destination.password.get_secret_value() if destination.password else None,
        tls=destination.tls,
        ca_file=destination.ca_file,
        certificate_file=destination.certificate_file,
        key_file=destination.key_file,
    )
