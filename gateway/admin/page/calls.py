"""The list of calls: did it arrive, where is it, which are unlike the others. Pure.

In a sidecar it is what the spool knows, receipts included; in a receiver what its store has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from gateway.admin.page.html import Html, Node, clock_text, markup, sign, tag, time_of, told, took_text
from gateway.admin.page.layout import Page
from gateway.calllog.document import number_hint
from gateway.formatting import age_text, bytes_text, count_text, counted
from spool.records import DETAIL_FORMS, DeliveryState, Form
from spool.stats import CallPage, CallRow, TracedDelivery
from uploaders.stores.completion import CallState
from uploaders.stores.store import CallSummary

PAGE_ROWS = 50
UNDER_WAY_MS = 5000
"""A delivery that waits no longer than this is under way."""


@dataclass(frozen=True, slots=True)
class Part:
    """How one part of a call stands."""

    kind: str
    """A sign of `html.sign`."""
    text: str

    @property
    def look(self) -> str | None:
        """Its colour."""
        return {"dead": "bad", "waits": "warn", "sent": None}.get(self.kind, "soft")


NOT_SPLIT = Part("whole", "not split")


@dataclass(frozen=True, slots=True)
class Line:
    """A call as the list shows it."""

    call_id: str
    accepted_at: int
    number: str | None
    agent: str | None
    length_ms: int | None
    ended: str | None
    core: Part
    detail: Part
    size: int | None
    project: str = ""

    @property
    def key(self) -> str:
        """Names its row."""
        return f"{self.accepted_at}.{self.call_id}"


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list of calls shows."""

    lines: Sequence[Line]
    older: str | None
    """The cursor of the next page."""
    told: str
    """What is listed, in a sentence."""
    agents: Sequence[str]
    query: Mapping[str, str]
    in_store: bool
    projects: Sequence[str] = ()
    """Tenants to choose from; none without tenants."""


def part_of(deliveries: Sequence[TracedDelivery], accepted_at: int, now: int) -> Part:
    """How these deliveries of a record stand together, the most pressing first."""
    states = {one.state for one in deliveries}
    if DeliveryState.DEAD in states:
        return Part("dead", "dead letter")
    if DeliveryState.HELD in states:
        return Part("held", "held")
    if any(state.queued for state in states):
        age = now - accepted_at
        if age < UNDER_WAY_MS and not any(one.attempts for one in deliveries):
            return Part("queued", "under way")
        return Part("waits", f"waits {age_text(age / 1000)}")
    if states - {DeliveryState.DELIVERED}:
        return Part("dead", "given up")
    settled = max((one.settled_at or accepted_at for one in deliveries), default=accepted_at)
    return Part("sent", took_text(max(0, settled - accepted_at)))


def split_parts(deliveries: Sequence[TracedDelivery], accepted_at: int, now: int) -> tuple[Part, Part]:
    """How core and detail stand."""
    core = [one for one in deliveries if one.form in {Form.CORE, Form.WHOLE}]
    detail = [one for one in deliveries if one.form in DETAIL_FORMS]
    if not core and not detail:
        return Part("whole", "owed to nobody"), NOT_SPLIT
    made = part_of(detail, accepted_at, now) if detail else NOT_SPLIT
    return part_of(core, accepted_at, now) if core else NOT_SPLIT, made


def line_of_spool(row: CallRow, now: int) -> Line:
    """A call that the spool knows."""
    record, outline = row.record, row.outline
    core, detail = split_parts(row.deliveries, record.accepted_at, now)
    if row.superseded:
        core = Part("whole", "superseded")
    ended = outline.ended_reason or ("started" if record.event == "call_started" else record.event.replace("_", " "))
    return Line(
        record.call_id,
        record.accepted_at,
        outline.number_hint,
        record.agent_id,
        outline.length_ms,
        ended,
        core,
        detail,
        record.raw_bytes,
    )


STATES = {
    CallState.COMPLETE: Part("sent", "complete"),
    CallState.PENDING: Part("queued", "pending"),
    CallState.OPEN: Part("queued", "live"),
    CallState.ENDED: Part("waits", "no start yet"),
    CallState.TIMED_OUT: Part("dead", "never ended"),
    CallState.ORPHAN: Part("dead", "no start"),
}
"""How a store's calls stand."""


