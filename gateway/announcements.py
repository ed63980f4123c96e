"""Announcements: when a call becomes complete in the store, a call log `call_complete` is accepted for its subscribers.

What completes a call in the store puts it into the store's outbox. One receiver claims it, accepts the call log into
its own spool, and only then takes it out. Killed in between, it claims the call again; the call log has the same name
(`origin`), so the spool recognises it. Several receivers on one database each claim their share.
"""

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from gateway.calls import CALL_COMPLETE, complete_call_of
from gateway.intake.accept import Acceptor
from gateway.intake.body_reader import BodyReader
from gateway.intake.generated import NotAccepted, PassedOver, accept_generated, arrival_of, result_or_error
from gateway.intake.memory import BudgetExhausted
from gateway.intake.responses import Rejection
from spool.errors import SpoolError
from uploaders.stores.store import CallKey, Store, StoreError
from uploaders.tasks import Tasks

CLAIM: Final = 100
"""Calls that are claimed at once."""
RETRY_SECONDS: Final = 5.0
"""How often the outbox is looked at unasked: for what others left behind, and after a failure."""

_log = structlog.get_logger(__name__)


class Announcer:
    """Announces the calls that become complete in one store: at once when `completed` is set. For the event loop.

    `owner` names this spool among those that share the store.
    """

    def __init__(
        self, store: Store, owner: str, bodies: BodyReader, acceptor: Acceptor, completed: asyncio.Event
    ) -> None:
        self._store = store
        self._owner = owner
        self._bodies = bodies
        self._acceptor = acceptor
        self._completed = completed
        self._failing = False
        self._passed: PassedOver[CallKey] = PassedOver()
        """What cannot be announced now."""
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin with what is in the outbox."""
        self._tasks.keep(self._run)

    async def stop(self) -> None:
        """End it, before store and spool are closed; what is claimed is announced after the next start."""
        await self._tasks.cancel()

    async def _run(self) -> None:
        while True:
            self._completed.clear()
            try:
                await self._announce_all()
                self._failing = False
            except (StoreError, SpoolError, BudgetExhausted, OSError) as error:
                if not self._failing:  # a store in trouble is reported by the deliveries to it, too
                    _log.warning("announcements_wait", reason=str(error), error=type(error).__name__)
                self._failing = True
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._completed.wait()

    async def _announce_all(self) -> None:
        """Announce what is in the outbox; what cannot be announced now is passed over, a claim of it in each look."""
        failures = 0
        while failures < CLAIM:
            claimed = await self._store.claim_completions(self._owner, CLAIM + len(self._passed))
            calls = [call for call in claimed if call not in self._passed]
            if not calls:
                self._passed.try_all_again()
                break
            announced = []
            for call in calls:
                failure = await result_or_error(self._announce(call))
                if failure is None:
                    announced.append(call)
                else:
                    failures += 1
                    self._note(call, failure)
            await self._store.forget_completions(announced)

    def _note(self, key: CallKey, failure: Exception) -> None:
        if not self._passed.add(key):  # it is tried again every few seconds
            return
        if isinstance(failure, Rejection):
            _log.warning("announcement_waits", call_id=key[1], reason=str(failure))
        else:
            _log.error("unexpected error with an announcement", call_id=key[1], exc_info=failure)

    async def _announce(self, key: CallKey) -> None:
        project, call_id = key
        call = await self._store.call(project, call_id)
        if call is None:  # somebody deleted it
            return
        arrival = arrival_of(CALL_COMPLETE, project, call_id)
        try:
            await accept_generated(complete_call_of(call), arrival, self._bodies, self._acceptor)
        except NotAccepted as error:
            _log.error("not_announced", call_id=call_id, reason=str(error))
