"""One call: what was said, what was slow, where did it go. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import msgspec

from gateway.admin.page.calls import STATES, Part, part_of
from gateway.admin.page.html import Html, Node, clock_text, markup, moment_of, sign, tag, time_of, told, took_text
from gateway.admin.page.layout import Page, data_block, sign_in_card
from gateway.calllog.document import number_hint
from gateway.calllog.story import OPERATIONS, Story, Turn
from gateway.formatting import bytes_text, count_text
from gateway.trace import attempts_of
from gateway.trace_schemas import AttemptTrace
from spool.records import DeliveryState, Form, Outline
from spool.stats import TracedDelivery, TracedRecord
from uploaders.stores.parts import PartKind
from uploaders.stores.store import StoredCall

_NAMES = {
    Form.WHOLE: "Call log",
    Form.CORE: "Core",
    Form.DETAIL: "Detail",
    Form.REDUCED: "Detail, reduced",
    Form.NOTICE: "Notice",
}
PAUSE_SECONDS = 5
MOST_ATTEMPTS = 5
"""Of more, the first, the second and the last are shown."""


@dataclass(frozen=True, slots=True)
class CallView:
    """What is known of a call."""

    call_id: str
    project: str
    records: Sequence[TracedRecord]
    """Of the spool, the oldest first."""
    outline: Outline
    """Of the newest record."""
    stored: StoredCall | None
    story: Story | None
    why_no_story: str
    """Why there is none: empty where that is for want of a token."""
    may_read: bool
    """Whether what was said may be shown."""
    has_similar: bool
    address: str
    targets: dict[str, str]
    paused_until: Mapping[str, int]
    """When destinations that are down are tried again."""
    now: int


def call_page(view: CallView) -> Page:
    """The page."""
    body: list[Node] = [tag("section", _head(view), _where(view), class_="card callhead", aria_labelledby="title")]
    if not view.may_read:
        body.append(sign_in_card(view.address, "The transcript and the spans need a token."))
    elif view.story is None:
        body.append(
            tag(
                "section",
                tag("h2", "Conversation and spans", id="gone"),
                tag("p", told(view.why_no_story)),
                class_="card",
                aria_labelledby="gone",
            )
        )
    else:
        body += [_tabs(), _talk(view.story), _raw(view)]
    return Page(
        "/calls", f"Call {view.call_id[:8]}", markup(body), scripts=("call.js", "waterfall.js"), pause=_pause(view)
    )


def _pause(view: CallView) -> int | None:
    """Each look is a line in the audit log; at what has arrived, or was given up, there is nothing more to see."""
    settled = all(one.state.ended for record in view.records for one in record.deliveries)
    return None if settled else PAUSE_SECONDS


def _newest(view: CallView) -> TracedRecord | None:
    return view.records[-1] if view.records else None


# The head -----------------------------------------------------------------------------------------------------------


def _head(view: CallView) -> Html:
    newest, story, fields = _newest(view), view.story, view.stored.summary.fields if view.stored else None
    agent = (newest.record.agent_id if newest else None) or (fields.agent_id if fields else None) or "no agent"
    facts = [(name, value) for name, value in _facts(view) if value]
    named = {"call": view.call_id, **({"project": view.project} if view.project else {})}
    similar = f"/similar?{urlencode(named)}" if view.has_similar else None
    actions = [
        tag("button", "Copy the id", type="button", data_copy=view.call_id),
        tag("a", "Similar calls", class_="button", href=similar) if similar else None,
        tag("a", "Download JSON", class_="button", href=_log_address(view), download=True)
        if view.may_read and story is not None
        else None,
        tag("a", "Recording", class_="button", href=story.recording_url, rel="noreferrer noopener")
        if story and (story.recording_url or "").startswith(("https://", "http://"))
        else None,
    ]
    return tag(
        "div",
        tag("p", tag("a", "Calls", href="/calls"), " / ", tag("bdi", agent), class_="crumb"),
        tag("h1", view.call_id, id="title"),
        tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], class_="inline"),
        tag("p", actions, class_="actions"),
    )


def _log_address(view: CallView) -> str:
    query = f"?{urlencode({'project': view.project})}" if view.project else ""
    return f"/api/calls/{quote(view.call_id, safe='')}/log{query}"


def _facts(view: CallView) -> list[tuple[str, Node]]:
    newest, story, outline = _newest(view), view.story, view.outline
    fields = view.stored.summary.fields if view.stored else None
    began = _first(
        story.started_at * 1000 if story and story.started_at else None, fields.started_at if fields else None
    )
    ended = _first(story.ended_at * 1000 if story and story.ended_at else None, fields.ended_at if fields else None)
    length = _first(ended - began if began is not None and ended is not None else None, outline.length_ms)
    number = (fields.customer_number if fields else None) or (story.number if story else None)
    reason = outline.ended_reason or (fields.reason if fields else None) or (story.reason if story else None)
    return [
        ("State", STATES[view.stored.summary.state].text if view.stored else None),
        ("Started", time_of(round(began), "moment") if began else None),
        ("Ended", time_of(round(ended)) if ended else None),
        ("Length", clock_text(length / 1000) if length is not None else None),
        ("Ended because", (reason or "").replace("_", " ")),
        ("Number", outline.number_hint or (number_hint(number) if number else None)),
        ("Turns, spans", f"{len(story.turns)}, {count_text(story.spans_in_all)}" if story else None),
        ("Size", bytes_text(newest.record.raw_bytes) if newest else None),
        ("Tokens in, out", f"{story.tokens[0]:,}, {story.tokens[1]:,}" if story and story.tokens else None),
        ("Cost", f"{story.cost:.2{'f' if story.cost >= 0.1 else 'g'}} USD" if story and story.cost else None),
    ]


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


# Where it is ----------------------------------------------------------------------------------------------------------


def _where(view: CallView) -> Html:
    newest = _newest(view)
    ways = _ways(newest, view) if newest else []
    if view.stored is not None:
        ways += _parts(view.stored)
    earlier = [
        tag(
            "li",
            sign(_whole_part(record, view.now).kind),
            tag("b", record.record.event.replace("_", " ")),
            tag(
                "p",
                time_of(record.record.accepted_at, "day"),
                f", {bytes_text(record.record.raw_bytes)}: ",
                _whole_part(record, view.now).text,
            ),
            data_key=record.record.uid,
        )
        for record in reversed(view.records[:-1])
    ]
    more = tag("details", tag("summary", f"{len(earlier)} earlier of this call"), tag("ol", earlier, class_="ways"))
    return tag(
        "div",
        tag("h2", "Where it is"),
        tag("ol", ways, class_="ways"),
        more if earlier else None,
        id="where",
        data_live=True,
    )


def _whole_part(record: TracedRecord, now: int) -> Part:
    if record.superseded:
        return Part("whole", "superseded by a later event")
    if not record.deliveries:
        return Part("sent", "accepted; owed to no destination")
    return part_of(record.deliveries, record.record.accepted_at, now)


def _ways(traced: TracedRecord, view: CallView) -> list[Node]:
    record = traced.record
    accepted = tag(
        "li",
        sign("sent"),
        tag("b", "Accepted"),
        tag("p", time_of(record.accepted_at, "exact"), f", {record.event.replace('_', ' ')}; record {record.uid}"),
    )
    order = list(_NAMES)
    deliveries = sorted(traced.deliveries, key=lambda one: (order.index(one.form), one.destination))
    return [accepted, *(_way(one, traced, view) for one in deliveries)]


def _way(one: TracedDelivery, traced: TracedRecord, view: CallView) -> Html:
    record = traced.record
    part = part_of([one], record.accepted_at, view.now)
    if one.state is DeliveryState.WAITING:
        part = Part("queued", "waits for its turn")
    where = one.location or view.targets.get(one.destination) or one.destination
    attempts, arrived = attempts_of(one), one.state is DeliveryState.DELIVERED
    table = _attempts(attempts, one) if attempts else None
    many = f"{count_text(max(one.attempts, attempts[-1].number))} attempts" if attempts else ""
    shown = tag("details", tag("summary", many), table) if table and arrived else table
    body = tag("div", tag("p", _sentence(one, part, view.now), " ", tag("code", where)), shown, _next(one, view))
    return tag("li", sign(part.kind), tag("b", _NAMES[one.form]), body, data_key=f"{one.form}-{one.destination}")


def _sentence(one: TracedDelivery, part: Part, now: int) -> Node:
    to = one.destination
    match one.state:
        case DeliveryState.DELIVERED:
            return f"at {to} after {part.text}:"
        case DeliveryState.DEAD:
            return markup(
                tag("b", f"A dead letter of {to}", class_="bad"),
                " since ",
                time_of(one.settled_at or now, "day"),
                ", for",
            )
        case DeliveryState.HELD:
            return markup(
                tag("b", f"Held for {to}", class_="warn"), f": {one.error or 'until its core is delivered'}; for"
            )
        case DeliveryState.WAITING:
            return f"for {to}, once what stands before it has ended:"
        case DeliveryState.READY:
            look = "warn" if part.kind == "waits" else "soft"
            return markup(tag("b", f"{part.text[:1].upper()}{part.text[1:]} for {to}", class_=look), ", to")
        case _:
            return f"given up ({one.state.name.lower()}), for {to}:"


def _attempts(attempts: Sequence[AttemptTrace], one: TracedDelivery) -> Html:
    shown = attempts if len(attempts) <= MOST_ATTEMPTS else [*attempts[:2], attempts[-1]]
    head = tag(
        "tr",
        tag("th", "Time", scope="col"),
        tag("th", "Took", scope="col", class_="num"),
        tag("th", "Status", scope="col"),
        tag("th", "Answer", scope="col"),
    )
    rows = [
        tag(
            "tr",
            tag("td", time_of(moment_of(each.ended_at), "exact"), class_="nowrap"),
            tag("td", took_text(each.took_seconds * 1000) if each.took_seconds is not None else "", class_="num"),
            tag("td", each.status, class_=_look_of(each)),
            tag(
                "td",
                each.answer or "",
                tag("span", f" ({attempts[-1].number} in all)", class_="soft")
                if each is attempts[-1] and attempts[-1].number > MOST_ATTEMPTS
                else None,
                class_="answer",
            ),
            data_key=str(each.number),
        )
        for each in shown
    ]
    label = f"Attempts to send the {one.form} to {one.destination}"
    table = tag("table", tag("caption", label, class_="unseen"), tag("thead", head), tag("tbody", rows))
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def _look_of(attempt: AttemptTrace) -> str:
    return {"delivered": "good", "retry": "warn"}.get(attempt.outcome, "bad")


def _next(one: TracedDelivery, view: CallView) -> Html | None:
    if one.state is DeliveryState.DEAD:
        return tag(
            "p",
            tag("a", "Decide under Dead letters", href=f"/dead?{urlencode({'destination': one.destination})}"),
            class_="soft",
        )
    pause = view.paused_until.get(one.destination, 0)
    if one.state is not DeliveryState.READY or not (one.attempts or pause):
        return None
    at = max(one.due_at, pause)
    when: Node = markup("Next try ", time_of(at, "moment")) if at > view.now else "It is tried now."
    again = tag("button", "try now", type="button", class_="quiet", data_resume=one.destination)
    return tag("p", when, " ", again, " ", tag("span", role="status", data_own=True), class_="soft")


_KINDS = {
    PartKind.START: "Start",
    PartKind.END: "End",
    PartKind.CALL: "Call",
    PartKind.UPDATE: "Update",
    PartKind.DETAIL: "Detail",
    PartKind.REFERENCE: "Reference",
}


def _parts(call: StoredCall) -> list[Node]:
    """What the store has of it."""
    return [
        tag(
            "li",
            sign("sent" if part.shown else "whole"),
            tag("b", _KINDS[part.kind]),
            tag(
                "p",
                time_of(part.accepted_at, "exact"),
                f", {part.event.replace('_', ' ')}, in the store; record {part.source_uid}",
                "" if part.shown else "; another one is shown",
            ),
            data_key=f"{part.kind}-{part.digest.hex()}",
        )
        for part in call.parts[:50]
    ]


# The conversation and the spans -------------------------------------------------------------------------------------


def _tabs() -> Html:
    tabs = [
        tag(
            "button",
            name,
            type="button",
            role="tab",
            id=f"tab-{key}",
            aria_controls=key,
            aria_selected="true" if key == "talk" else "false",
            tabindex=None if key == "talk" else "-1",
        )
        for key, name in (("talk", "Conversation and spans"), ("raw", "Raw JSON"))
    ]
    return tag("div", tabs, class_="tabs", role="tablist", aria_label="What this call holds")


def _talk(story: Story) -> Html:
    return tag(
        "div",
        _waits(story),
        tag("div", _conversation(story), _spans(story), class_="talk"),
        _data(story),
        id="talk",
        role="tabpanel",
        aria_labelledby="tab-talk",
    )


def _waits(story: Story) -> Html | None:
    if not story.waits:
        return None
    slowest = max(story.turns, key=lambda turn: turn.wait or 0)
    middle = (
        f"median {took_text((story.slow_from or 0) / 2)} · 95 % {took_text(story.wait_p95 or 0)} · slowest turn "
        f"{slowest.number}, {took_text(slowest.wait or 0)}"
    )
    names = (("f-eou", "end of utterance"), ("f-ttft", "first token (ttft)"), ("f-ttfb", "first byte of speech (ttfb)"))
    legend = [tag("li", tag("span", class_=f"swatch {look}"), name) for look, name in names]
    head = tag(
        "div",
        tag("h2", "Time until the agent speaks, by turn", id="waits"),
        tag("ul", legend, class_="legend"),
        tag("span", middle, id="middle", class_="soft"),
        class_="spread",
    )
    chart = Html('<svg class="wait" id="strip" height="136" role="img" aria-labelledby="waits middle" hidden></svg>')
    return tag("section", head, chart, class_="card", aria_labelledby="waits")


def _conversation(story: Story) -> Html:
    slowest = tag("button", "Slowest turn", type="button", class_="quiet", id="slowest", hidden=not story.waits)
    head = tag("div", tag("h2", "Conversation", id="conversation"), slowest, class_="head")
    slow = story.slow_from or float("inf")
    turns = [tag("li", _turn(turn, slow)) for turn in story.turns]
    if not turns:
        turns = [tag("li", tag("p", "The call log has no transcript.", class_="soft"))]
    return tag(
        "section", head, tag("ol", turns, class_="turns", id="turns"), class_="card", aria_labelledby="conversation"
    )


def _turn(turn: Turn, slow: float) -> Html:
    when = tag(
        "span",
        tag("b", turn.number),
        tag("br"),
        clock_text(turn.at / 1000) if turn.at is not None else "",
        class_="when",
    )
    text = tag(
        "span",
        tag("span", "Caller: ", class_="unseen"),
        tag("span", turn.said or "…", class_="said", dir="auto"),
        tag("span", "Agent: ", class_="unseen"),
        tag("span", turn.told or "…", class_="told", dir="auto"),
    )
    figures: list[Node] = []
    if turn.wait is not None:
        is_slow = turn.wait > slow
        figures.append(
            tag(
                "span", tag("b", took_text(turn.wait)), " slow" if is_slow else None, class_="slow" if is_slow else None
            )
        )
        for name, value in (("eou", turn.eou), ("ttft", turn.ttft), ("ttfb", turn.ttfb)):
            figures.append(tag("span", f"{name} {took_text(value)}" if value is not None else f"{name} not measured"))
    for name, took in turn.tools:
        look = "slow" if took is not None and took > 2000 else None
        figures.append(tag("span", f"{name} {took_text(took)}" if took is not None else name, class_=look))
    line = tag("span", figures, class_="took") if figures else None
    return tag("button", when, text, line, type="button", aria_pressed="false")


def _spans(story: Story) -> Html:
    if not story.spans:
        return tag(
            "section",
            tag("div", tag("h2", "Spans", id="spans"), class_="head"),
            tag("p", "The call log has no spans.", class_="soft look"),
            class_="card",
            aria_labelledby="spans",
        )

    def group(label: str, *buttons: Html) -> Html:
        return tag("div", buttons, class_="zoom", role="group", aria_label=label)

    def button(name: str, identity: str, **more: str) -> Html:
        return tag("button", name, type="button", id=identity, **more)

    layout = group(
        "Layout",
        button("Compare turns", "compare", aria_pressed="true"),
        button("By the clock", "clock", aria_pressed="false"),
    )
    zoom = group(
        "Zoom",
        button("+", "in", aria_label="Zoom in"),
        button("−", "out", aria_label="Zoom out"),
        button("Whole", "whole"),
        button("Open all", "fold"),
    )
    toggles = tag("div", class_="toggles", id="toggles", role="group", aria_label="Operations shown")
    cut = len(story.spans) < story.spans_in_all
    note = f"The {count_text(len(story.spans))} longest of {count_text(story.spans_in_all)} spans." if cut else None
    canvas = tag("canvas", id="map", role="img", aria_label="All spans of the call; drag to zoom")
    tree = tag(
        "div",
        id="rows",
        role="tree",
        aria_label="Spans by turn. Right opens, left closes, Enter zooms, Escape shows the whole call",
    )
    return tag(
        "section",
        tag("div", tag("h2", "Spans", id="spans"), toggles, layout, zoom, class_="head"),
        tag("p", note, class_="soft look") if note else None,
        tag(
            "noscript",
            tag("p", told("The waterfall needs JavaScript; the JSON to download holds all spans."), class_="look"),
        ),
        tag("div", canvas, tag("i"), tag("i"), tag("b"), class_="mini", id="mini"),
        tag("div", class_="axis", id="axis", aria_hidden="true"),
        tag("div", tree, class_="fall", id="fall", tabindex="-1"),
        tag("div", class_="look", id="look", role="status"),
        class_="card waterfall",
        aria_labelledby="spans",
    )


def _data(story: Story) -> Html:
    """What the scripts draw, compact: spans as columns, names once."""
    names = list(dict.fromkeys(span.name for span in story.spans))
    places = {name: place for place, name in enumerate(names)}
    length = max((span.start + span.took for span in story.spans), default=0.0)
    if story.started_at is not None and story.ended_at is not None:
        length = max(length, (story.ended_at - story.started_at) * 1000)
    document = {
        "length": length,
        "operations": OPERATIONS,
        "names": names,
        "spans": [
            (places[span.name], span.operation, span.parent, span.start, span.took, span.turn, span.fault)
            for span in story.spans
        ],
        "turns": [(turn.at, turn.eou, turn.ttft, turn.ttfb, turn.said[:80]) for turn in story.turns],
        "slow": story.slow_from,
    }
    return data_block("story", msgspec.json.encode(document))


def _raw(view: CallView) -> Html:
    told = "As posted; the first 64 KB are shown. Values are unchanged: 17-digit floats, nanoseconds, large integers."
    head = tag(
        "div",
        tag("p", told, class_="soft"),
        tag("a", "Download all", class_="button", href=_log_address(view), download=True),
        class_="spread",
    )
    text = tag("pre", class_="raw", id="json", tabindex="0", data_from=_log_address(view), aria_label="The call log")
    section = tag("section", head, text, class_="card", aria_label="Raw JSON")
    return tag("div", section, id="raw", role="tabpanel", aria_labelledby="tab-raw", hidden=True)
