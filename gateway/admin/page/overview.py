"""The overview: is it accepting, is it keeping up, since when not, why, what to do. Pure."""

from collections.abc import Iterable, Sequence
from urllib.parse import quote, urlencode

from gateway.admin.history import History, Sample
from gateway.admin.page.html import Html, Node, markup, moment_of, sign, tag, time_of, told
from gateway.admin.page.layout import Page, json_block, with_times
from gateway.admin.verdict import MOST_NAMED, room_text
from gateway.formatting import age_text, bytes_text, count_text, counted
from gateway.operations.schemas import Cause, DestinationReport, Event, LaneStatus, Pace, SpoolReport, Status, Verdict

SHOWN_MINUTES = 180
_MARKS = {"good": "sent", "warn": "waits", "bad": "dead"}


def overview_page(status: Status, history: History, intake: str) -> Page:
    """The page. `intake` is the address to post to."""
    verdict, pace = status.verdict, status.pace
    assert verdict is not None
    assert pace is not None
    minute = moment_of(status.now) // 60_000
    samples = [each for each in history.samples if each.minute > minute - SHOWN_MINUTES]
    if not any(any(_row(each)[1:]) for each in samples):
        samples = []  # lines along the bottom say less than a sentence
    body = markup(
        _verdict(verdict, intake),
        _figures(status, pace),
        tag("div", _history(samples, history, minute), tag("div", _spool(status, pace), _events(status)), class_="two"),
        _destinations(status),
        _outboxes(status),
    )
    return Page("/", "Overview", body, scripts=("uplot.js", "overview.js"), styles=("uplot.css",))


def _verdict(verdict: Verdict, intake: str) -> Html:
    answers = [
        tag(
            "li",
            sign(_MARKS[each.state]),
            tag("b", with_times(each.text)),
            tag("span", with_times(each.detail)),
            class_=each.state,
        )
        for each in verdict.answers
    ]
    others = [tag("li", with_times(each)) for each in verdict.others]
    fresh = verdict.headline.startswith("Ready. Nothing")
    return tag(
        "section",
        tag("h1", verdict.headline, id="verdict"),
        tag("ul", answers, class_="answers"),
        _first_post(intake) if fresh else None,
        _cause(verdict.cause) if verdict.cause else None,
        tag("ul", others, class_="others", aria_label="Other troubles") if others else None,
        class_=f"card verdict is-{verdict.level}",
        aria_labelledby="verdict",
        id="now",
        data_live=True,
    )


def _first_post(intake: str) -> Html:
    command = (
        f"curl -X POST {intake}/v1/calls -H 'Content-Type: application/json' "
        '-d \'{"call_id": "first-call", "wcall_event": "call_ended"}\''
    )
    return tag(
        "div",
        tag("div", tag("h2", "Post to"), tag("p", told(f"`{intake}/send-call-log`"))),
        tag("div", tag("h2", "Try it"), tag("p", told(f"`{command}`")), tag("p", _copy(command), class_="actions")),
        class_="cause",
    )


def _copy(command: str) -> Html:
    return tag("button", "Copy the command", type="button", data_copy=command)


def _cause(cause: Cause) -> Html:
    steps = [tag("li", told(step)) for step in cause.todo]
    resume = tag("button", f"Try {cause.resume} now", type="button", class_="first", data_resume=cause.resume)
    actions = [resume if cause.resume else None, _copy(cause.command) if cause.command else None]
    until, _, more = cause.until.partition(". ")
    return tag(
        "div",
        tag(
            "div",
            tag("h2", "Why"),
            tag("p", told(cause.why)),
            tag("p", with_times(cause.tried), class_="soft") if cause.tried else None,
        ),
        tag(
            "div",
            tag("h2", "What to do"),
            tag("ol", steps),
            tag("p", "More: ", tag("code", cause.runbook), class_="soft") if cause.runbook else None,
            tag("p", actions, class_="actions"),
            tag("p", id="resumed", role="status", class_="soft", data_own=True),
        ),
        tag(
            "div",
            tag("h2", "Until when"),
            tag("p", tag("b", f"{until.rstrip('.')}."), " ", told(more)),
            tag("p", told(cause.then), class_="soft") if cause.then else None,
        )
        if cause.until
        else None,
        class_="cause",
    )


