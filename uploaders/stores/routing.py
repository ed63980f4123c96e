"""From which path a question about calls is answered: the old one (`calls_merged`) or the new one (`calls_complete`).

The decisions are pure. A range is never answered half from the one and half from the other: the new path answers where
it has every call of the range, the old one, which always has, anywhere else. `CallReads` asks as they say, and compares
both on a share of the questions.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Protocol

import structlog

from uploaders.stores.completion import CallState
from uploaders.stores.options import Reads
from uploaders.stores.parts import key_text
from uploaders.stores.store import (
    BackfillDay,
    BackfillStatus,
    CallPath,
    CallQuery,
    CallSummary,
    Store,
    StoredCall,
    StoreError,
    milliseconds_of,
)

FRESH_SECONDS: Final = 10.0
"""How long the progress of a backfill is taken as it was."""
OLDEST_SECONDS: Final = 3600.0
"""The same for the oldest day: PostgreSQL reads every part for it. One that is deleted meanwhile keeps questions on the
old path for as long."""
EVERYTHING: Final = 0
"""`complete_since` of a new path that has every call."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Routing:
    """How questions are routed."""

    reads: Reads = Reads.COMPLETE
    cutoff: date | None = None
    """The day (UTC) from whose beginning on the new path was written for every call; None: it always was."""
    projects: frozenset[str] = frozenset()
    """With `ROUTED`: whose questions may be answered from the new path; empty: everybody's."""
    compare: float = 0.0
    """The share of questions, from 0 to 1, that both paths are asked."""


def complete_since(cutoff: date | None, days: Iterable[BackfillDay], oldest: date | None) -> int:
    """From when on, in milliseconds, the new path has every call: back from the cutoff as far as days are completed."""
    if cutoff is None:
        return EVERYTHING
    completed = {each.day for each in days if each.status is BackfillStatus.COMPLETED}
    first = cutoff
    while oldest is not None and oldest < first and first - timedelta(days=1) in completed:
        first -= timedelta(days=1)
    return EVERYTHING if oldest is None or first <= oldest else milliseconds_of(first)[0]


def covers(since: int | None, complete: int) -> bool:
    """Whether the new path has all calls of a range that begins at `since` (None: at the first one)."""
    return complete == EVERYTHING or (since is not None and since >= complete)


def path_of(routing: Routing, project: str, since: int | None, complete: int) -> CallPath:
    """Which path answers for a range of calls."""
    match routing.reads:
        case Reads.COMPLETE:
            return CallPath.COMPLETE
        case Reads.MERGED:
            return CallPath.MERGED
        case Reads.ROUTED:
            flagged = not routing.projects or project in routing.projects
            return CallPath.COMPLETE if flagged and covers(since, complete) else CallPath.MERGED


def differing(these: Sequence[CallSummary], those: Sequence[CallSummary]) -> frozenset[str]:
    """The ids of the calls that two answers to one question show differently."""
    return frozenset(call_id for call_id, _ in {_seen(call) for call in these} ^ {_seen(call) for call in those})


_WAITING: Final = {CallState.TIMED_OUT: CallState.OPEN, CallState.ORPHAN: CallState.ENDED}
"""A call that is due is given up by the next sweep on the new path, and at once on the old one."""


def _seen(call: CallSummary) -> tuple[str, str]:
    state = CallState.OPEN if call.state is CallState.PENDING else _WAITING.get(call.state, call.state)
    return call.call_id, repr((state, call.fields, call.conflicts, call.has_detail))


class RoutingObserver(Protocol):
    """Hears how questions were routed, for metrics."""

    def query_routed(self, path: CallPath) -> None:
        """A question was answered from this path."""

    def paths_differ(self) -> None:
        """Both paths were asked the same, and did not answer the same."""


class CallReads:
    """Asks a store what is asked of calls. `chance` gives random numbers from 0 to 1."""

    def __init__(
        self,
        store: Store,
        routing: Routing,
        observer: RoutingObserver,
        chance: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._routing = routing
        self._observer = observer
        self._chance = chance
        self._clock = clock
        self._complete: tuple[float, int] | None = None
        self._oldest: tuple[float, date] | None = None

    async def calls(self, query: CallQuery) -> list[CallSummary]:
        """The calls that a query asks for, the newest first."""
        query = query.as_stored()
        complete = await self._complete_since()
        path = path_of(self._routing, query.project, query.since, complete)
        found = await self._store.calls(query, path)
        self._observer.query_routed(path)
        if covers(query.since, complete) and self._is_compared():
            await self._compare(lambda chosen: self._store.calls(query, chosen), query.project)
        return found

    async def call(self, project: str, call_id: str) -> StoredCall | None:
        """One call by its id; None for one that is not here. The old path is asked where the new one lacks parts."""
        project = key_text(project)
        complete = await self._complete_since()
        # An id has no range: it is looked for on the new path first, wherever that may be asked.
        path = path_of(self._routing, project, None, EVERYTHING)
        found = await self._store.call(project, call_id, path)
        misses = found is None or found.summary.state is not CallState.COMPLETE
        if path is CallPath.COMPLETE and misses and complete != EVERYTHING:
            path = CallPath.MERGED
            found = await self._store.call(project, call_id, path)
        self._observer.query_routed(path)
        if complete == EVERYTHING and self._is_compared():
            await self._compare(lambda chosen: self._alone(project, call_id, chosen), project)
        return found

    def detail(self, project: str, call_id: str) -> AsyncIterator[bytes]:
        """The frames of the detail that a call shows: the same on both paths."""
        return self._store.detail(key_text(project), call_id)

    async def _alone(self, project: str, call_id: str, path: CallPath) -> list[CallSummary]:
        found = await self._store.call(project, call_id, path)
        return [] if found is None else [found.summary]

    def _is_compared(self) -> bool:
        return self._routing.compare > 0 and self._chance() < self._routing.compare

    async def _compare(self, ask: Callable[[CallPath], Awaitable[list[CallSummary]]], project: str) -> None:
        """Ask both paths. What was written between the two questions is no difference, so they are asked again."""
        try:
            for _ in range(2):
                ids = differing(await ask(CallPath.COMPLETE), await ask(CallPath.MERGED))
                if not ids:
                    return
        except StoreError as error:
            _log.warning("paths_not_compared", reason=str(error))
            return
        self._observer.paths_differ()
        _log.warning("paths_differ", project=project, calls=sorted(ids)[:10], count=len(ids))

    async def _complete_since(self) -> int:
        if self._routing.cutoff is None:
            return EVERYTHING
        now = self._clock()
        if self._complete is None or now - self._complete[0] > FRESH_SECONDS:
            days, oldest = await self._store.backfill_days(), await self._oldest_day(now)
            self._complete = (now, complete_since(self._routing.cutoff, days, oldest))
        return self._complete[1]

    async def _oldest_day(self, now: float) -> date | None:
        if self._oldest is None or now - self._oldest[0] > OLDEST_SECONDS:
            oldest = await self._store.oldest_day()
            if oldest is None:
                return None
            self._oldest = (now, oldest)
        return self._oldest[1]
