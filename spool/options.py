"""How a spool is kept."""

from dataclasses import dataclass
from pathlib import Path

HOUR = 3600 * 1000
"""Milliseconds."""


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """How a spool is kept. Times in milliseconds, sizes in bytes."""

    directory: Path
    max_bytes: int | None = None
    """The quota; None: what `spool.quota.default_limit` says at the first start."""
    compression_level: int = 1
    duplicate_window: int = 24 * HOUR
    expire_after: int | None = None
    """Deliveries of records older than this are given up; None: never."""
    receipts_keep: int = 24 * HOUR
    receipts_max: int = 100_000
    lock_timeout: float = 10.0
    """Seconds to wait for another process that owns the directory."""
