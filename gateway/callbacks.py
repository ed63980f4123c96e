"""Callbacks: when somebody is to be called back, a call log `callback_due` is accepted for those who subscribe to it.

    callbacks (store) ─due─▶ hours, limits, do-not-call ─▶ Acceptor (a record named after the call) ─▶ fired

A callback never stands in the queue of deliveries, where a resumed destination would make it due now. It is never
early: its time is compared with the clock only while the clock goes as a clock does. It is fired once: the record has a
name made of tenant and call, which the spool knows, so that one that was fired just before a kill is not fired again.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from gateway.intake.accept import Acceptor
from gateway.intake.body_reader import BodyReader
from gateway.intake.generated import NotAccepted, PassedOver, accept_generated, arrival_of, result_or_error
from gateway.intake.memory import BudgetExhausted
from gateway.intake.responses import Rejection
from gateway.trace import instant
from spool.errors import SpoolError
from spool.records import Clock
from uploaders.pipeline.callback_words import day_begin, next_allowed
from uploaders.pipeline.options import CallbackRule, TenantRule
from uploaders.stores.pipeline import Callback, CallbackTables
from uploaders.stores.store import CallKey, StoreError
from uploaders.tasks import Tasks

CALLBACK_DUE: Final = "callback_due"
"""The event of a callback."""
POLL_SECONDS: Final = 1.0
"""How often callbacks are looked at: so late they are at most, and a little."""
CLAIM: Final = 50
JUMP_SECONDS: Final = 5.0
"""A wall clock that goes by so much more than a monotonic one was set."""
DISTRUST_SECONDS: Final = 60.0
"""How long a clock that was set forward is not believed: it is often set back soon."""

_log = structlog.get_logger(__name__)


class CallbackObserver(Protocol):
    """Hears what becomes of callbacks, for metrics."""

    def callback_ended(self, outcome: str, late_seconds: float | None) -> None:
        """One was fired, so late, or moved, or cancelled."""


class CallbackScheduler:
    """Fires the callbacks of one store. `owner` names this spool among those that share it. For the event loop."""

    def __init__(
        self, tables: CallbackTables, owner: str, rule: CallbackRule, tenants: Mapping[str, TenantRule],
        bodies: BodyReader, acceptor: Acceptor, observer: CallbackObserver, clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._tables = tables
        self._owner = owner
        self._rule = rule
        self._tenants = tenants
        self._bodies = bodies
        self._acceptor = acceptor
        self._observer = observer
        self._clock = clock
        self._monotonic = monotonic
        self._seen = (clock(), monotonic())
        self._distrusts_until = 0.0
        self._failing = False
        self._passed: PassedOver[CallKey] = PassedOver()
        """What cannot be fired now."""
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin with what is due."""
        self._tasks.keep(self._run)

    async def stop(self) -> None:
        """End it; what is claimed is fired after the next start."""
        await self._tasks.cancel()

    async def _run(self) -> None:
        while True:
            try:
                if self.clock_is_sound():
                    await self.fire_due()
                self._failing = False
            except (StoreError, SpoolError, BudgetExhausted, OSError) as error:
                if not self._failing:
                    _log.warning("callbacks_wait", reason=str(error), error=type(error).__name__)
                self._failing = True
            await asyncio.sleep(POLL_SECONDS)

    def clock_is_sound(self) -> bool:
        """Whether the wall clock goes as the monotonic one does; one that was set forward is waited for."""
        now, ticks = self._clock(), self._monotonic()
        ahead = (now - self._seen[0]) / 1000 - (ticks - self._seen[1])
        self._seen = (now, ticks)
        if ahead > JUMP_SECONDS:
            self._distrusts_until = ticks + DISTRUST_SECONDS
            _log.warning("clock_set_forward", seconds=round(ahead), what_happens="callbacks wait for a minute")
        elif ahead < -JUMP_SECONDS:  # set back: what was wrong is over
            self._distrusts_until = 0.0
        return ticks >= self._distrusts_until

    async def fire_due(self) -> int:
        """Fire what is due, and may be called now; what cannot be is passed over, a claim of it in each look.

        Returns how many were fired.
        """
        fired = failures = 0
        while failures < CLAIM:
            claimed = await self._tables.claim(self._owner, CLAIM + len(self._passed))
            due = [callback for callback in claimed if (callback.project, callback.call_id) not in self._passed]
            if not due:
                self._passed.try_all_again()
                break
            for callback in due:
                outcome = await result_or_error(self._settle(callback))
                if isinstance(outcome, Exception):
                    failures += 1
                    self._note(callback, outcome)
                else:
                    fired += outcome
        return fired

    def _note(self, callback: Callback, failure: Exception) -> None:
        if not self._passed.add((callback.project, callback.call_id)):  # it is tried again every second
            return
        if isinstance(failure, Rejection):
            _log.warning("callback_waits", call_id=callback.call_id, reason=str(failure))
        else:
            _log.error("unexpected error with a callback", call_id=callback.call_id, exc_info=failure)

    async def _settle(self, callback: Callback) -> bool:
        """Whether it was fired: outside the hours, or above the limit of its number, it is moved."""
        now, rule = self._clock(), self._rule_of(callback)
        if await self._tables.may_not_call(callback.project, callback.number):
            await self._cancel(callback, "its number is on the do-not-call list")
            return False
        allowed_at = next_allowed(now, rule)
        if allowed_at > now:
            await self._move(callback, allowed_at, "outside the hours in which anybody may be called")
            return False
        today = day_begin(now, rule)
        if await self._tables.fired_since(callback.project, callback.number, today) >= rule.per_number_and_day:
            tomorrow = next_allowed(day_begin(today + 36 * 3_600_000, rule), rule)
            await self._move(callback, tomorrow, "its number was called often enough today")
            return False
        if not await self._tables.renew(callback, self._owner):
            return False  # cancelled meanwhile, or this process stood still for so long that another one has it
        uid = await self._accept(callback)
        if uid is None:
            await self._cancel(callback, "its call log cannot be made")
            return False
        await self._tables.fired(callback, uid)
        self._observer.callback_ended("fired", max(0, now - callback.due_at) / 1000)
        return True

    async def _accept(self, callback: Callback) -> str | None:
        document = {
            "call_id": callback.call_id,
            "wcall_event": CALLBACK_DUE,
            "agent_id": callback.agent_id,
            "customer_number": callback.number,
            "due_at": instant(callback.due_at),
            "zone": callback.zone,
            "words": callback.words,
        }
        arrival = arrival_of(CALLBACK_DUE, callback.project, callback.call_id)
        try:
            return (await accept_generated(document, arrival, self._bodies, self._acceptor)).uid
        except NotAccepted as error:
            _log.error("callback_not_fired", call_id=callback.call_id, reason=str(error))
            return None

    async def _move(self, callback: Callback, due_at: int, reason: str) -> None:
        await self._tables.move(callback, due_at, reason)
        self._observer.callback_ended("moved", None)

    async def _cancel(self, callback: Callback, reason: str) -> None:
        await self._tables.cancel(callback.project, callback.call_id, reason)
        self._observer.callback_ended("cancelled", None)

    def _rule_of(self, callback: Callback) -> CallbackRule:
        zone = self._tenants.get(callback.project, TenantRule()).zone or self._rule.zone
        return CallbackRule(
            zone, self._rule.first_hour, self._rule.last_hour, self._rule.days, self._rule.per_number_and_day
        )
