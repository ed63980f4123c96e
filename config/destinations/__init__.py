"""The settings of destinations: one model for each type, told apart by `type`.

A further type is a model derived from `DestinationTable`, a member of the `Destination` union, and, if variables
alone can add one, a row in `config.shortcuts`.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from config.destinations.base import (
    REDUCTIONS,
    SEND_PATH,
    DestinationTable,
    DetailSent,
    EndpointTable,
    Fallback,
    Fallbacks,
    LaneConcurrency,
    PresignedSettings,
    RetrySettings,
    TokenMode,
    address_url_warnings,
    has_no_address_url,
    require_address_url,
)
from config.destinations.kafka import KafkaDestination
from config.destinations.pipeline import PipelineDestination
from config.destinations.s3 import S3Destination
from config.destinations.stores import ClickHouseDestination, PostgresDestination, SqliteDestination
from config.types import Choice, Directory, Size, format_path
from config.values import MB
from uploaders.document.options import Encoding, Large


def _default_fallbacks(checked: dict[str, Any]) -> tuple[Fallback, ...]:  # Any: pydantic's own type here
    """An endpoint whose `address_url` is set returns upload addresses."""
    presigned = checked.get("presigned")
    in_two_phases = checked.get("large") is Large.TWO_PHASE and checked.get("detail") is not DetailSent.NONE
    return (Fallback.PRESIGNED,) if in_two_phases and presigned and presigned.address_url else ()


class HttpDestination(EndpointTable):
    """An HTTP endpoint that takes call logs."""

    type: Literal["http"]
    """`http`: an endpoint that accepts call logs as JSON."""
    encoding: Annotated[Encoding, Choice] = Encoding.AUTO
    """`auto` (plain up to 10 KB, the envelope above), `identity`, `gzip`, `zstd` or `envelope`."""
    large: Annotated[Large, Choice] = Large.TWO_PHASE
    """How large call logs are sent: `two_phase`, `whole` or `presigned`."""
    max_request_bytes: Size = 6 * MB
    """The largest request body that the endpoint accepts."""
    detail: Annotated[DetailSent, Choice] = DetailSent.FULL
    """Which part of a detail it receives: `full`, `critical` (slow spans, failed ones, tool calls), `top_n` (the
    slowest spans) or `none`."""
    top_n: Annotated[int, Field(ge=1)] = 100
    """For `top_n`: how many of the slowest spans to keep."""
    concurrency: LaneConcurrency = Field(default_factory=LaneConcurrency)
    """Requests in flight at once, for each lane."""
    presigned: PresignedSettings = Field(default_factory=PresignedSettings)
    """How large call logs are sent through upload addresses."""
    when_too_large: Fallbacks = Field(default_factory=_default_fallbacks)
    """Where a refused detail goes: `presigned`, then `s3` or reduced to `critical` or `top_n`, then a dead letter.
    By default `presigned` if `presigned.address_url` is set."""

    def warnings(self, *, core_max_bytes: int) -> Iterator[str]:
        """See `DestinationTable`."""
        yield from super().warnings(core_max_bytes=core_max_bytes)
        yield from address_url_warnings(self.name, self.presigned)
        if self.max_request_bytes < core_max_bytes:
            yield (
                f"destinations[{self.name}].max_request_bytes is less than split.core_max_bytes: "
                "a core may be too large to be delivered"
            )

    @field_validator("presigned")
    @classmethod
    def _addresses_can_be_asked_for(cls, presigned: PresignedSettings, info: ValidationInfo) -> PresignedSettings:
        if info.data.get("large") is Large.PRESIGNED:
            require_address_url(presigned, info.data)
        return presigned

    @field_validator("detail")
    @classmethod
    def _only_two_phases_have_details(cls, detail: DetailSent, info: ValidationInfo) -> DetailSent:
        if detail is not DetailSent.FULL and info.data.get("large", Large.TWO_PHASE) is not Large.TWO_PHASE:
            raise ValueError('needs `large = "two_phase"`')
        return detail

    @field_validator("when_too_large")
    @classmethod
    def _fallbacks_are_possible(cls, ways: tuple[Fallback, ...], info: ValidationInfo) -> tuple[Fallback, ...]:
        checked = info.data
        if ways and checked.get("large", Large.TWO_PHASE) is not Large.TWO_PHASE:
            raise ValueError('needs `large = "two_phase"`')
        if REDUCTIONS.intersection(ways) and checked.get("detail", DetailSent.FULL) is not DetailSent.FULL:
            raise ValueError('needs `detail = "full"` to reduce what is refused')
        if Fallback.S3 in ways and checked.get("detail") is DetailSent.NONE:
            raise ValueError('needs details: with `detail = "none"` none are sent, so no fallback can apply')
        if Fallback.PRESIGNED in ways and "presigned" in checked and has_no_address_url(checked["presigned"], checked):
            raise ValueError(f"needs `presigned.address_url`: it cannot be derived from a `url` without {SEND_PATH}")
        return ways


class PresignedDestination(EndpointTable):
    """An endpoint whose storage gets every call log whole; the endpoint has the credentials for it."""

    type: Literal["presigned"]
    """`presigned`: an endpoint that returns upload addresses; every call log is uploaded whole."""
    concurrency: LaneConcurrency = Field(default_factory=LaneConcurrency)
    """Uploads under way at once, for each lane."""
    presigned: PresignedSettings = Field(default_factory=PresignedSettings)
    """Where addresses are asked for, and what follows an upload."""

    def warnings(self, *, core_max_bytes: int) -> Iterator[str]:
        """See `DestinationTable`."""
        yield from super().warnings(core_max_bytes=core_max_bytes)
        yield from address_url_warnings(self.name, self.presigned)

    @field_validator("presigned")
    @classmethod
    def _addresses_can_be_asked_for(cls, presigned: PresignedSettings, info: ValidationInfo) -> PresignedSettings:
        require_address_url(presigned, info.data)
        return presigned


class FileDestination(DestinationTable):
    """A directory that delivered call logs are written into."""

    type: Literal["file"]
    """`file`: a directory on this machine."""
    path: Directory
    """The directory; each day gets a subdirectory."""
    concurrency: LaneConcurrency = Field(default_factory=lambda: LaneConcurrency(core=2, detail=1))
    """Files written at once, for each lane."""

    @property
    def target(self) -> str:
        """See `DestinationTable`."""
        return format_path(self.path)


Destination = Annotated[
    HttpDestination
    | PresignedDestination
    | S3Destination
    | FileDestination
    | KafkaDestination
    | SqliteDestination
    | PostgresDestination
    | ClickHouseDestination
    | PipelineDestination,
    Field(discriminator="type"),
]
"""Any configured destination."""

DESTINATION_TYPES: tuple[type[DestinationTable], ...] = (
    HttpDestination,
    PresignedDestination,
    S3Destination,
    FileDestination,
    KafkaDestination,
    SqliteDestination,
    PostgresDestination,
    ClickHouseDestination,
    PipelineDestination,
)
"""The members of `Destination`, in the order of their documentation."""


def type_name(model: type[DestinationTable]) -> str:
    """The word that selects this model: the only value of its `type`."""
    (word,) = model.model_fields["type"].annotation.__args__  # type: ignore[union-attr]  # a Literal has it
    return str(word)


__all__ = [
    "DESTINATION_TYPES",
    "ClickHouseDestination",
    "Destination",
    "DestinationTable",
    "DetailSent",
    "Fallback",
    "FileDestination",
    "HttpDestination",
    "KafkaDestination",
    "LaneConcurrency",
    "PipelineDestination",
    "PostgresDestination",
    "PresignedDestination",
    "PresignedSettings",
    "RetrySettings",
    "S3Destination",
    "SqliteDestination",
    "TokenMode",
    "type_name",
]
