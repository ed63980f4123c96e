"""The settings of stores: databases that calls are put together in, from their start, end and detail."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from config.destinations.base import DestinationTable, LaneConcurrency
from config.types import Choice, Duration, OptionalDuration, Shown, format_path
from config.values import MINUTE, mask_address
from uploaders.stores.options import DetailOptions, DetailsStored, SpansStored

SQLITE_SCHEME = "sqlite:///"
POSTGRES_SCHEMES = ("postgresql", "postgres")
CLICKHOUSE_SCHEMES = ("clickhouse", "clickhouses")


class StoreTable(DestinationTable):
    """What every store has."""

    worker_batch: ClassVar[int] = 100
    """What a worker writes together into a store of this kind, unless its settings say otherwise."""
    batch_max: Annotated[int, Field(ge=1, le=10_000)] = 500
    """The most call logs in one transaction."""
    spans: Annotated[SpansStored, Choice] = SpansStored.COLUMNS
    """`columns`: a row for each span in the table `spans`; `full`: with its JSON; `none`: only in the detail."""
    keep: OptionalDuration = None
    """Calls that received nothing for this long are deleted, with all that was derived from them; by default never."""
    concurrency: LaneConcurrency
    """Batches in flight at once, for each lane."""
    details: Annotated[DetailsStored, Choice] = DetailsStored.FRAMES
    """`frames`: as in the spool; `json`: also as JSON that SQL can read, up to 64 MiB each, at five times the disk."""


def detail_options(destination: StoreTable) -> DetailOptions:
    """What this store keeps of details."""
    return DetailOptions(destination.spans, destination.details)


def _sqlite_path(value: object) -> object:
    """A path, or `sqlite:///PATH` (`sqlite:////absolute/path`)."""
    if isinstance(value, str):
        value = value.removeprefix(SQLITE_SCHEME)
        if not value.strip() or "://" in value:
            raise ValueError("should be the path of a file, or sqlite:///PATH (four slashes before an absolute path)")
    return value


def _postgres_url(value: object) -> object:
    if not isinstance(value, str):
        return value
    if urlsplit(value).scheme not in POSTGRES_SCHEMES:
        raise ValueError("should begin with postgresql://, such as postgresql://user@host/database")
    return value


def _clickhouse_url(value: object) -> object:
    if not isinstance(value, str):
        return value
    if urlsplit(value).scheme not in CLICKHOUSE_SCHEMES:
        raise ValueError(
            "should begin with clickhouse:// (clickhouses:// with TLS), such as clickhouse://host:8123/calls"
        )
    return value


class SqliteDestination(StoreTable):
    """A SQLite file."""

    type: Literal["sqlite"]
    """`sqlite`: a store in a file on this machine; needs nothing else."""
    path: Annotated[Path, BeforeValidator(_sqlite_path), Shown(format_path)]
    """The file; it and its directory are created. Not on a network file system."""
    concurrency: LaneConcurrency = Field(default_factory=lambda: LaneConcurrency(core=2, detail=1))
    """Batches in flight at once, for each lane: one is written while the next is prepared."""

    @property
    def target(self) -> str:
        """See `DestinationTable`."""
        return format_path(self.path)


class PostgresDestination(StoreTable):
    """A PostgreSQL database, which several receivers may share."""

    type: Literal["postgres"]
    """`postgres`: a store in PostgreSQL 15 or newer; needs `pip install callspool[postgres]`."""
    url: Annotated[str, BeforeValidator(_postgres_url), Shown(mask_address)] = Field(repr=False)
    """The database, as `postgresql://user:password@host:port/database?sslmode=verify-full`."""
    pool: Annotated[int, Field(ge=1, le=100)] = 8
    """The most connections of this process."""
    statement_timeout: Duration = MINUTE
    """Time for one statement; a batch that takes longer is retried."""
    concurrency: LaneConcurrency = Field(default_factory=lambda: LaneConcurrency(core=4, detail=2))
    """Batches in flight at once, for each lane."""

    @property
    def target(self) -> str:
        """See `DestinationTable`."""
        return mask_address(self.url)


class ClickHouseDestination(StoreTable):
    """A ClickHouse database, for analysing many calls."""

    worker_batch: ClassVar[int] = 1000
    type: Literal["clickhouse"]
    """`clickhouse`: a store in ClickHouse 24.8 or newer; needs `pip install callspool[clickhouse]`."""
    url: Annotated[str, BeforeValidator(_clickhouse_url), Shown(mask_address)] = Field(repr=False)
    """The database, as `clickhouse://user:password@host:8123/database`; `clickhouses://` (port 8443) with TLS."""
    batch_max: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """The most call logs in one insert: ClickHouse prefers few, large ones."""
    statement_timeout: Duration = MINUTE
    """Time for one statement; a batch that takes longer is retried."""
    concurrency: LaneConcurrency = Field(default_factory=lambda: LaneConcurrency(core=1, detail=1))
    """Batches in flight at once, for each lane: while one is written, the next one grows."""

    @property
    def target(self) -> str:
        """See `DestinationTable`."""
        return mask_address(self.url)
