"""What the pages of a receiver ask of its pipeline and its tenants; and the page of tenants."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.admin.answers import form_of
from gateway.admin.auth import CALLER
from gateway.admin.page.call_pages import tenants_of
from gateway.admin.page.html import Html, markup, moment_of, tag, time_of, told
from gateway.admin.page.layout import Frame, Page, Shown, trouble_page
from gateway.admin.page.similar import BY_MEANING, BY_WORDS, SCORES, Found, Hit, Search, similar_page
from gateway.admin.view import GatewayView
from gateway.formatting import count_text, counted
from gateway.operations.tenants import TenantEntry, TenantList, UnassignedAgent
from gateway.tenants import UNASSIGNED
from spool.errors import SpoolError
from uploaders.pipeline.models import ModelError
from uploaders.redact import redact
from uploaders.stores.pipeline import CallbackState, JobState, PipelineStatus, TextQuery
from uploaders.stores.store import StoreError

if TYPE_CHECKING:
    from uploaders.pipeline.service import Pipeline


LOOKED_AT, SHOWN = 100, 20
"""The nearest calls that are filtered, and those that are shown: beyond that similarity says little."""
SHOWN_CALLBACKS = 50
_FIELDS = ("like", "how", "agent", "since", "score", "project")
_LONGEST = 2000


class ReceiverPages:
    """Similar calls with callbacks, and tenants."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway

    def add_to(self, app: web.Application, shown: Shown) -> None:
        """Add the routes."""
        app.router.add_get("/similar", shown(self.similar))
        app.router.add_post("/similar", shown(self.similar))
        app.router.add_get("/tenants", shown(self.tenants))

    async def similar(self, request: web.Request, _frame: Frame) -> Page:
        """Calls similar to a text or a call; a text comes in the body, so that no address and no log has it."""
        pipeline = self._gateway.pipeline
        if pipeline is None:
            return _nothing("/similar", "Similar calls", "Set CALLSPOOL_PIPELINE beside a store: docs/pipeline.md.")
        given = await form_of(request) if request.method == "POST" else request.query
        query = {name: given.get(name, "")[:_LONGEST].strip() for name in _FIELDS}
        query["like"] = query["like"] or request.query.get("call", "")[:_LONGEST]
        query["how"] = query["how"] if query["how"] == BY_WORDS else BY_MEANING
        query["score"] = query["score"] if query["score"] in SCORES else SCORES[0]
        tenant = request[CALLER].tenant
        query["project"] = tenant or query["project"] or request.query.get("project", "")
        try:
            found = await _found(pipeline, query) if query["like"] else None
            status = await pipeline.status(tenant)
            waiting = (
                await pipeline.callbacks.find(query["project"] or None, CallbackState.WAITING, SHOWN_CALLBACKS)
                if tenant is None
                else None
            )
            projects = () if tenant else await tenants_of(self._gateway)
        except (StoreError, SpoolError) as error:
            return trouble_page("/similar", "Similar calls", redact(str(error)))
        state = _state(pipeline, status)
        search = Search(query, projects, found, state, waiting, status.callbacks, self._gateway.now())
        return similar_page(search)

    async def tenants(self, _request: web.Request, _frame: Frame) -> Page:
        """Whose call logs there are."""
        admin = self._gateway.tenant_admin
        if admin is None:
            return _nothing("/tenants", "Tenants", "Add [tenants.NAME] to the configuration: docs/tenants.md.")
        try:
            return tenants_page(await admin.list())
        except SpoolError as error:
            return trouble_page("/tenants", "Tenants", redact(str(error)))


def _nothing(path: str, title: str, hint: str) -> Page:
    page = trouble_page(path, title, f"This gateway has none. {hint}")
    return Page(page.path, page.title, page.body, status=404)


async def _found(pipeline: "Pipeline", query: Mapping[str, str]) -> Found:
    """What the query finds; what the models or their servers refuse is said."""
    began = time.monotonic()
    try:
        hits = await (_by_words if query["how"] == BY_WORDS else _by_meaning)(pipeline, query)
    except ModelError as error:
        return Found((), 0.0, redact(str(error)))
    return Found(hits[:SHOWN], (time.monotonic() - began) * 1000)


async def _by_words(pipeline: "Pipeline", query: Mapping[str, str]) -> list[Hit]:
    wanted = TextQuery(query["project"], query["like"], SHOWN, query["agent"] or None, since=_midnight(query["since"]))
    return [Hit(each.call_id, None, each) for each in await pipeline.search(wanted)]