def _figures(status: Status, pace: Pace) -> Html:
    core, detail = _lanes(status, "core"), _lanes(status, "detail")
    waiting = _queued((*core, *detail))
    ages = [
        (lane.pending_seconds or 0.0, f"a {lane.lane} for {each.name}")
        for each in status.destinations
        for lane in each.lanes
        if lane.pending
    ]
    oldest, of = max(ages, default=(0.0, ""))
    bad = {
        each.text.partition(" keep")[0]
        for each in (status.verdict.answers if status.verdict else ())
        if each.state == "bad"
    }
    dead = sum(each.dead for each in status.destinations)
    unaccounted = status.spool.unaccounted if status.spool else 0
    full_of_details = status.spool is not None and status.spool.full_of_details
    figures: list[tuple[str, Node, Node, bool]] = [
        ("Cores waiting", count_text(_queued(core)), _size(core), "Cores" in bad),
        ("Details waiting", count_text(_queued(detail)), _size(detail), "Details" in bad),
        (
            "Oldest waiting",
            age_text(oldest) if waiting else "none",
            of if waiting else "nothing is due",
            bool(bad),
        ),
        ("Drained", *_drained(status, pace, waiting), False),
        (
            "Full for large calls",
            *_full(status, pace),
            full_of_details or (pace.full_in_seconds is not None and pace.full_in_seconds < 3600),
        ),
        (
            "Dead letters",
            tag("a", count_text(dead), href="/dead") if dead else "0",
            "wait for a decision" if dead else "none",
            False,
        ),
        ("Unaccounted", count_text(unaccounted), "must be 0", unaccounted > 0),
    ]
    return tag(
        "dl",
        [
            tag("div", tag("dt", name), tag("dd", value, tag("small", note), class_="loud" if loud else None))
            for name, value, note, loud in figures
        ],
        class_="card figures",
        id="figures",
        data_live=True,
    )


def _lanes(status: Status, name: str) -> list[LaneStatus]:
    return [lane for each in status.destinations for lane in each.lanes if lane.lane == name]


def _queued(lanes: Iterable[LaneStatus]) -> int:
    return sum(lane.pending for lane in lanes)


def _size(lanes: Sequence[LaneStatus]) -> str:
    return f"{bytes_text(sum(lane.queued_bytes for lane in lanes))} as posted" if _queued(lanes) else "none waits"


def _drained(status: Status, pace: Pace, waiting: int) -> tuple[str, str]:
    if not waiting:
        return "now", "nothing waits"
    down = any(lane.pending for each in status.destinations if not each.up for lane in each.lanes)
    if pace.drained_in_seconds is not None and not down:
        return age_text(pace.drained_in_seconds), "at the present rate"
    if down and pace.best_per_minute:
        return "not now", f"{age_text(waiting / pace.best_per_minute * 60)} once it is back"
    return "not now", "the backlog does not shrink"


def _full(status: Status, pace: Pace) -> tuple[str, Node]:
    if status.spool is not None and status.spool.full_of_details:
        return "now", "they are answered 507"
    if pace.full_in_seconds is None or pace.full_in_seconds > MOST_NAMED:
        return "never", "at this rate" if pace.growth_bytes_per_minute is not None else "as far as is known"
    when = time_of(moment_of(status.now) + round(pace.full_in_seconds * 1000), "minutes")
    return age_text(pace.full_in_seconds), markup("at ", when, f", {room_text(pace)}")


def _history(samples: Sequence[Sample], history: History, minute: int) -> Html:
    legend = [
        tag("li", tag("span", class_=f"swatch {look}"), name)
        for look, name in (("s-taken", "accepted"), ("s-core", "cores"), ("s-detail", "details"))
    ]
    head = tag("div", tag("h2", "Last 3 hours", id="hours"), tag("ul", legend, class_="legend"), class_="spread")
    since = (minute - SHOWN_MINUTES) * 60_000
    outages = [
        [each.destination, each.since, each.until]
        for each in history.outages
        if each.until is None or each.until > since
    ]
    data = json_block("samples", {"minute": minute, "samples": [_row(each) for each in samples], "outages": outages})
    chart = tag(
        "div",
        tag("p", "From the first call on, the figures of each minute are shown here.", class_="soft")
        if not samples
        else None,
        class_="chart",
        id="history",
        data_own=True,
    )
    readout = tag("p", class_="readout", id="readout", data_own=True)
    return tag("section", head, chart, readout, data, _table(samples), class_="card", aria_labelledby="hours")


