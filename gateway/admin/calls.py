"""Calls as a store has put them together: listed, shown whole, and what was said in one, streamed or taken apart.

Documents are handed out to whoever presents a token, and to nobody else. Lists and what is known of a call hold none.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from aiohttp import web

from gateway.admin.answers import HEADERS, answer, limit_of, refused, streamed, time_of
from gateway.admin.auth import CALLER
from gateway.admin.view import GatewayView
from gateway.calllog.shape import is_dense
from gateway.calllog.story import Story, story_of
from gateway.calls import MOST_CALLS, CallList, LiveList, document_of, entry_of
from gateway.operations.transfer import plain
from gateway.trace import newest_of, trace_of
from spool.errors import CorruptPayload, SpoolError
from spool.payload.frames import decode
from spool.records import Delivery, Form, Lane, Record
from spool.stats import TracedRecord
from uploaders.document.render import BadLocation
from uploaders.redact import redact
from uploaders.stores.completion import CallState
from uploaders.stores.parts import PartKind
from uploaders.stores.routing import CallReads
from uploaders.stores.store import CallQuery, StoredCall, StoreError

_DIGITS = 19
"""A number of fewer fits into 64 bits."""


class CallHandlers:
    """Answers what is asked of calls."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway
        self._logs = CallLogs(gateway)

    def add_to(self, app: web.Application) -> None:
        """Add the routes. An id may hold slashes, so the one with the longest path comes first."""
        app.router.add_get("/api/traces", self.newest)
        app.router.add_get("/api/live-calls", self.live)
        app.router.add_get("/api/calls", self._with_store(self.calls))
        app.router.add_get("/api/calls/{call_id:.+}/detail", self._with_store(self.detail))
        app.router.add_get("/api/calls/{call_id:.+}/log", self.log)
        in_store = self._with_store(self.call)

        async def call(request: web.Request) -> web.StreamResponse:
            """The call; where there is no store, its trace."""
            return await (self.trace if self._gateway.call_store is None else in_store)(request)

        app.router.add_get("/api/calls/{call_id:.+}", call)

    async def calls(self, request: web.Request, store: CallReads) -> web.StreamResponse:
        """The newest calls, as far as the query selects them."""
        try:
            query = replace(_query_of(request.query), project=_project_of(request))
        except ValueError as error:
            return refused(400, "bad_request", f"Invalid request: {error}.", "docs/receiver.md describes the queries.")
        return answer(CallList(tuple([entry_of(call) for call in await store.calls(query)])))

    async def call(self, request: web.Request, store: CallReads) -> web.StreamResponse:
        """One call; with its documents for somebody with a role, without them for anybody else."""
        call_id = request.match_info["call_id"]
        found = await store.call(_project_of(request), call_id)
        if found is None:
            return await self.trace(request)
        try:
            records = trace_of(call_id, await self._records(request)).records
        except SpoolError:
            records = ()
        return answer(document_of(found, records, with_documents=request[CALLER].role is not None))

    async def detail(self, request: web.Request, store: CallReads) -> web.StreamResponse:
        """The detail that a call shows, as JSON, a frame at a time; of a small call log, which has none, all of it."""
        key = (_project_of(request), request.match_info["call_id"])
        frames = store.detail(*key)
        first = await anext(frames, None)
        if first is None:
            return _in_place_of_a_detail(await store.call(*key))
        return await streamed(request, await asyncio.to_thread(decode, first), _decoded(frames))

    async def log(self, request: web.Request) -> web.StreamResponse:
        """The call log as it was posted, from the spool while its payload is there, else what the store shows first."""
        call_id, project, store = request.match_info["call_id"], _project_of(request), self._gateway.call_store
        try:
            records = await self._records(request)
            stored = None if store is None else await store.call(project, call_id)
            pieces = self._logs.pieces(project, call_id, records, stored)
            first = await anext(pieces, None)
        except (SpoolError, StoreError, BadLocation) as error:
            return refused(503, "unavailable", redact(str(error)), "Try again when /readyz answers 200.")
        if first is None:
            hint = "Delivered parts are at their destinations; `GET /api/calls/ID` says where."
            return refused(404, "not_here", "The call log is not here, or not any more.", hint)
        return await streamed(request, first, pieces)

    async def trace(self, request: web.Request) -> web.Response:
        """The trace of a call; 404 if the spool knows none of that id, 503 if it cannot be read."""
        call_id = request.match_info["call_id"]
        try:
            records = await self._records(request)
        except SpoolError as error:
            return refused(503, "spool_unavailable", redact(str(error)), "Try again when /readyz answers 200.")
        if not records:
            near = () if request[CALLER].tenant else await self._gateway.similar_call_ids(call_id)
            hint = "Receipts of delivered calls are kept for a limited time only."
            hint = f"Did you mean {' or '.join(near)}?" if near else hint
            return refused(404, "unknown_call", "The spool knows no call of this id.", hint)
        return answer(trace_of(call_id, records))

    async def newest(self, request: web.Request) -> web.Response:
        """The newest records of all calls, as far as the query says; those of the spool, not of a store."""
        after, limit = request.query.get("after", "0"), request.query.get("limit", "50")
        numeric = all(given.isdecimal() and len(given) < _DIGITS for given in (after, limit))
        if not (numeric and 1 <= int(limit) <= MOST_CALLS):
            hint = f"`after` is a number, `limit` one from 1 to {MOST_CALLS}."
            return refused(400, "bad_request", "Invalid request.", hint)
        try:
            return answer(newest_of(await self._gateway.newest(int(after), int(limit))))
        except SpoolError as error:
            return refused(503, "spool_unavailable", redact(str(error)), "Try again when /readyz answers 200.")

    async def live(self, request: web.Request) -> web.Response:
        """The calls that go on, as their heartbeats say; those of the caller's tenant where it has one."""
        tenant = request[CALLER].tenant
        found = [each for each in self._gateway.live_calls() if tenant is None or each.tenant == tenant]
        return answer(LiveList(tuple(found)))

    async def _records(self, request: web.Request) -> tuple[TracedRecord, ...]:
        """The records of the call; those of the tenant that is asked for, if it is one."""
        records, tenant = await self._gateway.trace(request.match_info["call_id"]), _project_of(request)
        return tuple([each for each in records if not tenant or each.record.tenant == tenant])

    def _with_store(
        self, handler: Callable[[web.Request, CallReads], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Give the handler the store, and answer for a store that is not there or not well."""

        async def handle(request: web.Request) -> web.StreamResponse:
            """Ask the store."""
            store = self._gateway.call_store
            if store is None:
                hint = "Set CALLSPOOL_DATABASE_URL, or add a destination of type sqlite, postgres or clickhouse."
                return refused(404, "no_store", "This gateway has no store of calls.", hint)
            try:
                return await handler(request, store)
            except StoreError as error:
                return refused(503, "store_unavailable", redact(str(error)), "Try again when the database answers.")

        return handle


async def _decoded(frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for frame in frames:
        yield await asyncio.to_thread(decode, frame)


def _project_of(request: web.Request) -> str:
    """Whose calls are asked for: the tenant's of the token that was presented, whatever the query says."""
    return request[CALLER].tenant or request.query.get("project", "")


def _in_place_of_a_detail(call: StoredCall | None) -> web.Response:
    if call is None:
        return _unknown_call()
    ends = [part for part in call.parts if part.shown and part.kind in {PartKind.END, PartKind.CALL}]
    if not ends:
        hint = "`GET /api/calls/ID` shows what is known so far."
        return refused(404, "no_detail", "The store has neither detail nor end of this call.", hint)
    return web.Response(body=ends[0].document, content_type="application/json", headers=HEADERS)


def _unknown_call() -> web.Response:
    return refused(404, "unknown_call", "The store knows no call of this id.", "`callspool calls list` lists calls.")


def _query_of(query: Mapping[str, str]) -> CallQuery:
    """The query of a request. Raises `ValueError` for what cannot be asked."""
    known = {"project", "limit", "since", "until", "agent", "number", "state", "id_prefix"}
    if unknown := sorted(set(query) - known):
        raise ValueError(f"unknown parameter {unknown[0]}")
    limit = limit_of(query, 50, MOST_CALLS)
    state = query.get("state")
    if state is not None and state.upper() not in CallState.__members__:
        raise ValueError(f"state should be one of {', '.join(CallState.__members__).lower()}")
    return CallQuery(
        project=query.get("project", ""),
        limit=limit,
        since=time_of(query.get("since"), "since"),
        until=time_of(query.get("until"), "until"),
        agent_id=query.get("agent"),
        customer_number=query.get("number"),
        id_prefix=query.get("id_prefix"),
        state=None if state is None else CallState[state.upper()],
    )


# A call log, read back for people: from the spool while its payload is there, else from the store.

MOST_BYTES = 32 << 20
"""A larger call log is not taken apart for a page: it can be downloaded."""


class CallLogs:
    """Reads call logs of one gateway; one at a time is taken apart, so that memory stays bounded."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway
        self._turn = asyncio.Semaphore(1)

    async def pieces(
        self, project: str, call_id: str, records: Sequence[TracedRecord], stored: StoredCall | None
    ) -> AsyncIterator[bytes]:
        """The call log as JSON, in pieces; none where it is no longer here. Raises `CorruptPayload`, `StoreError`."""
        record = readable(records)
        admin = self._gateway.delivery_admin
        if record is not None and admin is not None:
            async for piece in plain(_whole(record), admin.payloads):
                yield piece
        elif stored is not None:
            for document in await self._of_store(project, call_id, stored, details=False):
                yield document

    async def story(
        self, project: str, call_id: str, records: Sequence[TracedRecord], stored: StoredCall | None
    ) -> tuple[Story | None, str]:
        """The story of a call, and why there is none. Raises `StoreError`."""
        record = readable(records)
        if record is not None and record.raw_bytes > MOST_BYTES:
            return None, "It is too large to be taken apart here: download it."
        async with self._turn:
            try:
                if stored is not None:
                    documents = await self._of_store(project, call_id, stored, details=True)
                else:
                    documents = [b"".join([piece async for piece in self.pieces(project, call_id, records, stored)])]
            except (CorruptPayload, BadLocation) as error:
                return None, f"Its payload cannot be read: {error}. Check the disk with `callspool fsck`."
            except SpoolError as error:
                return None, f"The spool cannot be read at the moment: {error}."
            if any(is_dense(each) for each in documents):
                return None, "It holds too many values to be taken apart here: download it."
            story = await asyncio.to_thread(story_of, [each for each in documents if each])
        if story is None:
            return None, _gone(records)
        return story, ""

    async def _of_store(self, project: str, call_id: str, stored: StoredCall, *, details: bool) -> list[bytes]:
        """The documents that the call shows, the end first: with its detail, as far as that is small enough."""
        kinds = (PartKind.CALL, PartKind.END, PartKind.START)
        shown = [part for kind in kinds for part in stored.parts if part.shown and part.kind is kind]
        documents = [part.document for part in shown]
        store, read = self._gateway.call_store, bytearray()
        if not details or store is None or not stored.summary.has_detail:
            return documents[:1] if not details else documents
        async for frame in store.detail(project, call_id):
            read += await asyncio.to_thread(decode, frame)
            if len(read) > MOST_BYTES:
                return documents
        return [*documents, bytes(read)]


def readable(records: Sequence[TracedRecord]) -> Record | None:
    """The newest record whose payload is here: the end of the call before anything else."""
    kept = [each for each in records if each.settled_at is None and each.record.fragments and not each.record.damaged]
    ended = [each for each in kept if each.record.event == "call_ended"]
    return (ended or kept)[-1].record if kept else None


def _whole(record: Record) -> Delivery:
    return Delivery(record, "", Form.WHOLE, Lane.DETAIL, 0, 0, None)


def _gone(records: Sequence[TracedRecord]) -> str:
    """Why what was said cannot be shown, and where it is."""
    places = [one.location for each in records for one in each.deliveries if one.location]
    if places:
        return f"It was delivered and is not kept here. The detail is at `{places[-1]}`."
    if records:
        names = sorted({one.destination for each in records for one in each.deliveries})
        to = f" to {', '.join(f'`{name}`' for name in names)}" if names else ""
        return f"It was delivered{to} and is not kept here; a receiver with a store keeps it."
    return "Nothing of what was said is in the store."
