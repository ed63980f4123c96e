"""Similar calls, and callbacks: has this happened before, whom do we owe a call. Pure.

Summaries are a model's answers about what strangers said: they are texts here, and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from gateway.admin.page.calls import address_of, short_id
from gateway.admin.page.html import Html, Node, markup, tag, time_of, told
from gateway.admin.page.layout import Page
from gateway.calllog.document import number_hint
from gateway.formatting import count_text, counted
from uploaders.stores.pipeline import Callback, CallbackState, FoundInsight

BY_MEANING, BY_WORDS = "meaning", "words"
SCORES = ("0.00", "0.50", "0.70", "0.80", "0.90")


@dataclass(frozen=True, slots=True)
class Hit:
    """A call that was found."""

    call_id: str
    score: float | None
    """Cosine similarity; None where words were looked for."""
    insight: FoundInsight | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found."""

    hits: Sequence[Hit]
    took_ms: float
    trouble: str = ""
    """Why nothing could be looked for."""


@dataclass(frozen=True, slots=True)
class Search:
    """What the page shows."""

    query: Mapping[str, str]
    """The fields of the form as they were filled in."""
    projects: Sequence[str]
    """Tenants to choose from; none without tenants."""
    found: Found | None
    """None where nothing was asked yet."""
    state: str
    """What the pipeline has, and what it waits for."""
    callbacks: Sequence[Callback] | None
    """Those that wait, the next first; None for somebody who may not see them."""
    counts: Mapping[str, int]
    """Callbacks by state."""
    now: int


def similar_page(search: Search) -> Page:
    """The page."""
    results = _results(search)
    callbacks = _callbacks(search)
    body = markup(_form(search), tag("div", results, callbacks, class_="two") if callbacks else results)
    return Page("/similar", "Similar calls", body, scripts=("receiver.js",), pause=None)


def _choice(name: str, label: str, options: Sequence[tuple[str, str]], chosen: str) -> Html:
    made = [tag("option", text, value=value, selected=value == chosen) for value, text in options]
    return tag("label", tag("span", label), tag("select", made, name=name))


def _form(search: Search) -> Html:
    query = search.query
    more = [
        _choice("how", "Look for", [(BY_MEANING, "the same meaning"), (BY_WORDS, "all of these words")], query["how"]),
        tag("label", tag("span", "Agent"), tag("input", name="agent", value=query["agent"], autocomplete="off")),
        tag("label", tag("span", "Since"), tag("input", name="since", type="date", value=query["since"])),
        _choice("score", "Similarity at least", [(each, each) for each in SCORES], query["score"]),
    ]
    if search.projects:
        choices = [("", "nobody's"), *((each, each) for each in search.projects)]
        more.append(_choice("project", "Tenant", choices, query["project"]))
    form = tag(
        "form",
        tag("label", tag("span", tag("b", "Calls similar to", id="title"), " (a text, or a call id)"),
            tag("input", name="like", type="search", value=query["like"], data_find=True, maxlength="2000")),
        tag("button", "Search", type="submit", class_="first"),
        tag("div", more, class_="more"),
        class_="ask", role="search", method="post", action="/similar",
    )  # fmt: skip
    return tag("section", form, tag("p", told(search.state), class_="soft"), class_="card", aria_labelledby="title")


def _results(search: Search) -> Html:
    found = search.found
    if found is None:
        title, about = "Has this happened before?", "Search with a text, or open a call and choose Similar calls."
    elif found.trouble:
        title, about = "The search failed.", found.trouble
    else:
        many = len(found.hits)
        title = f"{many} call{'' if many == 1 else 's'} found" if many else "No call is similar to this."
        about = f"in {found.took_ms:.0f} ms"
    hits = [_hit(each, search) for each in found.hits] if found else []
    return tag(
        "section",
        tag("div", tag("h1", title, id="found"), tag("span", told(about), class_="soft"), class_="spread"),
        tag("ol", hits, class_="hits") if hits else None,
        class_="card", aria_labelledby="found",
    )  # fmt: skip


