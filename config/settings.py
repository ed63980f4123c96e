"""Every setting of callspool, with its default, its rule and one line that says what it is for.

Frozen plain data. Sizes are bytes, durations seconds. A setting outside `destinations` has exactly one
environment variable: CALLSPOOL_<SECTION>_<FIELD>, or the name given here by `Variable`.
"""

from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.destinations import Destination
from config.destinations.pipeline import pipeline_fault
from config.listeners import AdminSettings, IntakeSettings, ListenerTable, LiveSettings, OtlpSettings
from config.privacy import ErasureSettings, RedactionSettings
from config.receiver import CompletionSettings, ReferenceSettings, WorkSettings
from config.sources import SourceSettings, WebhookSettings, check_recordings
from config.tenants import TenantSettings, tenant_faults
from config.types import (
    Choice,
    Directory,
    Duration,
    Files,
    HeaderToken,
    Keys,
    OptionalDuration,
    OptionalEndpoint,
    OptionalFile,
    OptionalName,
    OptionalSize,
    Size,
    Table,
    UserIds,
    Variable,
    Wait,
)
from config.values import DAY, HOUR, KB, KIB, MIB, SPOOL_DIRECTORY, format_duration, format_size
from spool.records import WhenFull

# How considerate the draining of details is: of the line, and of the calls that are live on the same machine.


class DrainSettings(Table):
    """Bandwidth of details, all destinations together. Cores never wait."""

    max_bytes_per_second: OptionalSize = None
    """The bandwidth limit of details to all destinations together, in bytes per second; cores count, but never wait."""
    when_idle: bool = False
    """Whether details are throttled while a call is live, and catch up afterwards."""
    live_bytes_per_second: OptionalSize = 256 * KIB
    """With `when_idle`: the bandwidth limit of details while a call is live, all destinations together."""
    live_concurrency: Annotated[int, Field(ge=1)] = 1
    """With `when_idle`: details in flight at once while a call is live, for each destination."""
    live_max_age: Duration = 2 * HOUR
    """With `when_idle`: a call that started longer ago no longer counts as live."""


# The CPU and I/O priority of the gateway beside other processes of the machine.


class IoClass(StrEnum):
    """How the kernel serves the gateway's reads and writes beside those of others."""

    DEFAULT = "default"
    """As the process was started."""
    BEST_EFFORT = "best_effort"
    """By turns, as `io_level` says."""
    IDLE = "idle"
    """When nobody else wants the disk."""


class PrioritySettings(Table):
    """Both are set at the start. A refusal of the system is logged and has no other effect."""

    nice: Annotated[int, Field(ge=0, le=19)] | None = None
    """The niceness of the gateway, 0 to 19: the higher, the more CPU time goes to other processes first."""
    io_class: Annotated[IoClass, Choice] = IoClass.DEFAULT
    """The I/O class: `default` (as started), `best_effort`, or `idle`, which can delay acknowledgements (Linux)."""
    io_level: Annotated[int, Field(ge=0, le=7)] | None = None
    """With `io_class = "best_effort"`: 0 (first) to 7 (last)."""

    @field_validator("io_level")
    @classmethod
    def _level_is_of_best_effort(cls, level: int | None, info: ValidationInfo) -> int | None:
        """No other class has levels."""
        if level is not None and info.data.get("io_class", IoClass.BEST_EFFORT) is not IoClass.BEST_EFFORT:
            raise ValueError('needs `io_class = "best_effort"`')
        return level


class LogLevel(StrEnum):
    """The least severe messages that are logged."""

    DEBUG = "debug"
    """Every step."""
    INFO = "info"
    """Changes: start, stop, a destination that fails or recovers."""
    WARNING = "warning"
    """Conditions that an operator should look at."""
    ERROR = "error"
    """Failures."""


class LogFormat(StrEnum):
    """How messages are written to standard error."""

    AUTO = "auto"
    """`console` at a terminal, `json` otherwise."""
    JSON = "json"
    """One JSON object a line."""
    CONSOLE = "console"
    """Coloured text."""

    @property
    def as_text(self) -> bool | None:
        """Whether messages are text for people; None: at a terminal only."""
        return None if self is LogFormat.AUTO else self is LogFormat.CONSOLE


