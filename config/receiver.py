"""The settings of a receiver: how a store puts calls together, which objects it reads, how workers write into it."""

from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from config.destinations.s3 import BucketNames
from config.types import (
    Choice,
    Duration,
    Endpoint,
    OptionalDate,
    OptionalName,
    Table,
    Word,
    Words,
    checked_key,
)
from config.values import HOUR, MINUTE, crosses_network_in_clear
from uploaders.stores.options import Reads


class CompletionSettings(Table):
    """How a store completes calls, how long they wait for missing parts, and from which path they are read."""

    enabled: bool = True
    """Whether calls are completed as their parts arrive; otherwise only parts are stored (docs/migration.md)."""
    timeout: Duration = 5 * MINUTE
    """A call whose end arrived, but no start within this time, becomes an orphan."""
    open_timeout: Duration = HOUR
    """A call whose start arrived, but no end within this time, times out."""
    sweep: Duration = 5.0
    """How often to look for calls that are due."""
    reads: Annotated[Reads, Choice] = Reads.COMPLETE
    """What answers queries: `complete`, `routed` (by `cutoff` and `projects`), or `merged` (to roll back)."""
    cutoff: OptionalDate = None
    """With `routed`: the first day (UTC) whose calls were all completed on arrival, such as `2026-01-31`."""
    projects: Words = ()
    """With `routed`: the tenants whose queries may use the new path; by default all."""
    compare: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of queries, from 0 to 1, that are sent to both paths; differences are counted."""

    @field_validator("reads")
    @classmethod
    def _what_is_read_is_written(cls, reads: Reads, info: ValidationInfo) -> Reads:
        if reads is not Reads.MERGED and not info.data.get("enabled", True):
            raise ValueError('should be "merged" with `enabled = false`: nothing else is written')
        return reads

    @field_validator("cutoff")
    @classmethod
    def _routing_has_a_cutoff(cls, cutoff: date | None, info: ValidationInfo) -> date | None:
        if cutoff is None and info.data.get("reads") is Reads.ROUTED:
            raise ValueError('should be a day with `reads = "routed"`')
        return cutoff


class ReferenceSettings(Table):
    """Reading the objects that an `s3_reference` names, for a store. Credentials come by the usual AWS chain."""

    buckets: BucketNames = ()
    """The buckets that may be read; a reference to any other becomes a dead letter. None: references are not read."""
    endpoint_url: Endpoint | None = None
    """The server, if it is not Amazon's."""
    region: OptionalName = None
    """By default from AWS_REGION, AWS_DEFAULT_REGION or the profile, else us-east-1."""
    profile: OptionalName = None
    """A profile of the shared AWS configuration; by default AWS_PROFILE."""
    concurrency: Annotated[int, Field(ge=1, le=100)] = 2
    """The most objects that are read at once."""
    customer_key: Annotated[SecretStr | None, AfterValidator(checked_key)] = None
    """Your key, if the objects are encrypted with one (SSE-C): base64 of 32 bytes."""

    @field_validator("customer_key")
    @classmethod
    def _key_stays_secret(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if key is not None and crosses_network_in_clear(info.data.get("endpoint_url")):
            raise ValueError("goes with each request: `endpoint_url` has to be https")
        return key


class WorkSettings(Table):
    """How `callspool work` reads Kafka and writes into a store."""

    source: OptionalName = None
    """The `kafka` destination whose topics are read; by default the only one."""
    store: OptionalName = None
    """The store that is written to; by default the only one."""
    group: Word = "callspool"
    """The consumer group: workers of one group share the partitions. Each store needs a group of its own."""
    instance: OptionalName = None
    """The name of this worker in its group, kept through restarts; by default that of the host."""
    batch_max: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Messages in one batch, by default 100, or 1,000 into ClickHouse; five times as many while behind."""
    batch_wait: Duration = 5.0
    """The longest a message waits for others to join its batch; when no more can be read, it does not wait."""
    session_timeout: Annotated[Duration, Field(ge=1, le=1800)] = 10.0
    """How long a silent worker keeps its partitions before others get them; brokers allow 6 s to 30 min."""
