"""What every destination has: a name, a type, patience, and places in each lane."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from config.units import DAY, MINUTE, format_duration
from config.values import Duration, OptionalSize, Table


class RetrySettings(Table):
    """When a failed delivery is tried again, and for how long."""

    initial: Duration = 1.0
    """The wait after the first failure; it doubles with each further one."""
    max: Duration = 5 * MINUTE
    """The longest wait between two attempts."""
    give_up_after: Duration = DAY
    """So long after its first failure a delivery becomes a dead letter."""

    @field_validator("max")
    @classmethod
    def _max_holds_initial(cls, longest: float, info: ValidationInfo) -> float:
        if longest < info.data.get("initial", 0):
            raise ValueError(f"should be at least `initial` ({format_duration(info.data['initial'])})")
        return longest


class LaneConcurrency(Table):
    """How many deliveries of each lane are under way at once; a lane never waits for the other's slots."""

    core: Annotated[int, Field(ge=1, le=1000)] = 8
    """Wholes, cores and notices under way at once."""
    detail: Annotated[int, Field(ge=1, le=1000)] = 2
    """Details under way at once."""


class DestinationTable(Table):
    """What every destination has."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    """Names the destination in metrics and in the spool: a to z, 0 to 9 and `-`, at most 32; keep it for good."""
    type: str
    """Selects the model; each one narrows it to its own word."""
    max_bytes_per_second: OptionalSize = None
    """The most that details take of the line to it, in bytes a second; cores are counted and never wait."""
    retry: RetrySettings = Field(default_factory=RetrySettings)
    """When a failed delivery is tried again."""