def _hit(hit: Hit, search: Search) -> Html:
    insight, project = hit.insight, search.query["project"]
    again = urlencode({"call": hit.call_id, **({"project": project} if project else {})})
    meta: list[Node] = []
    promised = next((each for each in search.callbacks or () if each.call_id == hit.call_id), None)
    if insight is not None:
        meta.append(tag("span", time_of(insight.listed_at, "day")))
        meta += [tag("bdi", text) for text in (insight.agent_id, insight.sentiment) if text]
        meta.append(tag("span", f"summary: {insight.summary_source}"))
    if promised is not None:
        meta.append(tag("span", tag("b", "Callback promised: "), time_of(promised.due_at, "day"), class_="warn"))
    meta += [
        tag("span", tag("bdi", short_id(hit.call_id)), class_="mono"),
        tag("a", "more like this", href=f"/similar?{again}", aria_label=f"Calls similar to {short_id(hit.call_id)}"),
    ]
    text = (insight.summary if insight else "") or "No summary is kept of this call."
    return tag(
        "li",
        _score(hit.score),
        tag(
            "div",
            tag("p", tag("a", text, href=address_of(hit.call_id, project)), dir="auto"),
            tag("p", meta, class_="meta"),
        ),
    )


def _score(score: float | None) -> Html:
    if score is None:
        return tag("div", class_="score")
    width = max(0.0, min(1.0, score)) * 56
    bar = Html(
        '<svg viewBox="0 0 56 5" aria-hidden="true"><rect class="back" width="56" height="5" rx="2"/>'
        f'<rect class="of" width="{width:.1f}" height="5" rx="2"/></svg>'
    )
    return tag("div", f"{score:.2f}", bar, class_="score")


def _callbacks(search: Search) -> Html | None:
    if search.callbacks is None:
        return None
    overdue = sum(each.due_at < search.now for each in search.callbacks)
    waiting = search.counts.get(CallbackState.WAITING, len(search.callbacks))
    late = markup(tag("b", f"{overdue} overdue", class_="bad"), ", ") if overdue else None
    ended = [
        f"{count_text(search.counts.get(state, 0))} {text}"
        for state, text in (
            (CallbackState.FIRED, "fired"),
            (CallbackState.DONE, "done by hand"),
            (CallbackState.CANCELLED, "cancelled"),
        )
        if search.counts.get(state, 0)
    ]
    items = [_callback(each, search.now) for each in search.callbacks]
    note = "By when they are due" + (f"; {', '.join(ended)} besides." if ended else ".")
    command = told("Orders need JavaScript; `callspool callbacks run`, `done` and `cancel` do the same.")
    return tag(
        "section",
        tag("div", tag("h2", "Callbacks", id="callbacks", tabindex="-1"),
            tag("span", late, counted(waiting, "waits", "wait")), class_="spread"),
        tag("p", id="done", role="status", class_="good"),
        tag("ol", items, class_="events callbacks") if items
        else tag("p", "No callback is pending.", class_="soft"),
        tag("noscript", tag("p", command, class_="soft")),
        tag("p", note, class_="soft"),
        class_="card", aria_labelledby="callbacks",
    )  # fmt: skip


def _callback(one: Callback, now: int) -> Html:
    late = one.due_at < now
    about = (number_hint(one.number) or "no number", ", ", tag("bdi", one.agent_id or "no agent"))
    orders = [
        tag("button", verb, type="button", class_="quiet", data_callback=order, data_call=one.call_id,
            data_project=one.project, aria_label=f"{verb}: call {short_id(one.call_id)}")
        for order, verb in (("run", "Call now"), ("done", "Done"), ("cancel", "Cancel"))
    ]  # fmt: skip
    return tag(
        "li",
        time_of(one.due_at, "day", class_="bad" if late else ""),
        tag("div",
            tag("b", "Overdue: ", class_="bad") if late else None,
            tag("a", tag("bdi", one.words or "asked to be called"), href=address_of(one.call_id, one.project)),
            tag("p", about, class_="soft"),
            tag("p", one.reason, class_="soft") if one.reason else None,
            tag("p", orders, class_="orders")),
    )  # fmt: skip
