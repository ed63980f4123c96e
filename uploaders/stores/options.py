"""What the configuration may say of stores. Pure."""

from enum import StrEnum


class Reads(StrEnum):
    """From which path questions about calls are answered. See docs/migration.md."""

    COMPLETE = "complete"
    """From `calls_complete` alone: it has had every call from the beginning."""
    ROUTED = "routed"
    """From `calls_complete` where it has every call that is asked for, otherwise from `calls_merged`."""
    MERGED = "merged"
    """From `calls_merged` alone: not yet, or no longer."""