def line_of_store(call: CallSummary) -> Line:
    """A call of the store."""
    fields = call.fields
    number = number_hint(fields.customer_number) if fields.customer_number else None
    length = None if fields.duration_seconds is None else round(fields.duration_seconds * 1000)
    detail = Part("sent", "stored") if call.has_detail else Part("whole", "none")
    return Line(
        call.call_id,
        listed_at(call),
        number,
        fields.agent_id,
        length,
        fields.reason or call.error,
        STATES[call.state],
        detail,
        None,
        call.project,
    )


def listed_at(call: CallSummary) -> int:
    """By what a store orders its calls: when it began, else when it was first heard of."""
    return call.fields.started_at if call.fields.started_at is not None else call.first_part_at


def told_of_spool(page: CallPage, now: int, receipts: str) -> str:
    """What a page of the spool lists, and what lies beyond it."""
    waiting = sum(part_of(row.deliveries, row.record.accepted_at, now).kind == "waits" for row in page.rows)
    told = f"{count_text(len(page.rows))} shown, the latest first"
    told += f"; {counted(waiting, 'of them waits', 'of them wait')} for a destination" if waiting else ""
    told += f". Delivered calls are known here for {receipts}."
    return told if page.searched_all else f"{told} Older ones were not searched yet."


def list_page(listing: Listing) -> Page:
    """The page."""
    body = tag(
        "section",
        tag(
            "div",
            tag("h1", "Calls", id="title"),
            tag("button", "", class_="quiet", type="button", id="newer", hidden=True, data_own=True),
            class_="spread",
        ),
        _filters(listing),
        tag("p", listing.told, class_="soft", id="told", role="status", data_live=True),
        _table(listing),
        _pager(listing),
        class_="card",
        aria_labelledby="title",
    )
    return Page("/calls", "Calls", body, scripts=("calls.js",))


def _filters(listing: Listing) -> Html:
    query = listing.query
    agents = [tag("option", each, selected=each == query.get("agent")) for each in listing.agents]
    if query.get("agent") and query["agent"] not in listing.agents:
        agents.append(tag("option", query["agent"], selected=True))
    agent = tag("select", tag("option", "all agents", value=""), agents, name="agent")
    if listing.in_store:  # which has others than those of this page
        field = tag("input", name="agent", list="agents", value=query.get("agent"), autocomplete="off")
        agent = markup(field, tag("datalist", agents, id="agents"))
    projects = [tag("option", each, selected=each == query.get("project")) for each in listing.projects]
    everyone = tag("option", "nobody's" if listing.in_store else "all tenants", value="")
    states = (
        [(state.name.lower(), part.text) for state, part in STATES.items()]
        if listing.in_store
        else [("waits", "a part waits"), ("dead", "a part is dead"), ("sent", "all parts arrived")]
    )
    options = [tag("option", text, value=value, selected=value == query.get("state")) for value, text in states]
    find = "Call id, or the whole number" if listing.in_store else "Call id, or the end of a number"
    return tag(
        "form",
        tag(
            "label",
            tag("span", find),
            tag(
                "input",
                name="q",
                type="search",
                autocomplete="off",
                value=query.get("q", ""),
                data_find=True,
                maxlength="256",
                placeholder="press / to search",
            ),
        ),
        tag("label", tag("span", "Agent"), agent),
        tag("label", tag("span", "State"), tag("select", tag("option", "any state", value=""), options, name="state")),
        tag("label", tag("span", "Tenant"), tag("select", everyone, projects, name="project")) if projects else None,
        tag(
            "label",
            tag("span", f"{'Started' if listing.in_store else 'Accepted'} before (UTC)"),
            tag("input", name="before", type="datetime-local", step="1", value=query.get("before", "")),
        ),
        tag(
            "div",
            tag("button", "Search", type="submit", class_="first"),
            tag("a", "Clear", class_="button", href="/calls"),
            class_="go",
        ),
        class_="filters with-tenants" if projects else "filters",
        id="filters",
        role="search",
        method="get",
        action="/calls",
    )


