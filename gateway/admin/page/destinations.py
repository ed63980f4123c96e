"""Destinations: each with its breaker, the tokens that it refuses, its last errors, and the order to try it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from gateway.admin.page.calls import address_of, short_id
from gateway.admin.page.html import Html, Node, markup, moment_of, tag, time_of, told, took_text
from gateway.admin.page.layout import Page, with_times
from gateway.admin.page.overview import refused_text, shown_lanes, state_pill
from gateway.admin.verdict import cause_of
from gateway.formatting import age_text, bytes_text, count_text
from gateway.operations.schemas import Cause, DestinationReport, LaneStatus, Status
from gateway.trace import attempt_of
from spool.stats import FailedAttempt

_BREAKERS = {
    "closed": "closed: deliveries go through",
    "open": "open: only single tries are made",
    "half_open": "half open: a try is under way",
}


@dataclass(frozen=True, slots=True)
class Troubles:
    """What is known of one destination besides its status."""

    attempts: Sequence[FailedAttempt] = ()
    """The latest that failed, the latest first."""
    held_agents: Mapping[str, int] | None = None
    """Of deliveries that are held for a refused token: how many, by agent; None where that was not asked."""


def destinations_page(status: Status, troubles: Mapping[str, Troubles]) -> Page:
    """The page."""
    down = [each for each in status.destinations if not each.up]
    many = len(status.destinations)
    if down:
        title = f"{len(down)} of {many} destinations {'does' if len(down) == 1 else 'do'} not accept deliveries."
    else:
        title = "Every destination accepts deliveries." if many else "No destination."
    body = markup(
        tag("div", tag("h1", title, id="title"), class_="spread", id="count", data_live=True),
        tag("div", [_card(each, status, troubles.get(each.name, Troubles())) for each in status.destinations],
            id="all", data_live=True),
    )  # fmt: skip
    return Page("/destinations", "Destinations", body)


def _card(one: DestinationReport, status: Status, trouble: Troubles) -> Html:
    cause = cause_of(one, status, status.pace) if status.pace else None
    head = tag("div", tag("h2", one.name, id=one.name), tag("span", state_pill(one)), class_="spread")
    resume = f"Try {one.name} now"
    button = tag("button", resume, type="button", data_resume=one.name, class_=None if one.up else "first")
    facts = [(name, value) for name, value in _facts(one) if value is not None]
    return tag(
        "section",
        head,
        tag("p", tag("code", one.target or one.type or "not configured"), class_="soft"),
        tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], class_="inline"),
        _advice(cause) if cause else None,
        tag("p", button, " ", tag("span", role="status", class_="soft", data_own=True), class_="actions")
        if one.configured and (not one.up or one.refused_tokens) else None,
        _held(one, trouble),
        _lanes(one),
        _dead(one),
        _attempts(one, trouble.attempts),
        class_="card destination", aria_labelledby=one.name, data_key=one.name,
    )  # fmt: skip


def _facts(one: DestinationReport) -> list[tuple[str, Node]]:
    return [
        ("Type", one.type or None),
        ("Breaker", _BREAKERS.get(one.breaker, one.breaker)),
        ("Down since", time_of(moment_of(one.since), "moment") if one.since else None),
        ("Next try", time_of(moment_of(one.retry_at)) if one.retry_at and not one.up else None),
        ("Tokens refused", count_text(one.refused_tokens)),
        ("Dead letters", count_text(one.dead)),
    ]


def _advice(cause: Cause) -> Html:
    return tag(
        "div",
        tag("div", tag("h3", "Why"), tag("p", told(cause.why)), tag("p", with_times(cause.tried), class_="soft")),
        tag("div", tag("h3", "What to do"), tag("ol", [tag("li", told(step)) for step in cause.todo])),
        class_="cause",
    )


def _held(one: DestinationReport, trouble: Troubles) -> Html | None:
    if not one.refused_tokens or not trouble.held_agents:
        return None
    agents = [tag("li", agent, ": ", count_text(many), " held") for agent, many in trouble.held_agents.items()]
    text = told("Their agents; give them a valid key with `callspool deliveries replace-token`:")
    return tag("div", tag("h3", refused_text(one)), tag("p", text), tag("ul", agents))


def _scrolled(label: str, heads: Sequence[str], rows: Sequence[Html], numbers: frozenset[str]) -> Html:
    head = tag("tr", [tag("th", name, scope="col", class_="num" if name in numbers else None) for name in heads])
    table = tag("table", tag("caption", label, class_="unseen"), tag("thead", head), tag("tbody", rows))
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def _lanes(one: DestinationReport) -> Html:
    heads = ("Lane", "Waiting", "Size", "Oldest", "In flight", "Held", "Dead", "Delivered")
    rows = [_lane(lane) for lane in shown_lanes(one)]
    return _scrolled(f"Lanes of {one.name}", heads, rows, frozenset(heads[1:]))


def _lane(lane: LaneStatus) -> Html:
    cells = (
        count_text(lane.queued), bytes_text(lane.queued_bytes), age_text(lane.oldest_seconds),
        f"{lane.in_flight} / {lane.concurrency}", count_text(lane.held), count_text(lane.dead),
        count_text(lane.delivered),
    )  # fmt: skip
    return tag("tr", tag("th", lane.lane, scope="row"), [tag("td", cell, class_="num") for cell in cells])


def _dead(one: DestinationReport) -> Html | None:
    if not one.dead_reasons:
        return None
    rows = [
        tag(
            "tr",
            tag("th", reason.kind.replace("_", " "), scope="row"),
            tag("td", count_text(reason.count), class_="num"),
            tag("td", reason.example, class_="answer"),
            tag("td", told(reason.advice), class_="answer"),
        )
        for reason in one.dead_reasons
    ]
    link = tag("a", "Decide under Dead letters", href=f"/dead?{urlencode({'destination': one.name})}")
    table = _scrolled(
        f"Dead letters of {one.name}", ("Kind", "Count", "Example", "What to do"), rows, frozenset({"Count"})
    )
    return tag("div", tag("h3", "Dead letters, of the newest ones"), table, tag("p", link))


def _attempts(one: DestinationReport, attempts: Sequence[FailedAttempt]) -> Html | None:
    if not attempts:
        return None
    rows = []
    for each in attempts:
        told_of = attempt_of(each.attempt)
        took = "" if told_of.took_seconds is None else took_text(told_of.took_seconds * 1000)
        rows.append(
            tag("tr", tag("td", time_of(each.attempt.ended_at, "moment"), class_="nowrap"),
                tag("td", tag("a", short_id(each.call_id), class_="mono", href=address_of(each.call_id)),
                    class_="nowrap"),
                tag("td", each.form), tag("td", took, class_="num"), tag("td", told_of.status),
                tag("td", told_of.answer, class_="answer"))
        )  # fmt: skip
    heads = ("Time", "Call", "Form", "Took", "Status", "Answer")
    table = _scrolled(f"Failed attempts at {one.name}", heads, rows, frozenset({"Took"}))
    return tag("div", tag("h3", "Last errors"), table)