class AuditSettings(Table):
    """The audit log: orders, and reads of call logs."""

    file: OptionalFile = None
    """The file of the audit log, JSON lines, mode 0600; by default it is part of the log, as `audit` messages."""
    max_bytes: Size = 10 * MIB
    """A larger file is renamed to `FILE.1`, that to `FILE.2`, and so on; logrotate may do it instead."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 10
    """How many renamed files are kept."""


class SpoolSettings(Table):
    """The durable store."""

    dir: Directory = SPOOL_DIRECTORY
    """The directory of the spool, on a local file system; one process owns it."""
    max_bytes: OptionalSize = None
    """The quota of the spool, log and staging included; by default 10 GiB or 80 % of the free space at the
    first start, whichever is less."""
    reserve_for_cores: OptionalSize = None
    """The part of the quota reserved for small call logs and cores; by default a twentieth, at most half."""
    when_full: Annotated[WhenFull, Choice] = WhenFull.REFUSE
    """`refuse` new call logs, or `expire_details`: evict the oldest details for them, never cores."""
    key: Keys = ()
    """Key that encrypts call logs and tokens in the spool: base64 of 32 bytes; older keys below it, one per line."""
    erase_freed: bool = False
    """Whether deleted data is overwritten in the spool's database; with a `key`, nothing readable is left anyway."""
    compression_level: Annotated[int, Field(ge=1, le=19)] = 1
    """zstd level of stored call logs, 1 (fast) to 19 (small)."""
    receipts_max: Annotated[int, Field(ge=0)] = 100_000
    """The most receipts of delivered records that are kept."""
    receipts_keep: Duration = DAY
    """How long a receipt is kept."""
    expire_after: OptionalDuration = None
    """Records older than this are given up even if undelivered; a replay or reroute starts the time anew. By default
    never."""
    dead_keep: OptionalDuration = None
    """Dead letters of records older than this are given up, with the deliveries held for them; by default never."""

    @field_validator("reserve_for_cores")
    @classmethod
    def _reserve_is_a_part(cls, reserve: int | None, info: ValidationInfo) -> int | None:
        limit = info.data.get("max_bytes")
        if reserve is not None and limit is not None and 2 * reserve > limit:
            raise ValueError(f"should be at most half of spool.max_bytes ({format_size(limit)})")
        return reserve


class SplitSettings(Table):
    """When a call log is sent in two phases."""

    two_phase_threshold: Annotated[Size, Variable("CALLSPOOL_TWO_PHASE_THRESHOLD")] = 4 * MIB
    """A call log is split when 4/3 of its compressed size reaches this."""
    two_phase_raw_threshold: Annotated[Size, Variable("CALLSPOOL_TWO_PHASE_RAW_THRESHOLD")] = 5 * MIB
    """A call log is split when its plain size exceeds this."""
    core_max_bytes: Annotated[Size, Variable("CALLSPOOL_CORE_MAX_BYTES")] = 500 * KB
    """The largest core; members that do not fit move to the detail."""


class WhispeySettings(Table):
    """Rescuing rows that the Whispey SDK leaves in its outbox."""

    outbox: Files = ()
    """The SDK's outbox files to empty into the spool, such as `/tmp/whispey_outbox.db`; several
    are separated by `:`."""
    outbox_interval: Annotated[Duration, Field(ge=0.2, le=3600)] = 5.0
    """How often to check the outboxes for changes."""
    outbox_owners: UserIds = ()
    """Ids of users who may own an outbox, besides callspool's own user and root."""
    outbox_token: HeaderToken | None = None
    """The agent's key for rows without one, since the SDK may read its key from the environment."""


class CliSettings(Table):
    """How the command line asks a gateway whose listeners have TLS."""

    ca_file: OptionalFile = None
    """Authorities to trust; by default the gateway's own certificate if it is readable, else the system's."""
    cert_file: OptionalFile = None
    """The certificate to present, if the listener requires one."""
    key_file: OptionalFile = None
    """Its key; by default `cert_file` holds it."""


class DrainUntil(StrEnum):
    """What a graceful shutdown waits for."""

    CORES = "cores"
    """The core lane is empty."""
    EMPTY = "empty"
    """Nothing is queued."""


class ReloadSettings(Table):
    """When settings are read again, besides SIGHUP and `callspool reload`."""

    on_change: bool = False
    """Whether to reload when the configuration, or a file with a secret, changes."""