def _row(sample: Sample) -> list[int]:
    """What the chart draws of a minute."""
    return [
        sample.minute,
        sample.accepted,
        sample.core_delivered,
        sample.detail_delivered,
        sample.core_waiting,
        sample.detail_waiting,
    ]


def _table(samples: Sequence[Sample]) -> Html:
    heads = ("Time", "Accepted", "Cores delivered", "Details delivered", "Cores waiting", "Details waiting")
    head = tag(
        "tr", [tag("th", name, scope="col", class_="num" if number else None) for number, name in enumerate(heads)]
    )
    step = 15 if len(samples) > 30 else 1
    rows = [
        tag(
            "tr",
            tag("td", time_of(each.minute * 60_000, "minutes")),
            [tag("td", count_text(value), class_="num") for value in _row(each)[1:]],
        )
        for each in list(samples)[::-1][::step]
    ]
    table = tag(
        "table",
        tag(
            "caption", f"Every {step}th minute" if step > 1 else "A minute each", ", the latest first", class_="unseen"
        ),
        tag("thead", head),
        tag("tbody", rows),
    )
    scroll = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="The last 3 hours as a table")
    return tag("details", tag("summary", "As a table"), scroll, id="history-table", data_live=True, hidden=not samples)


def _spool(status: Status, pace: Pace) -> Html:
    spool = status.spool
    if spool is None:
        return tag(
            "section",
            tag("h2", "Spool", id="spool"),
            tag("p", "It is not open."),
            class_="card",
            aria_labelledby="spool",
            id="spool-card",
            data_live=True,
        )
    facts: list[tuple[str, str]] = [
        ("Growing by", room_text(pace)),
        ("Reserve for cores", bytes_text(spool.reserve_bytes)),
        ("Free on the volume", bytes_text(pace.disk_free_bytes) if pace.disk_free_bytes is not None else "not known"),
        (
            "Commit, 99 %",
            f"{pace.commit_p99_seconds * 1000:.3g} ms" if pace.commit_p99_seconds is not None else "not measured",
        ),
    ]
    return tag(
        "section",
        tag(
            "div",
            tag("h2", "Spool", id="spool"),
            tag("span", f"{bytes_text(spool.used_bytes)} of {bytes_text(spool.limit_bytes)}"),
            class_="spread",
        ),
        _meter(spool),
        tag("dl", [(tag("dt", name), tag("dd", value)) for name, value in facts], class_="facts"),
        class_="card",
        aria_labelledby="spool",
        id="spool-card",
        data_live=True,
    )


def _meter(spool: SpoolReport) -> Html:
    used = min(100.0, 100 * spool.used_bytes / max(1, spool.limit_bytes))
    kept = min(100.0, 100 * spool.reserve_bytes / max(1, spool.limit_bytes))
    label = f"{used:.1f} % used; the last {kept:.0f} % are the reserve for cores"
    return Html(
        f'<svg class="meter" viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<rect class="back" width="100" height="4" rx=".8"/>'
        f'<rect class="used" width="{max(used, 0.4):.2f}" height="4" rx=".8"/>'
        f'<rect class="kept" x="{100 - kept:.2f}" width="{kept:.2f}" height="4"/></svg>'
    )


_LEVELS = {"error": "bad", "warning": "warn", "info": None}


def _events(status: Status) -> Html:
    items = [_event(each) for each in status.events[:7]]
    if not status.complete:
        items = [
            tag("li", tag("span", "Events name calls: ", tag("a", "sign in", href="/sign-in?to=/"), " to see them."))
        ]
    elif not items:
        items = [tag("li", tag("span", "None.", class_="soft"))]
    return tag(
        "section",
        tag("h2", "Recent events", id="events"),
        tag("ol", items, class_="events"),
        class_="card",
        aria_labelledby="events",
        id="events-card",
        data_live=True,
    )


def _event(event: Event) -> Html:
    look = "good" if event.text.endswith("accepts deliveries again") else _LEVELS.get(event.level)
    return tag("li", time_of(moment_of(event.at), "moment"), tag("span", event.text, class_=look))


