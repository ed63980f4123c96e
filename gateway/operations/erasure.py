"""Erasing calls: out of the spool, the stores, the files and objects that were delivered, and what was made of them.

The order is written down first, so that it is finished by the next one if it is interrupted, and posts of the calls may
be refused from then on. What is owed of them is given up before anything that was delivered is deleted: nothing comes
after. What tells where something lies goes last. Every step can be done again.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from gateway.operations.selection import BadSelection
from gateway.tenants import UNASSIGNED, TenantTable
from spool.admin.erasure import CallErasures
from spool.directory import remove_quarantined
from spool.errors import CorruptPayload, SpoolError
from spool.payload.frames import decode
from spool.records import DeliveryKey, Fragment, OwnedCall, Record, tenant_of
from spool.store import Spool
from uploaders.base import CallToErase, Erased, Eraser, Uploader
from uploaders.dispatch.dispatcher import Dispatcher
from uploaders.phone_numbers import PhoneNumberMatcher
from uploaders.redact import redact
from uploaders.stores.parts import key_text, read_head
from uploaders.stores.pipeline import Database
from uploaders.stores.store import CallKey, CallsWanted, Store, StoreError

if TYPE_CHECKING:
    from uploaders.pipeline.service import Pipeline

_log = structlog.get_logger("callspool.orders")

MASKED_DIGITS: Final = 3
"""What a receipt keeps of a number: its end."""
POSSIBLE_MOST: Final = 1_000
"""Calls of receipts that a report names."""
ATTEMPT_SECONDS: Final = 60.0
"""How long a delivery that is on its way is waited for."""


class ErasureOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which calls are to be erased; of `phone` and `agent` all that are found. One of the three has to be given."""

    call_ids: tuple[str, ...] = ()
    phone: str | None = None
    agent: str | None = None
    tenant: str | None = None
    """Whose calls alone; None: whoever's. Calls that are found are erased of the tenant that they were found of."""
    country: str | None = None
    """Of numbers that are written without their country's code (ISO 3166); None: as configured."""
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


class MatchedCall(msgspec.Struct, frozen=True):
    """A call that was found by what the order says."""

    call_id: str
    tenant: str
    """Whose it is; empty: nobody's in particular."""
    place: str
    """Where it was found: `spool`, or the name of a destination."""
    number: str | None = None
    """As it is written there."""


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
    unsearched: str | None = None
    """What of it was not searched for the number or the agent; the calls that were found were erased there."""


class ErasureReport(msgspec.Struct, frozen=True, tag="report"):
    """What an order did."""

    call_ids: tuple[str, ...]
    dry_run: bool
    places: tuple[ErasedPlace, ...]
    unfinished: int = 0
    """Calls of earlier orders that were interrupted: they were erased with these."""
    matched: tuple[MatchedCall, ...] = ()
    """What was found by the number or the agent, and where."""
    possible: tuple[MatchedCall, ...] = ()
    """Calls of which only a receipt is left, whose number ends the same: they were not erased."""
    tenants: Mapping[str, int] = {}
    """How many of the calls each tenant has, as far as it is known; empty where there are no tenants."""
    number: str | None = None
    """As which number the order's was read (E.164); None: it was compared as it is written."""
    country: str | None = None
    """By whose rules."""

    @property
    def complete(self) -> bool:
        """Whether everything was reached."""
        return all(place.unreached is None for place in self.places)


class ErasureFailed(msgspec.Struct, frozen=True, tag="failed"):
    """Why it did not come to its end; the next order finishes what was begun."""

    reason: str


ErasureLine = ErasureProgress | ErasureReport | ErasureFailed


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


_Match = tuple[str, str | None, str | None]
"""A call's id, its tenant (empty: none), and the number that it was found by."""


@dataclass(slots=True)
class _Search:
    """What an order found, and where that was not possible."""

    order: ErasureOrder
    matcher: PhoneNumberMatcher | None
    matched: list[MatchedCall] = field(default_factory=list)
    unreached: dict[str, str] = field(default_factory=dict)

    @property
    def by_content(self) -> bool:
        """Whether calls are looked for by more than their ids."""
        return self.order.agent is not None or self.matcher is not None

    def add(self, place: str, found: Iterable[_Match]) -> None:
        """Take what was found in a place, as far as it is of the tenant that is meant."""
        for call_id, tenant, number in found:
            if self.order.tenant in {None, tenant or ""}:
                self.matched.append(MatchedCall(call_id, tenant or "", place, number))

    def calls(self, scoped: Callable[[str, str], OwnedCall]) -> dict[OwnedCall, None]:
        """The calls that are meant."""
        named = dict.fromkeys(OwnedCall(call_id, self.order.tenant) for call_id in self.order.call_ids)
        return named | dict.fromkeys(scoped(match.call_id, match.tenant) for match in self.matched)