class ShutdownSettings(Table):
    """How the gateway stops."""

    deadline: Duration = 25.0
    """The longest a graceful shutdown may take; undelivered call logs then stay in the spool."""
    quiet: Wait = 2.0
    """The intake stays open until no post has come for this long, so that a stopping agent can still post its log."""
    call_max_age: Duration = 2 * HOUR
    """A shutdown does not wait for calls that started longer ago."""
    until: Annotated[DrainUntil, Choice] = DrainUntil.CORES
    """What a shutdown waits for: `cores`, or `empty` (details too), for when the volume is lost with the gateway."""
    evacuate_to: OptionalName = None
    """The destination to which undelivered call logs are moved before the deadline, such as a bucket with `standby`."""
    evacuate_within: Duration = 15.0
    """With `evacuate_to`: the part of the deadline that is reserved for it, at the end."""

    @field_validator("evacuate_within")
    @classmethod
    def _leaves_time_to_drain(cls, seconds: float, info: ValidationInfo) -> float:
        if info.data.get("evacuate_to") and seconds >= info.data.get("deadline", seconds + 1):
            raise ValueError(f"should be less than the deadline ({format_duration(info.data['deadline'])})")
        return seconds


class LogSettings(Table):
    """What is logged, to standard error."""

    level: Annotated[LogLevel, Choice] = LogLevel.INFO
    """The lowest level to log: `debug`, `info`, `warning` or `error`."""
    format: Annotated[LogFormat, Choice] = LogFormat.AUTO
    """`json`, `console`, or `auto`: console at a terminal, JSON otherwise."""


