"""How a spool is kept."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

HOUR = 3600 * 1000
"""Milliseconds."""


class WhenFull(StrEnum):
    """What is done about a record that the quota has no room for."""

    REFUSE = "refuse"
    """It is refused; everything that is in the spool stays."""
    EXPIRE_DETAILS = "expire_details"
    """The oldest details are given up for it. Never a core, a whole, or a dead letter."""


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """How a spool is kept. Times in milliseconds, sizes in bytes."""

    directory: Path
    max_bytes: int | None = None
    """The quota; None: what `spool.quota.default_limit` says at the first start."""
    reserve_for_cores: int | None = None
    """The part of the quota that large records leave alone; None: what `spool.quota.reserve_of` says."""
    when_full: WhenFull = WhenFull.REFUSE
    compression_level: int = 1
    duplicate_window: int = 24 * HOUR
    expire_after: int | None = None
    """Deliveries of records older than this are given up; None: never."""
    receipts_keep: int = 24 * HOUR
    receipts_max: int = 100_000
    lock_timeout: float = 10.0
    """Seconds to wait for another process that owns the directory."""