async def _by_meaning(pipeline: "Pipeline", query: Mapping[str, str]) -> list[Hit]:
    """Of the nearest ones, as far as agent, time and likeness are as asked; the id of a call is tried first."""
    like, project = query["like"], query["project"]
    found = None if " " in like else await pipeline.similar_to_call(project, like, LOOKED_AT)
    if found is None:
        found = await pipeline.similar_to_text(project, like, LOOKED_AT)
    since = _midnight(query["since"]) or 0
    return [
        Hit(each.call_id, each.score, each.insight)
        for each in found
        if each.score >= float(query["score"])
        and (not query["agent"] or (each.insight is not None and each.insight.agent_id == query["agent"]))
        and (not since or (each.insight is not None and each.insight.listed_at >= since))
    ]


def _midnight(day: str) -> int | None:
    try:
        return round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        return None


def _state(pipeline: "Pipeline", status: PipelineStatus) -> str:
    done, queued = status.jobs.get(JobState.DONE, 0), status.jobs.get(JobState.QUEUED, 0)
    told = counted(done, "call can be found", "calls can be found")
    told += f"; {counted(queued, 'waits', 'wait')} to be worked on" if queued else ""
    obstacle = pipeline.runner.obstacle if pipeline.runner else None
    return f"{told}. Nothing is worked on: {redact(obstacle)}" if obstacle else f"{told}."


# The page of tenants: which there are, which agents belong to none, and whose an agent is. Pure.


def tenants_page(found: TenantList) -> Page:
    """The page."""
    waiting = sum(each.records for each in found.unassigned)
    if found.unassigned:
        title = f"{counted(waiting, 'call log belongs', 'call logs belong')} to no tenant yet."
    else:
        title = "Every call log belongs to a tenant."
    names = [each.name for each in found.tenants if each.name != UNASSIGNED]
    body = markup(
        tag("h1", title, id="title"),
        tag("p", id="done", role="status", class_="good", data_own=True),
        tag("div", _unassigned(found, names), id="unassigned", data_live=True),
        _tenants(found),
    )
    return Page("/tenants", "Tenants", body, scripts=("receiver.js",))


def _unassigned(found: TenantList, names: list[str]) -> Html | None:
    if not found.unassigned:
        return None
    heads = (("Agent", None), ("Call logs", "num"), ("Since", None), ("Belongs to", None))
    rows = [_agent(each, names, number) for number, each in enumerate(found.unassigned)]
    table = _table("Agents that belong to no tenant", heads, rows)
    note = told("`callspool tenants assign` does the same without JavaScript.")
    return tag("section", tag("h2", "Agents without a tenant", id="nobody"), table, tag("noscript", tag("p", note)),
               class_="card", aria_labelledby="nobody")  # fmt: skip


def _agent(one: UnassignedAgent, names: list[str], number: int) -> Html:
    agent = "without an agent" if one.agent_id is None else one.agent_id
    options = [tag("option", name) for name in names]
    choice = tag("select", options, id=f"tenant-{number}", aria_label=f"Tenant of {agent}", data_own=True)
    button = tag("button", "Assign", type="button", data_assign=f"tenant-{number}", data_agent=one.agent_id,
                 aria_label=f"Assign {agent}")  # fmt: skip
    return tag(
        "tr",
        tag("th", agent, scope="row"),
        tag("td", count_text(one.records), class_="num"),
        tag("td", time_of(moment_of(one.since), "day")),
        tag("td", tag("span", choice, button, class_="assign")),
        data_key=f"agent-{one.agent_id}",
    )


def _tenants(found: TenantList) -> Html:
    heads = (
        ("Tenant", None), ("Agents", None), ("Assigned", None), ("Destinations of its own", None), ("Weight", "num"),
        ("Posts a second", "num"),
    )  # fmt: skip
    table = _table("Tenants", heads, [_tenant(each) for each in found.tenants])
    return tag("section", tag("h2", "Tenants", id="tenants"), table, class_="card", aria_labelledby="tenants")


def _tenant(one: TenantEntry) -> Html:
    lists = [tag("td", ", ".join(names) or "none") for names in (one.agents, one.assigned, one.destinations)]
    rate = "no limit" if one.posts_per_second is None else f"{one.posts_per_second:g}"
    name = tag("th", tag("a", one.name, href=f"/calls?project={one.name}"), scope="row")
    return tag("tr", name, lists, tag("td", one.weight, class_="num"), tag("td", rate, class_="num"))


def _table(label: str, heads: tuple[tuple[str, str | None], ...], rows: list[Html]) -> Html:
    head = tag("tr", [tag("th", name, scope="col", class_=look) for name, look in heads])
    table = tag("table", tag("caption", label, class_="unseen"), tag("thead", head), tag("tbody", rows))
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"Table: {label}")