class TracesSettings(Table):
    """The gateway's own spans, sent by OTLP/HTTP. The variables of OpenTelemetry's SDKs say the rest: headers, TLS."""

    endpoint: OptionalEndpoint = None
    """The OTLP/HTTP endpoint for the gateway's own spans: `http://127.0.0.1:4318`. Needs `callspool[traces]`."""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of the traces that begin here; those of agents are sampled as their `traceparent` says."""

    @property
    def url(self) -> str | None:
        """The URL that spans are posted to: an endpoint without a path gets the usual one."""
        if self.endpoint is None or urlsplit(self.endpoint).path.strip("/"):
            return self.endpoint
        return f"{self.endpoint.rstrip('/')}/v1/traces"


class Settings(BaseSettings):
    """All settings. Built from its arguments alone; `config.loader` adds the file and the environment."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
    )

    intake: IntakeSettings = Field(default_factory=IntakeSettings)
    """The listener that agents post to."""
    admin: AdminSettings = Field(default_factory=AdminSettings)
    """The listener for people and scrapers."""
    audit: AuditSettings = Field(default_factory=AuditSettings)
    """The audit log of the admin listener."""
    spool: SpoolSettings = Field(default_factory=SpoolSettings)
    """The durable store."""
    split: SplitSettings = Field(default_factory=SplitSettings)
    """When a call log is sent in two phases."""
    redaction: RedactionSettings = Field(default_factory=RedactionSettings)
    """Redaction of call logs before they are stored."""
    erasure: ErasureSettings = Field(default_factory=ErasureSettings)
    """What erasing calls leaves behind."""
    whispey: WhispeySettings = Field(default_factory=WhispeySettings)
    """Rescuing call logs that the Whispey SDK leaves behind."""
    drain: DrainSettings = Field(default_factory=DrainSettings)
    """How considerate the draining of details is."""
    priority: PrioritySettings = Field(default_factory=PrioritySettings)
    """How much the gateway gives way to other processes."""
    cli: CliSettings = Field(default_factory=CliSettings)
    """How the command line asks a gateway with TLS."""
    reload: ReloadSettings = Field(default_factory=ReloadSettings)
    """When settings are read again."""
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    """How the gateway stops."""
    log: LogSettings = Field(default_factory=LogSettings)
    """What is logged."""
    traces: TracesSettings = Field(default_factory=TracesSettings)
    """Where the gateway's own spans are sent."""
    completion: CompletionSettings = Field(default_factory=CompletionSettings)
    """How a store puts calls together."""
    references: ReferenceSettings = Field(default_factory=ReferenceSettings)
    """Reading the objects that references name."""
    otlp: OtlpSettings = Field(default_factory=OtlpSettings)
    """Spans that agents export by OpenTelemetry."""
    live: LiveSettings = Field(default_factory=LiveSettings)
    """Live calls, watched by their heartbeats."""
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    """The listener that providers post to."""
    sources: tuple[SourceSettings, ...] = ()
    """Who posts webhooks to it."""
    work: WorkSettings = Field(default_factory=WorkSettings)
    """How `callspool work` reads Kafka and writes into a store."""
    destinations: tuple[Destination, ...] = ()
    """Where call logs are delivered to."""
    tenants: dict[str, TenantSettings] = Field(default_factory=dict)
    """Whose calls they are, by name."""

    @field_validator("tenants")
    @classmethod
    def _tenants_are_told_apart(
        cls, tenants: dict[str, TenantSettings], info: ValidationInfo
    ) -> dict[str, TenantSettings]:
        names = [each.name for each in info.data.get("destinations", ())]
        fault = next(tenant_faults(tenants, names, [each.tenant for each in info.data.get("sources", ())]), None)
        if fault is not None:
            raise ValueError(fault)
        return tenants

    @field_validator("tenants")
    @classmethod
    def _recordings_have_a_place(
        cls, tenants: dict[str, TenantSettings], info: ValidationInfo
    ) -> dict[str, TenantSettings]:
        own = {name: tenant.destinations for name, tenant in tenants.items()}
        webhooks = info.data.get("webhooks")
        if webhooks is not None:
            check_recordings(webhooks, info.data.get("sources", ()), info.data.get("destinations", ()), own)
        return tenants

    @field_validator("admin")
    @classmethod
    def _listeners_differ(cls, admin: AdminSettings, info: ValidationInfo) -> AdminSettings:
        intake = info.data.get("intake")
        if intake is not None and intake.listen == admin.listen and (admin.listen.port or admin.listen.path):
            raise PydanticCustomError("conflict", "should differ from intake.listen", {"field": "listen"})
        return admin

    @field_validator("destinations")
    @classmethod
    def _references_are_told_apart(
        cls, destinations: tuple[Destination, ...], info: ValidationInfo
    ) -> tuple[Destination, ...]:
        references = info.data.get("references")
        if references is not None and references.buckets and any(each.name == "references" for each in destinations):
            raise ValueError("none may be named references if references.buckets is set: callspool uses that name")
        return destinations

    @field_validator("destinations")
    @classmethod
    def _evacuation_leads_somewhere(
        cls, destinations: tuple[Destination, ...], info: ValidationInfo
    ) -> tuple[Destination, ...]:
        shutdown = info.data.get("shutdown")
        if shutdown is not None and shutdown.evacuate_to not in {None, *(each.name for each in destinations)}:
            raise ValueError(f"should hold {shutdown.evacuate_to}, which shutdown.evacuate_to names")
        return destinations

    @field_validator("destinations")
    @classmethod
    def _pipelines_have_a_store(cls, destinations: tuple[Destination, ...]) -> tuple[Destination, ...]:
        fault = pipeline_fault(destinations)
        if fault is not None:
            raise ValueError(fault)
        return destinations

    @field_validator("webhooks")
    @classmethod
    def _webhooks_have_a_listener_of_their_own(cls, webhooks: WebhookSettings, info: ValidationInfo) -> WebhookSettings:
        """What is open to providers must not show calls."""
        others = [info.data[name].listen for name in ("intake", "admin") if name in info.data]
        listen = webhooks.listen
        if listen is not None and listen in others and (listen.port or listen.path):
            raise PydanticCustomError(
                "conflict", "should differ from intake.listen and admin.listen", {"field": "listen"}
            )
        return webhooks

    @field_validator("sources")
    @classmethod
    def _sources_are_listened_to(
        cls, sources: tuple[SourceSettings, ...], info: ValidationInfo
    ) -> tuple[SourceSettings, ...]:
        webhooks = info.data.get("webhooks")
        if sources and webhooks is not None and webhooks.listen is None:
            raise ValueError("need webhooks.listen (CALLSPOOL_WEBHOOKS_LISTEN), such as 127.0.0.1:7719")
        return sources

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the library's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the library's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The arguments only: the library's own reading of the environment knows no unknown variables."""
        return (init_settings,)


def listeners_of(settings: Settings) -> dict[str, ListenerTable]:
    """All listeners, by section."""
    return {"intake": settings.intake, "admin": settings.admin, "webhooks": settings.webhooks}
