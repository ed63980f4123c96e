"""What the pages of calls ask of spool and store."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from aiohttp import web

from gateway.admin.auth import CALLER, Access
from gateway.admin.calls import CallLogs
from gateway.admin.page.call import CallView, call_page
from gateway.admin.page.calls import (
    PAGE_ROWS,
    Listing,
    cursor_of,
    line_of_spool,
    line_of_store,
    list_page,
    place_in_store,
    told_of_spool,
)
from gateway.admin.page.html import Html, markup, moment_of, tag, told
from gateway.admin.page.layout import REFRESH_HEADER, Frame, Page, Shown, trouble_page
from gateway.admin.view import GatewayView
from gateway.formatting import age_text, count_text
from spool.errors import SpoolError
from spool.records import NO_OUTLINE
from spool.stats import CallFilter
from uploaders.redact import redact
from uploaders.stores.completion import CallState
from uploaders.stores.routing import CallReads
from uploaders.stores.store import CallQuery, CallSummary, StoreError

_FIELDS = ("q", "agent", "state", "before", "project", "after")
_LONGEST = 600
"""Of a field: a cursor holds an id."""
_DIGITS_KEPT = 3
"""Of the end of a number, in the spool."""


class CallPages:
    """The list of calls, and one call."""

    def __init__(self, gateway: GatewayView, access: Access) -> None:
        self._gateway = gateway
        self._access = access
        self._logs = CallLogs(gateway)

    def add_to(self, app: web.Application, shown: Shown) -> None:
        """Add the routes."""
        app.router.add_get("/calls", shown(self.list))
        app.router.add_get("/calls/{call_id:.+}", shown(self.call))

    async def list(self, request: web.Request, _frame: Frame) -> Page:
        """The newest calls, as far as the query selects them."""
        query = {name: request.query.get(name, "")[:_LONGEST].strip() for name in _FIELDS}
        store, spool = self._gateway.call_store, self._gateway.spool
        tenant = request[CALLER].tenant or query["project"]
        try:
            projects = () if request[CALLER].tenant else await tenants_of(self._gateway)
            if store is not None:
                return list_page(replace(await _store_listing(store, query, tenant), projects=projects))
            if spool is None:
                return trouble_page("/calls", "Calls", "The spool is not open.")
            wanted = _filter_of(query, tenant or None)
            page = await spool.calls(wanted, PAGE_ROWS)
            agents = await spool.agents(tenant or None)
        except (SpoolError, StoreError) as error:
            return trouble_page("/calls", "Calls", redact(str(error)))
        now = self._gateway.now()
        receipts = age_text(self._gateway.receipts_seconds).removesuffix(" 0 min")
        lines = [line_of_spool(row, now) for row in page.rows]
        older = None if page.older is None else str(page.older)
        told_of = told_of_spool(page, now, receipts)
        return list_page(Listing(lines, older, told_of, agents, query, in_store=False, projects=projects))

    async def call(self, request: web.Request, frame: Frame) -> Page:
        """One call; what was said only for somebody with a role."""
        call_id, caller = request.match_info["call_id"], request[CALLER]
        project = caller.tenant or request.query.get("project", "")
        store, spool = self._gateway.call_store, self._gateway.spool
        try:
            records = [
                each for each in await self._gateway.trace(call_id) if not project or each.record.tenant == project
            ]
            stored = None if store is None else await store.call(project, call_id)
            if not records and stored is None:
                return _unknown(call_id)
            may_read = caller.role is not None
            story, why = None, ""
            if may_read and REFRESH_HEADER not in request.headers:
                story, why = await self._logs.story(project, call_id, records, stored)
            outline = NO_OUTLINE
            if records and spool is not None:
                outline = await spool.outline(records[-1].record.record_id)
        except (SpoolError, StoreError) as error:
            return trouble_page("/calls", "Call", redact(str(error)))
        view = CallView(
            call_id=call_id,
            project=project,
            records=records,
            outline=outline,
            stored=stored,
            story=story,
            why_no_story=why,
            may_read=may_read,
            has_similar=frame.has_search,
            address=request.path_qs,
            targets=dict(self._gateway.targets()),
            paused_until={
                each.name: moment_of(each.retry_at)
                for each in frame.status.destinations
                if each.retry_at and not each.up
            },
            now=self._gateway.now(),
        )
        return call_page(view)


async def tenants_of(gateway: GatewayView) -> tuple[str, ...]:
    """The tenants to choose from; none without tenants. Raises `SpoolError`."""
    admin = gateway.tenant_admin
    return () if admin is None else tuple(each.name for each in (await admin.list()).tenants)


def _unknown(call_id: str) -> Page:
    hint = "Receipts of delivered calls are kept for a limited time; look for older calls at their destinations."
    text = markup(
        tag("p", told(f"No call has the id `{call_id.replace('`', '')}` here.")), tag("p", hint, class_="soft")
    )
    return Page("/calls", "No such call", _card("No such call", text), status=404)


def _card(title: str, text: Html) -> Html:
    return tag("section", tag("h1", title, id="title"), text, class_="card", aria_labelledby="title")


def _before(query: Mapping[str, str]) -> int | None:
    try:
        at = datetime.fromisoformat(query["before"])
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def _filter_of(query: Mapping[str, str], tenant: str | None) -> CallFilter:
    asked = query["q"]
    digits = "".join(each for each in asked if each.isdecimal() and each.isascii())
    is_number = asked.startswith("+") or (asked.isdecimal() and len(asked) <= 4) or " " in asked
    return CallFilter(
        tenant=tenant,
        agent=query["agent"] or None,
        id_prefix=asked if asked and not is_number else None,
        number_end=digits[-_DIGITS_KEPT:] or None if is_number else None,
        state=query["state"] if query["state"] in {"waits", "dead", "sent"} else None,
        before=_before(query),
        after=int(query["after"]) if query["after"].isdecimal() and len(query["after"]) < 18 else None,
    )


async def _store_listing(store: CallReads, query: Mapping[str, str], project: str) -> Listing:
    """A page of the store, by keyset: in the order of (when it began, id), behind the last one that was shown."""
    state = query["state"].upper()
    wanted = CallQuery(
        project=project,
        limit=PAGE_ROWS + 1,
        until=_before(query),
        agent_id=query["agent"] or None,
        state=CallState[state] if state in CallState.__members__ else None,
        after=place_in_store(query["after"]),
    )
    found = await _found(store, wanted, query["q"])
    lines = [line_of_store(call) for call in found[:PAGE_ROWS]]
    older = cursor_of(found[PAGE_ROWS - 1]) if len(found) > PAGE_ROWS else None
    agents = sorted({line.agent for line in lines if line.agent})
    shown = f"{count_text(len(lines))} shown, the latest first, from the store."
    return Listing(lines, older, shown, agents, query, in_store=True)


async def _found(store: CallReads, wanted: CallQuery, asked: str) -> list[CallSummary]:
    """By the rest of the query; what was searched for begins the id of a call, or is the number of a caller."""
    if not asked:
        return await store.calls(wanted)
    found = await store.calls(replace(wanted, id_prefix=asked))
    return found or await store.calls(replace(wanted, customer_number=asked))
