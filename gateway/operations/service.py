"""Replay, discard, retry, reroute and replace the token of deliveries: each request is one bounded step.

The gateway keeps nothing of an order between two steps: the caller holds the cursor. An order that is interrupted
keeps what it has done; the same order, given again, does the rest.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import structlog

from gateway.intake.staging import StagingArea
from gateway.operations.advice import advice_for
from gateway.operations.schemas import (
    LARGEST_LIMIT,
    LIMIT,
    DeliveryEntry,
    DeliveryPage,
    DeliveryReport,
    OrderName,
    OrderRequest,
    OrderStep,
    Select,
)
from gateway.operations.selection import (
    Accepts,
    BadSelection,
    cursor_of,
    keys_of,
    named_record,
    of_kind,
    place_in,
    selection_of,
)
from gateway.operations.transfer import DeadLetterImporter, Rules, preview
from gateway.trace import instant, trace_of
from spool.admin.query import DEAD, QUEUED, AdminResult, Page, Selection
from spool.errors import CorruptPayload
from spool.records import FORMS_AFTER_CORE, Clock, Delivery, DeliveryKey, DeliveryState, Form
from spool.stats import OpenDelivery, TracedRecord
from spool.store import Spool
from uploaders.base import PayloadReader
from uploaders.dispatch.dispatcher import Dispatcher
from uploaders.document.render import BadLocation, raw_bytes_of, render
from uploaders.redact import redact

_log = structlog.get_logger("callspool.orders")


@dataclass(frozen=True, slots=True)
class _Rule:
    """How an order is carried out, and of deliveries in which states unless the selection names others."""

    carry_out: Callable[[tuple[OpenDelivery, ...], OrderRequest], Awaitable[AdminResult]]
    states: frozenset[DeliveryState]


class UnknownDelivery(Exception):
    """No delivery that has not ended has this key."""


class DeliveryAdmin:
    """Lists open deliveries and carries out operators' orders about them. For the event loop."""

    def __init__(
        self,
        spool: Spool,
        staging: StagingArea,
        dispatcher: Dispatcher,
        destinations: Mapping[str, Accepts],
        clock: Clock,
        rules: Rules,
    ) -> None:
        self.payloads: PayloadReader = spool
        """Reads what deliveries carry."""
        self.importer = DeadLetterImporter(spool, staging, destinations, rules)
        """Imports dead letters that were exported elsewhere."""
        self._spool = spool
        self._orders = spool.admin
        self._dispatcher = dispatcher
        self._destinations = destinations
        self._clock = clock
        self._rules = {
            OrderName.REPLAY: _Rule(self._replay, DEAD),
            OrderName.DISCARD: _Rule(self._discard, DEAD),
            OrderName.RETRY: _Rule(self._retry, QUEUED),
            OrderName.REROUTE: _Rule(self._reroute, DEAD | QUEUED),
            OrderName.REPLACE_TOKEN: _Rule(self._replace_token, DEAD | QUEUED),
        }

    async def list(self, select: Select, cursor: str | None, limit: int = LIMIT) -> DeliveryPage:
        """A page of what is selected. Raises `BadSelection` and the spool's errors."""
        now = self._clock()
        page = await self._page(select, DEAD, max(1, min(limit, LARGEST_LIMIT)), cursor)
        return DeliveryPage(deliveries=tuple(entry_of(found, now) for found in page.found), cursor=cursor_of(page.next))

    async def report(self, key: str) -> DeliveryReport:
        """Everything about the delivery that a key names. Raises `UnknownDelivery` and the spool's errors."""
        found, now = await self._named(key), self._clock()
        records = await self._spool.trace(found.record.call_id)
        # Of a call with hundreds of records the trace has the newest only.
        alone = TracedRecord(found.record, superseded=False, settled_at=None, deliveries=(found.delivery,))
        traced = next((one for one in records if one.record.record_id == found.record.record_id), alone)
        shown, complete = await self._preview(found)
        return DeliveryReport(
            delivery=entry_of(found, now),
            advice=advice_about(found),
            record=trace_of(found.record.call_id, (traced,)).records[0],
            preview=shown,
            preview_complete=complete,
        )

    async def document(self, key: str) -> Delivery:
        """The delivery that a key names, for reading its document. Raises `UnknownDelivery` and the spool's errors."""
        found = await self._named(key)
        delivery = await self._orders.read(found.key)
        if delivery is None:
            raise UnknownDelivery(key)
        return delivery

    async def take(self, name: OrderName, request: OrderRequest) -> OrderStep:
        """Carry out one step of an order. Raises `BadSelection` and the spool's errors."""
        self._check(name, request)
        rule = self._rules[name]
        page = await self._page(request.select, rule.states, LIMIT, request.cursor)
        done, left_out, along = 0, 0, 0
        if page.found and request.dry_run:
            left_out, along = await self._outlook(name, request, page.found)
        elif page.found:
            done = (await rule.carry_out(page.found, request)).moved
            self._dispatcher.withdraw({one.key for one in page.found})
            _log.info("order", order=name.value, deliveries=done)
        return OrderStep(
            matched=len(page.found),
            matched_bytes=sum(document_bytes(delivery_of(found)) for found in page.found),
            done=done,
            left_out=left_out,
            along=along,
            cursor=cursor_of(page.next),
        )

    async def move_all(self, to: str) -> int:
        """Reroute everything that is queued to this destination, as far as it takes it; returns how many that was."""
        moved, cursor = 0, None
        while True:
            step = await self.take(OrderName.REROUTE, OrderRequest(select=_ALL_QUEUED, to=to, cursor=cursor))
            moved, cursor = moved + step.done, step.cursor
            if cursor is None:
                return moved

    async def _page(self, select: Select, states: frozenset[DeliveryState], limit: int, cursor: str | None) -> Page:
        """The next of what is selected; those that are named one by one are on one page."""
        if select.keys:
            pages = [await self._orders.find(await self._meant(one, states), limit=2) for one in keys_of(select)]
            return Page(tuple(found for page in pages for found in page.found), None)
        page = await self._orders.find(await self._meant(select, states), limit=limit, after=place_in(cursor))
        return Page(of_kind(select, page.found), page.next)

    async def _outlook(
        self, name: OrderName, request: OrderRequest, found: tuple[OpenDelivery, ...]
    ) -> tuple[int, int]:
        """How many of these an order would leave out, and how many others would go with them."""
        if name not in {OrderName.REPLAY, OrderName.DISCARD, OrderName.REROUTE}:
            return 0, 0
        left_out, along = 0, 0
        matched = {one.key for one in found}
        by_record: dict[tuple[int, str], list[OpenDelivery]] = {}
        for one in found:
            by_record.setdefault((one.record.record_id, one.delivery.destination), []).append(one)
        for (record_id, destination), of_record in by_record.items():
            siblings = await self._orders.find(Selection(DEAD | QUEUED, record_id=record_id), limit=LIMIT)
            others = [one for one in siblings.found if one.delivery.destination == destination]
            others = [one for one in others if one.key not in matched]
            if name is not OrderName.REROUTE:
                cores = any(one.delivery.form is Form.CORE for one in of_record)
                along += sum(one.delivery.form in FORMS_AFTER_CORE for one in others) if cores else 0
                continue
            to = request.to or ""
            leaving, theirs = {one.delivery.form for one in (*of_record, *others)}, self._destinations[to]
            there = {one.delivery.form for one in siblings.found if one.delivery.destination == to}
            of_others = not theirs.of(of_record[0].record.tenant)
            if to == destination or of_others or not leaving <= theirs.forms or leaving & there:
                left_out += len(of_record)
            else:
                along += len(others)
        return left_out, along

    async def _meant(self, select: Select, states: frozenset[DeliveryState]) -> Selection:
        """What a request selects; a target that is no record's name is a call id."""
        uid = named_record(select)
        record_id = None if uid is None else await self._orders.record_id(uid)
        return selection_of(select, record_id, self._clock(), states)

    async def _named(self, key: str) -> OpenDelivery:
        wanted = await self._meant(Select(target=key), DEAD | QUEUED)
        page = await self._orders.find(wanted, limit=LIMIT)
        if wanted.record_id is None or len(page.found) != 1:
            raise UnknownDelivery(key)
        return page.found[0]

    async def _preview(self, found: OpenDelivery) -> tuple[str | None, bool]:
        """How its document begins; None where it cannot be read."""
        delivery = await self._orders.read(found.key)
        try:
            return (None, False) if delivery is None else await preview(delivery, self.payloads)
        except (CorruptPayload, BadLocation):
            return None, False

    def _check(self, name: OrderName, request: OrderRequest) -> None:
        """Raise `BadSelection` where the order lacks what it needs, or says what it has no use for."""
        if (request.to is not None) != (name is OrderName.REROUTE):
            raise BadSelection("`to` names the destination of a reroute, and of no other order")
        if (request.token is not None) != (name is OrderName.REPLACE_TOKEN):
            raise BadSelection("`token` is the new key of a replace-token, and of no other order")
        if request.to is not None and request.to not in self._destinations:
            known = ", ".join(self._destinations)
            raise BadSelection(f"the configuration has no destination {request.to!r}: say one of {known}")
        if request.token is not None and not _fits_a_header(request.token):
            raise BadSelection("the token is none that a header can carry: visible ASCII characters, at most 8 KB")

    async def _replay(self, found: tuple[OpenDelivery, ...], _request: OrderRequest) -> AdminResult:
        return await self._orders.replay(_keys(found))

    async def _discard(self, found: tuple[OpenDelivery, ...], _request: OrderRequest) -> AdminResult:
        """What is held with a core goes with it: freed alone, a detail would be sent to who has no core of it."""
        keys = _keys(found)
        held = [
            DeliveryKey(key.record_id, key.destination, form)
            for key in keys
            if key.form is Form.CORE
            for form in FORMS_AFTER_CORE
        ]
        return await self._orders.discard([*keys, *held])

    async def _retry(self, found: tuple[OpenDelivery, ...], _request: OrderRequest) -> AdminResult:
        """Deliveries held for a refused token are sent once one of them succeeds: that one is sent now."""
        done = await self._orders.retry(_keys(found))
        tried = 0
        held = [one for one in found if one.delivery.state is DeliveryState.HELD]
        for destination in {one.delivery.destination for one in held}:
            for token_id in {one.record.token_id for one in held if one.delivery.destination == destination}:
                if self._dispatcher.probe_tokens(destination, {token_id}):
                    of_token = (destination, token_id)
                    tried += sum((one.delivery.destination, one.record.token_id) == of_token for one in held)
        return AdminResult(done.moved + tried, done.ready)

    async def _reroute(self, found: tuple[OpenDelivery, ...], request: OrderRequest) -> AdminResult:
        to = request.to or ""
        accepts = self._destinations[to]
        found = tuple([one for one in found if accepts.of(one.record.tenant)])
        return await self._orders.reroute(_keys(found), to, forms=accepts.forms, ordered=accepts.ordered)

    async def _replace_token(self, found: tuple[OpenDelivery, ...], request: OrderRequest) -> AdminResult:
        return await self._orders.replace_token(_keys(found), request.token or "")


