"""The settings of an endpoint that takes every call log, small or large, through its upload addresses."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from config.destinations.base import (
    EndpointTable,
    LaneConcurrency,
    PresignedSettings,
    address_url_warnings,
    require_address_url,
)


class PresignedDestination(EndpointTable):
    """An endpoint whose storage gets every call log whole; credentials for that are the endpoint's business."""

    type: Literal["presigned"]
    """`presigned`: an endpoint that gives upload addresses; every call log is uploaded whole."""
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
