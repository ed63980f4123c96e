"""Plain data: a circuit breaker that is open, as a restart is to know it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """Why a destination takes no deliveries. Times are milliseconds since the Unix epoch."""

    cause: str
    """The uploaders' own word for why."""
    reason: str
    """What the destination did last."""
    since: int
    retry_at: int
    """When it is to be tried again."""
    probes: int
    """How often that was tried in vain."""