_ALL_QUEUED = Select(states=("queued",))


def _keys(found: Iterable[OpenDelivery]) -> list[DeliveryKey]:
    return [one.key for one in found]


def _fits_a_header(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and token == token.strip() and len(token) <= 8190


# A delivery that has not ended, shaped for people and for JSON. Pure.

_ADVICE = {
    DeliveryState.READY: "Nothing: it is sent as soon as it is due.",
    DeliveryState.WAITING: "Nothing: an earlier delivery, of this call or of this record, must end first.",
    DeliveryState.HELD: "Replace its token (`callspool deliveries replace-token`), or replay the dead core before it.",
}


def advice_about(found: OpenDelivery) -> str:
    """What to do about a delivery as it stands."""
    state = found.delivery.state
    return advice_for(found.delivery.error) if state is DeliveryState.DEAD else _ADVICE[state]


def entry_of(found: OpenDelivery, now: int) -> DeliveryEntry:
    """What the list of deliveries shows of one, at `now` (ms)."""
    record, one = found.record, found.delivery
    delivery = delivery_of(found)
    return DeliveryEntry(
        key=f"{record.uid}/{one.form}/{one.destination}",
        record_id=record.uid,
        call_id=record.call_id,
        agent_id=record.agent_id,
        event=record.event,
        environment=record.environment,
        destination=one.destination,
        form=one.form.value,
        lane=one.lane.value,
        state=one.state.name.lower(),
        reason=None if one.error is None else redact(one.error),
        attempts=one.attempts,
        accepted_at=instant(record.accepted_at),
        since=instant(found.since),
        age_seconds=max(0, now - found.since) / 1000,
        next_attempt_at=instant(one.due_at) if one.state is DeliveryState.READY else None,
        bytes=document_bytes(delivery),
        idempotency_key=delivery.idempotency_key,
        via=record.via,
        tenant=record.tenant,
    )


def delivery_of(found: OpenDelivery) -> Delivery:
    """As an uploader would see it, but for the object that a notice names."""
    one = found.delivery
    return Delivery(found.record, one.destination, one.form, one.lane, one.attempts, one.due_at, None)


def document_bytes(delivery: Delivery) -> int:
    """How long its JSON document is; 0 for a notice that has no object to tell of yet, or whose parts are missing."""
    try:
        return raw_bytes_of(delivery.record, render(delivery))
    except (BadLocation, CorruptPayload):
        return 0
