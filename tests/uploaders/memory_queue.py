"""The `Queue` protocol in memory, for tests of the dispatcher; it passes queue_conformance.py as the spool does."""

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from spool.records import (
    Accepted,
    BreakerSnapshot,
    BreakerUpdate,
    DeadLetter,
    Delivered,
    Delivery,
    DeliveryKey,
    DeliveryState,
    Due,
    Form,
    Fragment,
    Hold,
    Lane,
    NewDelivery,
    NewRecord,
    OfTenant,
    PartProgress,
    Record,
    Redirect,
    RetryAt,
    Settlement,
    StoredFragment,
    UploadProgress,
)

CORE_IS_DEAD = "core is dead"
CLOCK_TOLERANCE = 60_000


@dataclass
class Entry:
    delivery: Delivery
    planned: NewDelivery
    state: DeliveryState = DeliveryState.WAITING
    held_for: int | str | None = None
    error: str | None = None
    died_at: int = 0
    for_destination: bool = False
    deferred_at: int | None = None

    def is_due(self, now: int) -> bool:
        """What was never deferred is due, and what a clock deferred that ran ahead."""
        ahead = self.deferred_at is None or self.deferred_at > now + CLOCK_TOLERANCE
        return self.delivery.due_at <= now or ahead

    @property
    def blocks(self) -> bool:
        """Whether later deliveries of the call wait for it."""
        return self.state.queued and self.held_for != CORE_IS_DEAD and self.planned.form is not Form.NOTICE


class MemoryUploaderState:
    """The `UploaderState` protocol in memory; `keeps` is what was written of breakers, in order."""

    def __init__(self, enter: Callable[[str], None], ended: Callable[[DeliveryKey], bool]) -> None:
        self.kept: dict[str, BreakerSnapshot] = {}
        self.keeps: list[BreakerSnapshot | None] = []
        self.uploads: dict[DeliveryKey, UploadProgress] = {}
        self._enter = enter
        self._ended = ended

    async def read_breaker(self, destination: str) -> BreakerSnapshot | None:
        self._enter("read_breaker")
        return self.kept.get(destination)

    async def keep_breaker(self, destination: str, breaker: BreakerSnapshot | None) -> None:
        self._enter("keep_breaker")
        self.keeps.append(breaker)
        self.kept.pop(destination, None)
        if breaker is not None:
            self.kept[destination] = breaker

    async def upload_progress(self, key: DeliveryKey) -> UploadProgress | None:
        return self.uploads.get(key)

    async def begin_upload(self, progress: UploadProgress) -> None:
        self.uploads[progress.delivery] = progress

    async def write_parts(self, key: DeliveryKey, parts: Mapping[int, PartProgress]) -> None:
        progress = self.uploads[key]
        self.uploads[key] = dataclasses.replace(progress, parts={**progress.parts, **parts})

    async def forget_upload(self, key: DeliveryKey) -> None:
        self.uploads.pop(key, None)

    async def abandoned_uploads(self, destination: str) -> tuple[UploadProgress, ...]:
        ended = [key for key in self.uploads if key.destination == destination and self._ended(key)]
        return tuple(dataclasses.replace(self.uploads[key], parts={}) for key in ended)


