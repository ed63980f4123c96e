"""How much the whole gateway gives way to other processes of the same machine: CPU and disk."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from config.values import Choice, Table


class IoClass(StrEnum):
    """How the kernel serves the gateway's reads and writes beside those of others."""

    DEFAULT = "default"
    """As the process was started."""
    BEST_EFFORT = "best_effort"
    """By turns, as `io_level` says."""
    IDLE = "idle"
    """When nobody else wants the disk."""


class PrioritySettings(Table):
    """Both are set at the start; a refusal of the system is told, and nothing else comes of it."""

    nice: Annotated[int, Field(ge=0, le=19)] | None = None
    """The niceness of the gateway, 0 to 19: the higher, the more CPU time other processes get before it."""
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
