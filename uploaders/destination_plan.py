"""Plain data: how to deliver to one destination."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spool.records import Lane
from uploaders.ladder import Step
from uploaders.retry import RetryPolicy
from uploaders.uploader import Uploader


@dataclass(frozen=True, slots=True)
class DestinationPlan:
    """How to deliver to one destination."""

    uploader: Uploader
    policy: RetryPolicy
    concurrency: Mapping[Lane, int]
    """The most attempts under way at the same time in each lane; at least 1."""
    shared_token: bool = False
    """Whether all deliveries authenticate by one configured token, so that its refusal concerns them all."""
    when_too_large: tuple[Step, ...] = ()
    """How what is refused for its size goes on; without a step it becomes a dead letter."""
    type: str = ""
    """The kind of destination, as the configuration calls it; only shown."""
    details_at_once: Callable[[], int | None] = lambda: None
    """How many details may be under way at this moment, whatever it bears; None: as many as it bears."""
