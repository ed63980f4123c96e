"""What the configuration may say of stores. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Reads(StrEnum):
    """From which path questions about calls are answered. See docs/migration.md."""

    COMPLETE = "complete"
    """From `calls_complete` alone: it has had every call from the beginning."""
    ROUTED = "routed"
    """From `calls_complete` where it has every call that is asked for, otherwise from `calls_merged`."""
    MERGED = "merged"
    """From `calls_merged` alone: not yet, or no longer."""


class SpansStored(StrEnum):
    """What a store keeps of spans besides the detail that holds them."""

    COLUMNS = "columns"
    """A row for each: name, ids, times and status."""
    FULL = "full"
    """The same, and the span as it was posted."""
    NONE = "none"
    """Nothing."""


class DetailsStored(StrEnum):
    """How a store keeps details."""

    FRAMES = "frames"
    """As the zstd frames that the spool had."""
    JSON = "json"
    """As frames, and as JSON that SQL can read: takes five times the disk."""


@dataclass(frozen=True, slots=True)
class DetailOptions:
    """What is made of a detail besides its frames."""

    spans: SpansStored = SpansStored.COLUMNS
    details: DetailsStored = DetailsStored.FRAMES


FRAMES_AND_COLUMNS: Final = DetailOptions()
