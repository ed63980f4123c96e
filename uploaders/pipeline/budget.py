"""What a tenant may spend on models, and whose turn it is. Pure; times are seconds of a monotonic clock.

Requests and tokens of a minute are leaky buckets (GCRA) that hold one minute's worth. A tenant that has spent its share
waits by itself: nobody behind it does.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from uploaders.pipeline.options import Limits

MINUTE = 60.0


@dataclass(slots=True)
class Budget:
    """The buckets of all tenants."""

    limits: Limits
    _requests: dict[str, float] = field(default_factory=dict)
    """For each project, when its bucket will be empty."""
    _tokens: dict[str, float] = field(default_factory=dict)

    def seconds_until_free(self, project: str, now: float) -> float:
        """How long the next request of this project has to wait."""
        waits = [0.0]
        if self.limits.requests_per_minute is not None:
            room = MINUTE - MINUTE / self.limits.requests_per_minute
            waits.append(self._requests.get(project, 0.0) - now - room)
        if self.limits.tokens_per_minute is not None:
            waits.append(self._tokens.get(project, 0.0) - now - MINUTE)
        return max(waits)

    def asked(self, project: str, now: float) -> None:
        """A request is made."""
        if self.limits.requests_per_minute is not None:
            empty_at = max(self._requests.get(project, 0.0), now)
            self._requests[project] = empty_at + MINUTE / self.limits.requests_per_minute

    def answered(self, project: str, tokens: int, now: float) -> None:
        """It took so many tokens."""
        if self.limits.tokens_per_minute is not None:
            empty_at = max(self._tokens.get(project, 0.0), now)
            self._tokens[project] = empty_at + tokens * MINUTE / self.limits.tokens_per_minute


@dataclass(slots=True)
class Turns:
    """Who is served next: whoever has the fewest calls under way, and of these whoever was served longest ago."""

    _served: dict[str, int] = field(default_factory=dict)
    _count: int = 0

    def share(self, projects: Iterable[str], running: Counter[str], slots: int) -> Sequence[tuple[str, int]]:
        """How many of the free slots each project gets; one that has less to do leaves some unused."""
        waiting = list(projects)
        given: Counter[str] = Counter()
        for _ in range(slots if waiting else 0):
            chosen = min(waiting, key=lambda each: (running[each] + given[each], self._served.get(each, 0), each))
            given[chosen] += 1
            self._count += 1
            self._served[chosen] = self._count
        return list(given.items())