class CallEraser:
    """Carries out orders, one after the other. For the event loop."""

    def __init__(
        self, spool: Spool, dispatcher: Dispatcher, uploaders: Mapping[str, Uploader | Eraser],
        stores: Mapping[str, Store], pipeline: "Pipeline | None",
        kept_in_stores: Collection[str], hearers: Sequence[Callable[[Collection[OwnedCall]], None]],
        tenants: TenantTable | None, principal_of_agent: Callable[[str, str | None, str | None], str],
        country: str | None,
    ) -> None:  # fmt: skip
        """`kept_in_stores` names the destinations that keep in the stores what they make, and nothing elsewhere.

        `hearers` hear of the calls: spans are not to become call logs any more, and no event is to name one.

        `principal_of_agent` is the acceptor's; `country` holds for numbers without a country's code.
        """
        self._spool = spool
        self._erasures: CallErasures = spool.erasures
        self._erasures.whose = lambda principal, agent: tenant_of(principal_of_agent(principal, agent, None)) or ""
        self._dispatcher = dispatcher
        self._uploaders = uploaders
        self._stores = stores
        self._pipeline = pipeline
        self._erased_here = {*stores, *kept_in_stores}
        self._hearers = hearers
        self._tenants = tenants
        self._country = country
        self._one_at_a_time = asyncio.Lock()

    def check(self, order: ErasureOrder) -> None:
        """Raises `BadSelection` for an order that selects nothing, or of which nothing could be found."""
        if not order.selects:
            raise BadSelection("say which calls are meant, by `call_ids`, `phone` or `agent`")
        if order.tenant is not None:
            known = [] if self._tenants is None else [*self._tenants.tenants, UNASSIGNED]
            if order.tenant not in known:
                there = ", ".join(known) or "none"
                raise BadSelection(f"there is no tenant {order.tenant!r} in the configuration; there is {there}")
        self._matcher(order)

    async def carry_out(self, order: ErasureOrder) -> AsyncGenerator[ErasureLine, None]:
        """Do it, saying how far it is; the report comes last, or why there is none."""
        try:
            async with aclosing(self._lines(order)) as lines:
                async for line in lines:
                    yield line
        except (SpoolError, StoreError, OSError) as error:
            _log.error("erasure_failed", reason=redact(str(error)))
            yield ErasureFailed(redact(str(error)))

    async def _lines(self, order: ErasureOrder) -> AsyncGenerator[ErasureLine, None]:
        async with self._one_at_a_time:
            yield ErasureProgress("looking for the calls", 0, 0)
            matcher = self._matcher(order)
            search = _Search(order, matcher)
            await self._find(search)
            calls = search.calls(self._scoped)
            pending = [] if order.dry_run else [each for each in await self._erasures.pending() if each not in calls]
            every = [*calls, *pending]
            possible = await self._possible(matcher, search) if matcher is not None else []
            owners = set[tuple[str, str]]()
            places: list[ErasedPlace] = [await self._spool_place(every, search, owners)]
            if not order.dry_run:
                await self._erasures.order(every)
                given_up: list[DeliveryKey] = []
                for number, call in enumerate(every):
                    yield ErasureProgress("giving up deliveries", number, len(every))
                    given_up += await self._erasures.give_up(call)
                for hear in self._hearers:
                    hear(frozenset(every))
                self._dispatcher.withdraw(given_up)
                await self._wait_for(frozenset(every), search.unreached)
                # What was on its way may have arrived since it was counted.
                found = {**places[0].found, **await self._delivered(every)}
                places[0] = msgspec.structs.replace(places[0], found=found)
            for number, name in enumerate(self._uploaders):
                yield ErasureProgress(f"erasing at {name}", number, len(self._uploaders))
                place = await self._destination_place(name, every, search, owners)
                if place is not None:
                    places.append(place)
            places += self._delivered_elsewhere(places[0])
            places += await asyncio.to_thread(self._quarantine_places, dry_run=order.dry_run)
            self._spool.directory.refresh()
            if not order.dry_run:
                yield ErasureProgress("wiping the spool", 0, 0)
                places[0] = await self._forget(every, places)
                _log.info("erased", calls=len(every), unreached=[each.place for each in places if each.unreached])
            yield ErasureReport(
                tuple(dict.fromkeys(call.call_id for call in calls)),
                order.dry_run,
                tuple(places),
                len(pending),
                tuple(search.matched),
                tuple(possible),
                {} if self._tenants is None else Counter(tenant for _, tenant in owners),
                None if matcher is None else matcher.read_as,
                order.country or self._country,
            )

    def hash_of(self, call_id: str, tenant: str | None) -> str:
        """What stays of the id of a call that was erased."""
        return self._erasures.hash_of(OwnedCall(call_id, tenant)).hex()

    def _matcher(self, order: ErasureOrder) -> PhoneNumberMatcher | None:
        if order.phone is None:
            return None
        try:
            return PhoneNumberMatcher(order.phone, order.country or self._country)
        except ValueError as error:
            raise BadSelection(str(error)) from None

    def _scoped(self, call_id: str, tenant: str) -> OwnedCall:
        """A call that was found: of the tenant that it was found of. Where there are none, ids name calls."""
        return OwnedCall(call_id, None if self._tenants is None and not tenant else tenant)

    async def _find(self, search: "_Search") -> None:
        """All calls that are meant, by what is searched."""
        agent, matcher = search.order.agent, search.matcher
        if agent is not None:
            search.add("spool", [(*call, None) for call in await self._erasures.calls_of_agent(agent)])
        if matcher is not None:
            search.add("spool", await self._numbers_in_spool(matcher))
        for name, store in self._stores.items():
            try:
                if agent is not None:
                    keys = await store.find_calls(CallsWanted(agent_id=agent))
                    search.add(name, [(call_id, project, None) for project, call_id in keys])
                if matcher is not None:
                    numbers = await store.find_numbers(matcher.like)
                    search.add(name, [
                        (call_id, project, number) for project, call_id, number in numbers if matcher.matches(number)
                    ])  # fmt: skip
            except StoreError as error:
                search.unreached[name] = redact(str(error))

    async def _numbers_in_spool(self, matcher: PhoneNumberMatcher) -> list["_Match"]:
        """The calls of this number whose payload is in the spool: each of them is read; and those that go on."""
        found: dict[_Match, None] = {}
        after = 0
        while records := await self._erasures.open_records(after):
            for record in records:
                after = record.record_id
                number = await self._number_of(record)
                if matcher.matches(number):
                    found[record.call_id, record.tenant or "", number] = None
        for live in list(self._spool.live.calls.values()):
            about = await self._spool.live.about(live.call_id, live.principal)
            number = read_head(b"{%b}" % about).customer_number if about is not None else None
            if matcher.matches(number):
                found[live.call_id, self._erasures.whose(live.principal, live.agent_id), number] = None
        return list(found)

    async def _possible(self, matcher: PhoneNumberMatcher, search: "_Search") -> list[MatchedCall]:
        """Calls of which only a receipt knows, with the end of a number that is the same."""
        ending = re.sub(r"[^0-9]", "", (matcher.read_as or "").partition(";")[0])[-MASKED_DIGITS:]
        if not ending:
            return []
        tenant, found = search.order.tenant, {(match.call_id, match.tenant) for match in search.matched}
        like = await self._erasures.receipts_like(ending, POSSIBLE_MOST)
        left = [(call, hint) for call, hint in like if call not in found and tenant in {None, call.tenant}]
        for store in self._stores.values():
            try:  # what a store has of them names their number, and another one
                keys = await store.find_calls(CallsWanted(tuple(call.call_id for call, _ in left)))
            except StoreError:
                continue
            left = [
                (call, hint) for call, hint in left if (key_text(call.tenant or ""), key_text(call.call_id)) not in keys
            ]
        return [MatchedCall(call.call_id, call.tenant or "", "spool", hint) for call, hint in left]

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

    async def _spool_place(
        self, calls: Sequence[OwnedCall], search: "_Search", owners: set[tuple[str, str]]
    ) -> ErasedPlace:
        found: Counter[str] = Counter()
        for call in calls:
            holdings = await self._erasures.holdings(call)
            found.update(records=holdings.records, deliveries=holdings.deliveries)
            found.update(spans=holdings.spans, turns=holdings.turns)
            owners.update((call.call_id, tenant) for tenant in holdings.tenants)
        found += await self._delivered(calls)
        unsearched = None
        if search.by_content and (traces := await self._erasures.open_traces()):
            unsearched = f"{traces} calls that go on and of which only spans came: order it again when they have ended"
        return ErasedPlace("spool", {what: count for what, count in found.items() if count}, unsearched=unsearched)

    async def _delivered(self, calls: Sequence[OwnedCall]) -> Counter[str]:
        """How many deliveries of these calls each destination has confirmed."""
        found: Counter[str] = Counter()
        for call in calls:
            found.update({f"delivered to {name}": count for name, count in await self._erasures.delivered(call)})
        return found

    async def _wait_for(self, calls: frozenset[OwnedCall], unreached: dict[str, str]) -> None:
        """Until nothing of these calls is on its way, whoever gave it up: what arrives is erased with the rest."""

        def wanted(record: Record) -> bool:
            return OwnedCall(record.call_id) in calls or OwnedCall(record.call_id, record.tenant or "") in calls

        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await self._dispatcher.finish_attempts(wanted)
        except TimeoutError:
            for name in self._dispatcher.attempting(wanted):
                unreached[name] = "something of these calls may be on its way there: order it again"

    async def _destination_place(
        self, name: str, calls: Sequence[OwnedCall], search: "_Search", owners: set[tuple[str, str]]
    ) -> ErasedPlace | None:
        """What a destination has of the calls; None for one that takes nothing back."""
        uploader, unreached = self._uploaders[name], search.unreached.pop(name, None)
        if name in self._stores:
            return await self._store_place(name, calls, unreached, owners, dry_run=search.order.dry_run)
        if not isinstance(uploader, Eraser):
            return None if unreached is None else ErasedPlace(name, {}, unreached, again=True)
        unsearched = "files of calls that no store, receipt or queue knows" if search.by_content else None
        wanted = await self._to_erase(name, calls)
        erased = await uploader.erase(wanted, dry_run=search.order.dry_run) if wanted else Erased()
        problem = None if erased.unreached is None else redact(erased.unreached)
        again = erased.again or unreached is not None
        found = {"files": erased.count} if erased.count else {}
        return ErasedPlace(name, found, problem or unreached, again, unsearched)

    async def _to_erase(self, destination: str, calls: Sequence[OwnedCall]) -> list[CallToErase]:
        """What of these calls a destination may have, which some tenants may have for themselves."""
        tenants = () if self._tenants is None else self._tenants.tenants.values()
        owners = {tenant.name for tenant in tenants if destination in tenant.destinations}
        whose: dict[str, set[str | None]] = {}
        for call_id, tenant in calls:
            if tenant is None or not owners or tenant in owners:
                whose.setdefault(call_id, set()).add(None if owners == {tenant} else tenant)
        wanted = []
        for call_id, named in whose.items():
            some = {tenant for tenant in named if tenant is not None}
            if None in named:
                wanted.append(CallToErase(call_id))
                continue
            records = await self._erasures.records_of(call_id)
            uids = {each.uid for each in records if (each.tenant or "") in some}
            others = {each.uid for each in records} - uids
            wanted.append(CallToErase(call_id, frozenset(some), frozenset(uids), frozenset(others)))
        return wanted

    async def _store_place(
        self, name: str, calls: Sequence[OwnedCall], unreached: str | None, owners: set[tuple[str, str]], *,
        dry_run: bool,
    ) -> ErasedPlace | None:  # fmt: skip
        if not calls:
            return None if unreached is None else ErasedPlace(name, {}, unreached, again=True)
        store, found = self._stores[name], dict[str, int]()
        wanted = {(None if tenant is None else key_text(tenant), key_text(call_id)) for call_id, tenant in calls}
        try:
            of_ids = await store.find_calls(CallsWanted(tuple(dict.fromkeys(call.call_id for call in calls))))
            keys = [key for key in of_ids if key in wanted or (None, key[1]) in wanted]
            owners.update((call_id, project) for project, call_id in keys)
            if dry_run:
                found["calls"] = len(keys)
            else:
                named = dict.fromkeys(keys) | dict.fromkeys((project or "", call_id) for project, call_id in wanted)
                problem = await forget_made(store, self._pipeline, list(named))
                if problem is not None:  # the next order finds them in no store any more
                    await self._erasures.order([self._scoped(call_id, project) for project, call_id in keys])
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
            if name not in self._erased_here and not isinstance(self._uploaders.get(name), Eraser)
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

    async def _forget(self, calls: Sequence[OwnedCall], places: Sequence[ErasedPlace]) -> ErasedPlace:
        """The end of it: receipts, and what is left in files. Where a repetition may reach more, the order stays."""
        spool = places[0]
        if not any(place.again for place in places):
            await self._erasures.forget(calls)
            await self._erasures.finish(calls)
        try:
            wiped = await self._erasures.wipe()
        except SpoolError as error:
            return msgspec.structs.replace(spool, unreached=redact(str(error)))
        problem = None if wiped else "a reader kept its log from being emptied: order it again"
        return msgspec.structs.replace(spool, unreached=problem)