class MemoryQueue:
    """Keeps everything; `failing` makes every call raise, `gate` holds settlements back until it is set."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.entries: dict[DeliveryKey, Entry] = {}
        self.failing: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.due_gate = asyncio.Event()
        self.due_gate.set()
        self.calls: list[str] = []
        self.uploader_state = MemoryUploaderState(self._enter, lambda key: self.entries[key].state.ended)
        self.settlements: list[tuple[DeliveryKey, Settlement]] = []
        self._clock = clock
        self._tokens: dict[str, int] = {}
        self._records = 0

    async def accept(self, new: NewRecord) -> Accepted:
        self._records += 1
        record = self._record(new)
        for planned in new.deliveries:
            delivery = Delivery(record, planned.destination, planned.form, planned.lane, 0, self._clock(), None)
            self.entries[delivery.key] = Entry(delivery, planned)
        ready = self._replace(self._entries_of(record))
        return Accepted(record.uid, 0, new.raw_bytes, new.digest, False, False, ready, two_phase=False)

    async def due(
        self, destination: str, lane: Lane, *, now: int, limit: int, of_tenant: OfTenant | None = None
    ) -> Due:
        self._enter("due")
        ready = [
            entry
            for entry in self.entries.values()
            if entry.state is DeliveryState.READY
            and (entry.delivery.destination, entry.delivery.lane) == (destination, lane)
            and (of_tenant is None or entry.delivery.record.tenant == of_tenant.tenant)
        ]
        due = [entry for entry in ready if entry.is_due(now)]
        page = tuple(entry.delivery for entry in due)[:limit]
        later = min((entry.delivery.due_at for entry in ready if entry not in due), default=None)
        await self.due_gate.wait()
        return Due(page, now if len(page) == limit else later)

    async def settle(
        self, delivery: Delivery, settlement: Settlement, breaker: BreakerUpdate | None = None, took: int | None = None
    ) -> tuple[Delivery, ...]:
        self._enter("settle")
        await self.gate.wait()
        self._enter("settled")
        if breaker is not None:
            await self.uploader_state.keep_breaker(delivery.destination, breaker.snapshot)
        self.settlements.append((delivery.key, settlement))
        entry = self.entries.get(delivery.key)
        if entry is None or entry.state.ended:
            return ()
        if isinstance(settlement, Redirect):
            return self._redirect(entry, delivery, settlement)
        if isinstance(settlement, RetryAt):
            self._postpone(entry, settlement)
            return ()
        entry.state, entry.error, entry.held_for = _target(settlement)
        entry.died_at = self._clock()
        if isinstance(settlement, Hold):
            return ()
        if isinstance(settlement, Delivered) and settlement.location is not None:
            self._tell_notices(entry, settlement.location)
        return self._replace(
            other for other in self.entries.values() if other.delivery.record.call_id == delivery.record.call_id
        )

    async def release(
        self, destination: str, token_id: int | None, *, limit: int | None = None
    ) -> tuple[Delivery, ...]:
        self._enter("release")
        held = [
            entry
            for entry in sorted(self.entries.values(), key=lambda entry: entry.delivery.lane)
            if entry.state is DeliveryState.HELD
            and entry.delivery.destination == destination
            and entry.held_for == _held_for(token_id)
        ][:limit]
        for entry in held:
            entry.state, entry.held_for, entry.error = DeliveryState.READY, None, None
        return tuple(entry.delivery for entry in held)

    async def held_tokens(self, destination: str) -> tuple[int | None, ...]:
        self._enter("held_tokens")
        held = {
            entry.delivery.record.token_id
            for entry in self.entries.values()
            if entry.state is DeliveryState.HELD
            and entry.held_for != CORE_IS_DEAD
            and entry.delivery.destination == destination
        }
        return tuple(held)

    async def revive(self, destination: str, *, since: int, refused: Callable[[str], bool]) -> tuple[Delivery, ...]:
        self._enter("revive")
        dead = [
            entry
            for entry in self.entries.values()
            if entry.state is DeliveryState.DEAD
            and entry.delivery.destination == destination
            and entry.died_at >= since
            and refused(entry.error or "")
        ]
        for entry in dead:
            entry.delivery = replace(entry.delivery, attempts=0, first_failed_at=None, due_at=self._clock())
            entry.state, entry.error = self._place(entry), None
        return tuple(entry.delivery for entry in dead if entry.state is DeliveryState.READY)

    async def make_due(self, destination: str, *, now: int) -> None:
        self._enter("make_due")
        for entry in self.entries.values():
            ready = entry.state is DeliveryState.READY and entry.delivery.destination == destination
            if ready and entry.for_destination:
                entry.delivery = replace(entry.delivery, due_at=min(entry.delivery.due_at, now))

    # What tests look at ----------------------------------------------------------------------------------------

    def states(self, destination: str = "endpoint") -> list[str]:
        """The states of a destination's deliveries, in commit order."""
        return [
            entry.state.name.lower() for entry in self.entries.values() if entry.delivery.destination == destination
        ]

    def errors(self) -> list[str | None]:
        """What is stored as the reason of each delivery, in commit order."""
        return [entry.error for entry in self.entries.values()]

    def delivery(self, number: int) -> Delivery:
        """The delivery as it is stored now, in commit order from 0."""
        return list(self.entries.values())[number].delivery

    # The rules -------------------------------------------------------------------------------------------------

    def _enter(self, call: str) -> None:
        self.calls.append(call)
        if self.failing is not None:
            raise self.failing

    def _record(self, new: NewRecord) -> Record:
        token_id = None if new.token is None else self._tokens.setdefault(new.token, len(self._tokens) + 1)
        fragments = {
            name: StoredFragment(1, sum(len(piece) for piece in pieces), 1) for name, pieces in new.fragments.items()
        }
        return Record(
            self._records, f"memory-{self._records}", new.call_id, new.agent_id, new.event, new.environment,
            new.digest, new.raw_bytes, 1, self._clock(), token_id, self._records, fragments,
        )  # fmt: skip

    def _entries_of(self, record: Record) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.delivery.record.record_id == record.record_id]

    def _postpone(self, entry: Entry, retry: RetryAt) -> None:
        old = entry.delivery
        first = old.first_failed_at if old.first_failed_at is not None else self._clock()
        entry.error, entry.for_destination, entry.deferred_at = retry.error, retry.for_destination, self._clock()
        entry.delivery = replace(
            old,
            due_at=retry.due_at,
            attempts=old.attempts + retry.counted,
            first_failed_at=first if retry.counted else old.first_failed_at,
        )

    def _redirect(self, entry: Entry, delivery: Delivery, redirect: Redirect) -> tuple[Delivery, ...]:
        if entry.state is not DeliveryState.READY or entry.delivery.lane is not delivery.lane:
            return ()
        if redirect.keep:
            entry.state, entry.error = DeliveryState.DEAD, redirect.error
        else:
            del self.entries[delivery.key]
        for planned in redirect.to:
            added = Delivery(delivery.record, planned.destination, planned.form, planned.lane, 0, self._clock(), None)
            if added.key not in self.entries:
                self.entries[added.key] = Entry(added, planned)
        call_id = delivery.record.call_id
        return self._replace(other for other in self.entries.values() if other.delivery.record.call_id == call_id)

    def _tell_notices(self, ended: Entry, location: str) -> None:
        for entry in self._entries_of(ended.delivery.record):
            if entry.planned.after == ended.delivery.destination:
                entry.delivery = replace(entry.delivery, location=location)

    def _replace(self, candidates: Iterable[Entry]) -> tuple[Delivery, ...]:
        freed = []
        for entry in candidates:
            if entry.state is not DeliveryState.WAITING and entry.held_for != CORE_IS_DEAD:
                continue
            entry.state = self._place(entry)
            entry.held_for = CORE_IS_DEAD if entry.state is DeliveryState.HELD else None
            if entry.state is DeliveryState.READY:
                freed.append(entry.delivery)
        return tuple(freed)

    def _place(self, entry: Entry) -> DeliveryState:
        ahead = [other.state for other in self._entries_of(entry.delivery.record) if _goes_first(other, entry)]
        if DeliveryState.DEAD in ahead:
            return DeliveryState.HELD
        if any(state.queued for state in ahead):
            return DeliveryState.WAITING
        waits = entry.planned.ordered and entry.planned.form is not Form.NOTICE and self._earlier(entry)
        return DeliveryState.WAITING if waits else DeliveryState.READY

    def _earlier(self, entry: Entry) -> bool:
        mine = entry.delivery
        return any(
            other.delivery.record.call_id == mine.record.call_id
            and other.blocks
            and other.planned.ordered
            and other.delivery.record.record_id < mine.record.record_id
            and other.delivery.destination == mine.destination
            and (other.delivery.lane is Lane.CORE or mine.lane is Lane.DETAIL)
            for other in self.entries.values()
        )


