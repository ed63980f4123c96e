"""Tenants: which there are, which agents belong to none, and whose an agent is. Pure."""

from gateway.admin.page.html import Html, markup, moment_of, tag, time_of, told
from gateway.admin.page.layout import Page
from gateway.formatting import count_text
from gateway.operations.tenants import TenantEntry, TenantList, UnassignedAgent
from gateway.tenants import UNASSIGNED


def tenants_page(found: TenantList) -> Page:
    """The page."""
    waiting = sum(each.records for each in found.unassigned)
    if found.unassigned:
        title = f"{count_text(waiting)} call {'log belongs' if waiting == 1 else 'logs belong'} to no tenant yet."
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
    return tag("section", tag("h2", "Agents of nobody", id="nobody"), table, tag("noscript", tag("p", note)),
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
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