def _table(listing: Listing) -> Html:
    heads = ["Started" if listing.in_store else "Accepted", "Call", "Number", "Agent", "Length", "Ended because"]
    heads += ["State", "Detail"] if listing.in_store else ["Core sent after", "Detail sent after", "Size"]
    head = tag(
        "tr", [tag("th", name, scope="col", class_="num" if name in {"Length", "Size"} else None) for name in heads]
    )
    rows: Node = [_row(line, in_store=listing.in_store) for line in listing.lines]
    if not listing.lines:
        empty = told(
            "No call matches." if any(listing.query.values()) else "No call yet: post one, and it is listed here."
        )
        rows = tag("tr", tag("td", empty, colspan=len(heads), class_="soft"), data_key="empty")
    caption = tag("caption", "Calls, the latest first", class_="unseen")
    return tag("table", caption, tag("thead", head), tag("tbody", rows, id="rows"), class_="calls stack")


def short_id(call_id: str) -> str:
    """What a list shows of an id: the beginning of a UUID, and of others enough to tell them apart."""
    if len(call_id) == 36 and call_id.count("-") == 4:
        return call_id[:8]
    return call_id if len(call_id) <= 24 else f"{call_id[:23]}…"


def address_of(call_id: str, project: str = "") -> str:
    """Of the page of a call."""
    return f"/calls/{quote(call_id, safe='')}" + (f"?{urlencode({'project': project})}" if project else "")


def shown_part(part: Part) -> Html:
    """Its sign and its word."""
    return tag("span", sign(part.kind), tag("span", part.text, class_=part.look), class_="part")


def _row(line: Line, *, in_store: bool) -> Html:
    link = tag(
        "a", short_id(line.call_id), class_="mono", href=address_of(line.call_id, line.project), title=line.call_id
    )
    ended, agent = (line.ended or "").replace("_", " "), line.agent or ""
    return tag(
        "tr",
        tag("td", time_of(line.accepted_at, "moment"), class_="nowrap"),
        tag("th", link, scope="row"),
        tag("td", line.number or "", class_="nowrap"),
        tag("td", tag("bdi", agent), class_="clip", title=agent),
        tag("td", "" if line.length_ms is None else clock_text(line.length_ms / 1000), class_="num"),
        tag("td", ended, class_="reason"),
        tag("td", shown_part(line.core)),
        tag("td", shown_part(line.detail)),
        None if in_store else tag("td", "" if line.size is None else bytes_text(line.size), class_="num"),
        class_="fault" if "error" in ended else None,
        data_key=line.key,
    )


_SIGNS = (
    ("sent", "arrived"),
    ("queued", "under way"),
    ("waits", "waits"),
    ("held", "held for its core or a token"),
    ("dead", "dead letter"),
    ("whole", "not split"),
)
_SIGNS_OF_STORE = (
    ("sent", "complete, stored"),
    ("queued", "goes on"),
    ("waits", "a part may still come"),
    ("dead", "a part never came"),
    ("whole", "none"),
)


def _pager(listing: Listing) -> Html:
    signs = _SIGNS_OF_STORE if listing.in_store else _SIGNS
    key = tag(
        "ul", [tag("li", sign(kind), text) for kind, text in signs], class_="key", aria_label="What the signs mean"
    )
    kept = {name: value for name, value in listing.query.items() if value and name != "after"}
    older = f"/calls?{urlencode({**kept, 'after': listing.older})}" if listing.older else None
    links = [
        tag("a", "Latest", class_="button", href=f"/calls?{urlencode(kept)}" if kept else "/calls"),
        " ",
        tag("a", "Older calls", class_="button", href=older, rel="next") if older else None,
    ]
    return tag("div", key, tag("span", links), class_="pager", id="pager", data_live=True)


def cursor_of(call: CallSummary) -> str:
    """Names the place behind a call in the lists of a store."""
    return f"{call.place}.{call.call_id}"


def place_in_store(cursor: str) -> tuple[int, str] | None:
    """The place that a cursor names."""
    at, _, call_id = cursor.partition(".")
    return (int(at), call_id) if at.isdecimal() and len(at) < 19 and call_id else None
