"""Erasing calls: out of the spool, the stores, the files and objects that were delivered, and what was made of them.

The order is written down first, so that it is finished by the next one if it is interrupted, and posts of the calls may
be refused from then on. What is owed of them is given up before anything that was delivered is deleted: nothing comes
after. What tells where something lies goes last. Every step can be done again.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from spool.admin.erasure import CallErasures
from spool.directory import remove_quarantined
from spool.errors import CorruptPayload, SpoolError
from spool.payload.frames import decode
from spool.records import DeliveryKey, Fragment, Record
from spool.store import Spool
from uploaders.base import Eraser, Uploader
from uploaders.dispatch.dispatcher import Dispatcher
from uploaders.redact import redact
from uploaders.stores.parts import read_head
from uploaders.stores.pipeline import Database
from uploaders.stores.store import CallKey, CallsWanted, Store, StoreError

if TYPE_CHECKING:
    from uploaders.pipeline.service import Pipeline

_log = structlog.get_logger("callspool.orders")

ATTEMPT_SECONDS: Final = 60.0
"""How long a delivery that is on its way is waited for."""


class ErasureOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which calls are to be erased; of `phone` and `agent` all that are found. One of the three has to be given."""

    call_ids: tuple[str, ...] = ()
    phone: str | None = None
    agent: str | None = None
    dry_run: bool = False

    @property
    def selects(self) -> bool:
        """Whether it says which calls are meant."""
        return bool(self.call_ids or self.phone or self.agent)


class ErasureProgress(msgspec.Struct, frozen=True, tag="progress"):
    """What is being done."""

    what: str
    done: int
    total: int


class ErasedPlace(msgspec.Struct, frozen=True):
    """What was erased in one place, or is there, with a dry run."""

    place: str
    """`spool`, `quarantine`, or the name of a destination."""
    found: Mapping[str, int]
    """What, and how many."""
    unreached: str | None = None
    """What could not be erased, and why; None: nothing is left there."""
    again: bool = False
    """Whether the next order tries it again by itself."""


class ErasureReport(msgspec.Struct, frozen=True, tag="report"):
    """What an order did."""

    call_ids: tuple[str, ...]
    dry_run: bool
    places: tuple[ErasedPlace, ...]
    unfinished: int = 0
    """Calls of earlier orders that were interrupted: they were erased with these."""

    @property
    def complete(self) -> bool:
        """Whether everything was reached."""
        return all(place.unreached is None for place in self.places)


ErasureLine = ErasureProgress | ErasureReport


async def forget_made(store: Store, pipeline: "Pipeline | None", keys: Sequence[CallKey]) -> str | None:
    """Delete what a pipeline made of these calls, one that is not configured any more, too.

    Returns what could not be reached, a server of vectors, and why. Raises `StoreError`.
    """
    if not isinstance(store, Database):
        return None
    # A gateway without a store does without all of this.
    from uploaders.pipeline.models import ModelError  # noqa: PLC0415  # see above
    from uploaders.stores.pipeline_tables import PipelineTables  # noqa: PLC0415  # see above

    tables = PipelineTables(store, lambda: 0)
    at_work = pipeline if pipeline is not None and pipeline.tables.belong_to(store) else None
    problem = None
    for project, call_id in keys:
        try:
            await (tables if at_work is None else at_work).forget_call(project, call_id)
        except ModelError as error:
            problem = redact(str(error))
    return problem