def _goes_first(other: Entry, one: Entry) -> bool:
    if one.planned.after == other.delivery.destination and other.planned.form is not Form.NOTICE:
        return True
    own_core = other.delivery.destination == one.delivery.destination and other.planned.form is Form.CORE
    return own_core and one.planned.ordered and one.planned.form in {Form.DETAIL, Form.REDUCED, Form.NOTICE}


def _target(settlement: Settlement) -> tuple[DeliveryState, str | None, int | str | None]:
    if isinstance(settlement, Hold):
        return DeliveryState.HELD, settlement.error, _held_for(settlement.token_id)
    if isinstance(settlement, DeadLetter):
        return DeliveryState.DEAD, settlement.error, None
    return DeliveryState.DELIVERED, None, None


def _held_for(token_id: int | None) -> int | str:
    return "no token" if token_id is None else token_id


def a_post(
    call_id: str = "call-1", *deliveries: NewDelivery, token: str | None = None, event: str = "call_ended"
) -> NewRecord:
    """A small new record; owed to `endpoint` as a whole unless told otherwise."""
    body = b'{"call_id": "' + call_id.encode() + b'"}'
    return NewRecord(
        call_id, None, event, None, (call_id + event).encode().ljust(32)[:32], len(body), token,
        {Fragment.BODY: [body]}, deliveries or (NewDelivery("endpoint", Form.WHOLE, Lane.CORE),),
    )  # fmt: skip