def _destinations(status: Status) -> Html:
    throttle = status.drain_throttle
    live = ""
    if throttle is not None and throttle.live_calls:
        slowed = "details are throttled" if throttle.throttled else "details are not throttled"
        live = f"{counted(throttle.live_calls, 'live call')}; {slowed}"
    heads = ("Destination", "State", "Lane", "Waiting", "Size", "Oldest", "In flight", "Held", "Dead", "Delivered")
    head = tag(
        "tr", [tag("th", name, scope="col", class_="num" if number > 2 else None) for number, name in enumerate(heads)]
    )
    bodies = [_destination(each) for each in status.destinations]
    table = tag(
        "table", tag("caption", "Destinations by lane", class_="unseen"), tag("thead", head), bodies, class_="dest"
    )
    scroll = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="Table of destinations")
    title = tag("div", tag("h2", "Destinations", id="destinations"), tag("span", live, class_="soft"), class_="spread")
    return tag(
        "section", title, scroll, class_="card", aria_labelledby="destinations", id="destinations-card", data_live=True
    )


def shown_lanes(one: DestinationReport) -> tuple[LaneStatus, ...]:
    """The lanes that ever had anything; the core lane where none had."""
    had = tuple(
        lane for lane in one.lanes if lane.queued or lane.dead or lane.delivered or lane.expired or lane.discarded
    )
    return had or one.lanes[:1]


def state_pill(one: DestinationReport) -> Html:
    """Up, down, or not configured, and since when."""
    if not one.configured:
        return markup(tag("span", "not configured", class_="pill warn"))
    if one.up:
        held = refused_text(one) if one.refused_tokens else None
        return markup(tag("span", "up", class_="pill good"), " ", tag("small", held) if held else None)
    since = tag("small", "since ", time_of(moment_of(one.since), "moment")) if one.since else None
    return markup(tag("span", "down", class_="pill bad"), " ", since)


def refused_text(one: DestinationReport) -> str:
    """How many agents' tokens it refuses."""
    return f"{counted(one.refused_tokens, 'token')} refused"


def _destination(one: DestinationReport) -> Html:
    lanes = shown_lanes(one)
    rows = []
    for number, lane in enumerate(lanes):
        late = (lane.oldest_seconds or 0) > 60 and not one.up
        cells: list[tuple[Node, bool]] = [
            (count_text(lane.queued), late),
            (bytes_text(lane.queued_bytes), False),
            (age_text(lane.oldest_seconds), late),
            (f"{lane.in_flight} / {lane.concurrency}", False),
            (count_text(lane.held), False),
            (
                tag("a", count_text(lane.dead), href=f"/dead?{urlencode({'destination': one.name})}")
                if lane.dead
                else "0",
                lane.dead > 0,
            ),
            (count_text(lane.delivered), False),
        ]
        span = str(len(lanes)) if len(lanes) > 1 else None
        first = (
            (
                tag(
                    "th",
                    tag("a", one.name, href=f"/destinations#{quote(one.name, safe='')}"),
                    tag("small", one.target or one.type),
                    scope="rowgroup" if span else "row",
                    rowspan=span,
                ),
                tag("td", state_pill(one), rowspan=span),
            )
            if number == 0
            else ()
        )
        rest = [tag("td", value, class_="num loud" if loud else "num") for value, loud in cells]
        rows.append(tag("tr", first, tag("td", lane.lane), rest))
    return tag("tbody", rows, data_key=one.name)


def _outboxes(status: Status) -> Html | None:
    if not status.outboxes:
        return None
    heads = ("Outbox of the SDK", "State", "Rows", "Rescued", "Duplicate", "Superseded", "Refused")
    head = tag(
        "tr", [tag("th", name, scope="col", class_="num" if number > 1 else None) for number, name in enumerate(heads)]
    )
    rows = [
        tag(
            "tr",
            tag("th", each.path, scope="row"),
            tag("td", each.state, tag("small", each.reason)),
            [
                tag("td", count_text(value), class_="num")
                for value in (each.rows, each.rescued, each.duplicate, each.superseded, each.refused)
            ],
        )
        for each in status.outboxes
    ]
    table = tag("table", tag("caption", "Outboxes", class_="unseen"), tag("thead", head), tag("tbody", rows))
    scroll = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="Table of outboxes")
    return tag(
        "section",
        tag("h2", "Outboxes", id="outboxes"),
        scroll,
        class_="card",
        aria_labelledby="outboxes",
        id="outboxes-card",
        data_live=True,
    )