class CallEraser:
    """Carries out orders, one after the other. For the event loop."""

    def __init__(
        self, spool: Spool, dispatcher: Dispatcher, uploaders: Mapping[str, Uploader | Eraser],
        stores: Mapping[str, Store],
        pipeline: "Pipeline | None", hearers: Sequence[Callable[[Collection[str]], None]],
    ) -> None:  # fmt: skip
        """`hearers` hear of the calls: spans are not to become call logs any more, and no event is to name one."""
        self._spool = spool
        self._erasures: CallErasures = spool.erasures
        self._dispatcher = dispatcher
        self._uploaders = uploaders
        self._stores = stores
        self._pipeline = pipeline
        self._hearers = hearers
        self._one_at_a_time = asyncio.Lock()

    async def carry_out(self, order: ErasureOrder) -> AsyncGenerator[ErasureLine, None]:
        """Do it, saying how far it is; the report comes last. Raises `SpoolError`."""
        async with self._one_at_a_time:
            yield ErasureProgress("looking for the calls", 0, 0)
            unreached: dict[str, str] = {}
            call_ids = await self._find(order, unreached)
            pending = [] if order.dry_run else [each for each in await self._erasures.pending() if each not in call_ids]
            every = [*call_ids, *pending]
            places: list[ErasedPlace] = [await self._spool_place(every)]
            if not order.dry_run:
                await self._erasures.order(every)
                given_up: list[DeliveryKey] = []
                for number, call_id in enumerate(every):
                    yield ErasureProgress("giving up deliveries", number, len(every))
                    given_up += await self._erasures.give_up(call_id)
                for hear in self._hearers:
                    hear(every)
                await self._wait_for(given_up, unreached)
            for number, name in enumerate(self._uploaders):
                yield ErasureProgress(f"erasing at {name}", number, len(self._uploaders))
                place = await self._destination_place(name, every, unreached.pop(name, None), dry_run=order.dry_run)
                if place is not None:
                    places.append(place)
            places += self._delivered_elsewhere(places[0])
            places += await asyncio.to_thread(self._quarantine_places, dry_run=order.dry_run)
            self._spool.directory.refresh()
            if not order.dry_run:
                yield ErasureProgress("wiping the spool", 0, 0)
                places[0] = await self._forget(every, places)
                _log.info("erased", calls=len(every), unreached=[each.place for each in places if each.unreached])
            yield ErasureReport(tuple(call_ids), order.dry_run, tuple(places), len(pending))

    def hash_of(self, call_id: str) -> str:
        """What stays of the id of a call that was erased."""
        return self._erasures.hash_of(call_id).hex()

    async def _find(self, order: ErasureOrder, unreached: dict[str, str]) -> list[str]:
        """The ids of the calls that are meant."""
        found = dict.fromkeys(order.call_ids)
        if order.agent is not None:
            found |= dict.fromkeys(await self._erasures.calls_of_agent(order.agent))
        if order.phone is not None:
            found |= dict.fromkeys(await self._calls_of_phone(order.phone))
        if order.agent is not None or order.phone is not None:
            for name, store in self._stores.items():
                try:
                    keys = await store.find_calls(CallsWanted((), order.phone, order.agent))
                except StoreError as error:
                    unreached[name] = redact(str(error))
                else:
                    found |= dict.fromkeys(call_id for _, call_id in keys)
        return list(found)

    async def _calls_of_phone(self, phone: str) -> list[str]:
        """The calls of this number among those whose payload is in the spool: each of them is read."""
        found: dict[str, None] = {}
        after = 0
        while records := await self._erasures.open_records(after):
            for record in records:
                after = record.record_id
                if await self._number_of(record) == phone:
                    found[record.call_id] = None
        return list(found)

    async def _number_of(self, record: Record) -> str | None:
        """The number that a call log names; None also where it cannot be read."""
        fragment = Fragment.BASE if Fragment.BASE in record.fragments else Fragment.BODY
        if fragment not in record.fragments:
            return None
        try:
            document = b"".join([decode(frame) async for frame in self._spool.frames(record, fragment)])
        except CorruptPayload:
            return None
        if fragment is Fragment.BASE:
            document = b"{%b}" % document
        return (await asyncio.to_thread(read_head, document)).customer_number

    async def _spool_place(self, call_ids: Sequence[str]) -> ErasedPlace:
        found: Counter[str] = Counter()
        for call_id in call_ids:
            holdings = await self._erasures.holdings(call_id)
            found.update(records=holdings.records, deliveries=holdings.deliveries, spans=holdings.spans)
            found.update({f"delivered to {name}": count for name, count in holdings.delivered})
        return ErasedPlace("spool", {what: count for what, count in found.items() if count})

    async def _wait_for(self, keys: Sequence[DeliveryKey], unreached: dict[str, str]) -> None:
        """Until none of these deliveries is on its way any more: what arrives is erased like all that did before."""
        if not keys:
            return
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await self._dispatcher.finish_attempts(keys)
        except TimeoutError:
            for name in {key.destination for key in keys}:
                unreached[name] = "something of these calls may be on its way there: order it again"

    async def _destination_place(
        self, name: str, call_ids: Sequence[str], unreached: str | None, *, dry_run: bool
    ) -> ErasedPlace | None:
        """What a destination has of the calls; None for one that takes nothing back."""
        uploader = self._uploaders[name]
        if not call_ids:
            return None if unreached is None else ErasedPlace(name, {}, unreached, again=True)
        if name in self._stores:
            return await self._store_place(name, self._stores[name], call_ids, unreached, dry_run=dry_run)
        if not isinstance(uploader, Eraser):
            return None
        erased = await uploader.erase(call_ids, dry_run=dry_run)
        problem = None if erased.unreached is None else redact(erased.unreached)
        again = erased.again or unreached is not None
        return ErasedPlace(name, {"files": erased.count} if erased.count else {}, problem or unreached, again)

    async def _store_place(
        self, name: str, store: Store, call_ids: Sequence[str], unreached: str | None, *, dry_run: bool
    ) -> ErasedPlace:
        found: dict[str, int] = {}
        try:
            keys = await store.find_calls(CallsWanted(tuple(call_ids)))
            if dry_run:
                found["calls"] = len(keys)
            else:
                named = [*keys, *(("", call_id) for call_id in call_ids if ("", call_id) not in keys)]
                problem = await forget_made(store, self._pipeline, named)
                found.update(calls=len(keys), parts=await store.delete(keys))
                await store.wipe()
                unreached = problem or unreached
        except StoreError as error:
            unreached = redact(str(error))
        found = {what: count for what, count in found.items() if count}
        return ErasedPlace(name, found, unreached, again=unreached is not None)

    def _delivered_elsewhere(self, spool: ErasedPlace) -> list[ErasedPlace]:
        """Destinations that take nothing back, and were given something, as far as receipts go back."""
        given = {what.removeprefix("delivered to "): count for what, count in spool.found.items() if " to " in what}
        return [
            ErasedPlace(name, {"delivered": count}, "what was delivered there is for its owner to erase")
            for name, count in given.items()
            if name not in self._stores and not isinstance(self._uploaders.get(name), Eraser)
        ]

    def _quarantine_places(self, *, dry_run: bool) -> list[ErasedPlace]:
        """Databases in quarantine: what was imported is here as well, so they can go; others were not looked into."""
        places = []
        for each in self._spool.directory.quarantined:
            if not each.imported:
                reason = f"{each.directory} was not imported: `callspool salvage`, then order it again"
                places.append(ErasedPlace("quarantine", {"databases": 1}, reason))
                continue
            try:
                if not dry_run:
                    remove_quarantined(each.directory)
                places.append(ErasedPlace("quarantine", {"databases": 1}))
            except OSError as error:
                places.append(ErasedPlace("quarantine", {"databases": 1}, f"{each.directory}: {error.strerror}"))
        return places

    async def _forget(self, call_ids: Sequence[str], places: Sequence[ErasedPlace]) -> ErasedPlace:
        """The end of it: receipts, and what is left in files. Where a repetition may reach more, the order stays."""
        spool = places[0]
        if not any(place.again for place in places):
            await self._erasures.forget(call_ids)
            await self._erasures.finish(call_ids)
        try:
            wiped = await self._erasures.wipe()
        except SpoolError as error:
            return msgspec.structs.replace(spool, unreached=redact(str(error)))
        problem = None if wiped else "a reader kept its log from being emptied: order it again"
        return msgspec.structs.replace(spool, unreached=problem)
