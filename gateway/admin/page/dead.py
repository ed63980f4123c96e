"""Dead letters: why did they die, what helps, do it safely. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from gateway.admin.page.calls import address_of, short_id
from gateway.admin.page.html import Html, Node, markup, moment_of, tag, time_of, told
from gateway.admin.page.layout import Page, json_block
from gateway.formatting import bytes_text, count_text, counted
from gateway.operations.advice import ADVICE, ReasonKind, kind_of
from gateway.operations.schemas import DeliveryEntry, DestinationReport

SHOWN_ROWS = 50
"""Of one group; an order for the group takes all of it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters of one destination, form and kind."""

    destination: str
    form: str
    kind: ReasonKind
    entries: Sequence[DeliveryEntry]
    """The oldest first."""

    @property
    def key(self) -> str:
        """Names it on the page."""
        return f"{self.destination}-{self.form}-{self.kind}"

    @property
    def size(self) -> int:
        """Bytes of all documents."""
        return sum(each.bytes for each in self.entries)


_TITLES: Mapping[ReasonKind, str] = {
    ReasonKind.TOO_LARGE: "Too large for the destination",
    ReasonKind.UNKNOWN_CALL: "The destination does not know the call",
    ReasonKind.TOKEN: "The agent's key is gone",
    ReasonKind.UNREADABLE: "Payload damaged in the spool",
    ReasonKind.WRONG_KIND: "The destination does not accept this form",
    ReasonKind.GIVEN_UP: "Failed for too long",
    ReasonKind.REFUSED: "Refused by the destination",
    ReasonKind.OTHER: "Other reasons",
}
_HELPS: Mapping[ReasonKind, str] = {
    ReasonKind.TOO_LARGE: "reroute",
    ReasonKind.WRONG_KIND: "reroute",
    ReasonKind.TOKEN: "replace-token",
    ReasonKind.UNREADABLE: "discard",
}
"""The order that the advice names; for all others it is `replay`."""
_FORMS = {
    "whole": "call logs",
    "core": "cores",
    "detail": "details",
    "reduced": "reduced details",
    "notice": "notices",
}
_VERBS = {
    "replay": "Replay",
    "reroute": "Reroute",
    "replace-token": "Give another key",
    "export": "Export",
    "discard": "Discard",
}


def grouped(entries: Iterable[DeliveryEntry]) -> list[Group]:
    """The groups of these dead letters, the largest first."""
    found: dict[tuple[str, str, ReasonKind], list[DeliveryEntry]] = {}
    for each in entries:
        found.setdefault((each.destination, each.form, kind_of(each.reason)), []).append(each)
    groups = [Group(*key, sorted(them, key=lambda each: each.since)) for key, them in found.items()]
    return sorted(groups, key=lambda group: (-len(group.entries), group.key))


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """What the page shows."""

    groups: Sequence[Group]
    total: int
    """By the counters: there may be more than were looked at."""
    destinations: Sequence[DestinationReport]
    """Where they can be moved to."""
    only: str
    """The destination that the list is limited to; empty for all."""


def dead_page(letters: DeadLetters) -> Page:
    """The page."""
    looked_at = sum(len(group.entries) for group in letters.groups)
    kinds = len({group.kind for group in letters.groups})
    size = sum(group.size for group in letters.groups)
    if letters.groups:
        total = max(letters.total, looked_at)
        title = f"{counted(total, 'dead letter')}, of {counted(kinds, 'kind')}"
        kept = f"{bytes_text(size)} kept; they are never deleted automatically"
        more = (
            f"The oldest {count_text(looked_at)} are shown; orders for a group take all of it."
            if total > looked_at
            else ""
        )
    else:
        title, kept, more = "No dead letters.", "", "Deliveries that are refused for good stay here until you decide."
    rules = (
        "Replayed dead letters are sent in the order of their calls, with their old idempotency keys. Deliveries held "
        "for a dead core are replayed with it."
    )
    only = (
        markup("Of ", tag("b", letters.only), " alone. ", tag("a", "Show all", href="/dead")) if letters.only else None
    )
    command = f"`callspool dead list{f' --destination {letters.only}' if letters.only else ''}`"
    groups = [_group(group, opened=number == 0) for number, group in enumerate(letters.groups)]
    body = markup(
        tag("div", tag("h1", title, id="title"), tag("span", kept, class_="soft"), class_="spread",
            id="count", data_live=True),
        tag("p", rules, class_="soft") if letters.groups else None,
        tag("p", only) if only else None,
        tag("noscript", tag("p", told(f"Orders need JavaScript; {command} and `callspool dead replay` do the same."))),
        tag("p", id="done", role="status", class_="good", data_own=True),
        tag("div", groups, class_="groups", id="groups", data_live=True),
        tag("p", more, class_="soft", id="more", data_live=True),
        _tray(),
        _dialog(letters.destinations),
    )  # fmt: skip
    return Page("/dead", "Dead letters", body, scripts=("dead.js",))


def _order_button(order: str, group: Group, best: str) -> Html:
    first = order == best and order != "discard"
    look = "first" if first else "danger" if order == best else None
    label = f"{_VERBS[order]} all of: {_TITLES[group.kind]}, {_FORMS[group.form]} for {group.destination}"
    return tag("button", f"{_VERBS[order]}…", type="button", class_=look, data_order=order, data_group=group.key,
               aria_label=label)  # fmt: skip


def _group(group: Group, *, opened: bool) -> Html:
    best, many = _HELPS.get(group.kind, "replay"), len(group.entries)
    orders = list(dict.fromkeys((best, "replay", "export", "discard")))
    oldest = moment_of(group.entries[0].since)
    select = {"states": ["dead"], "destination": group.destination, "form": group.form, "kind": group.kind}
    heading = f"group-{group.key}"
    about = tag(
        "div",
        tag("input", type="checkbox", aria_label=f"Select all shown: {_TITLES[group.kind]}",
            data_all=group.key, disabled=many == 0),
        tag("div",
            tag("h2", tag("span", f"{count_text(many)} ", class_="bad"), _TITLES[group.kind], id=heading),
            tag("p", f"{_FORMS[group.form]} for {group.destination}, {bytes_text(group.size)}, oldest ",
                time_of(oldest, "day"), "; kind ", tag("code", group.kind), class_="soft"),
            tag("p", tag("code", group.entries[-1].reason or "no reason was given")),
            tag("p", tag("b", "What to do: "), told(ADVICE[group.kind]))),
        tag("p", [_order_button(order, group, best) for order in orders], class_="actions"),
        class_="about",
    )  # fmt: skip
    shown = group.entries[:SHOWN_ROWS]
    title = "The call" if many == 1 else f"The {count_text(many)} calls"
    cut = tag("p", f"The oldest {SHOWN_ROWS} of them.", class_="soft") if many > SHOWN_ROWS else None
    return tag(
        "section",
        about,
        json_block(f"select-{group.key}", select),
        tag("details", tag("summary", title), cut, _table(group, shown), open=opened),
        class_="card group", aria_labelledby=heading, data_key=group.key, id=f"of-{group.key}",
    )  # fmt: skip


def _table(group: Group, shown: Sequence[DeliveryEntry]) -> Html:
    heads: list[Node] = [tag("td", "")]
    heads += [
        tag("th", name, scope="col", class_="num" if name in {"Size", "Attempts"} else None)
        for name in ("Call", "Agent", "Record", "Size", "Died", "Attempts")
    ]
    rows = [
        tag(
            "tr",
            tag("td", tag("input", type="checkbox", aria_label=f"Select {short_id(each.call_id)}", value=each.key,
                          data_letter=group.key, data_bytes=each.bytes)),
            tag("th", tag("a", short_id(each.call_id), class_="mono", href=address_of(each.call_id)), scope="row"),
            tag("td", each.agent_id or ""),
            tag("td", tag("a", each.record_id, href=f"/api/documents/{quote(each.key)}", download=True,
                          title="Download its document"), class_="mono"),
            tag("td", bytes_text(each.bytes), class_="num"),
            tag("td", time_of(moment_of(each.since), "day")),
            tag("td", count_text(each.attempts), class_="num"),
            data_key=each.key,
        )
        for each in shown
    ]  # fmt: skip
    table = tag("table", tag("caption", _TITLES[group.kind], class_="unseen"), tag("thead", tag("tr", heads)),
                tag("tbody", rows))  # fmt: skip
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"Calls: {_TITLES[group.kind]}")


def _tray() -> Html:
    buttons = [
        tag("button", f"{verb}…", type="button", data_order=order, class_="danger" if order == "discard" else None)
        for order, verb in _VERBS.items()
    ]
    return tag("section", tag("p", "Nothing selected", id="picked", role="status"), buttons, class_="tray", id="tray",
               aria_label="Orders for what is selected", hidden=True, data_own=True)  # fmt: skip


def _dialog(destinations: Sequence[DestinationReport]) -> Html:
    """Its texts come from the script; the fields are here."""
    targets = [
        tag("option", each.name if each.up else f"{each.name} (down: they wait there)", value=each.name)
        for each in destinations
    ]
    fields = (
        tag("label", tag("span", "To"), tag("select", targets, name="to"), data_for="reroute"),
        tag("label", tag("span", "Key"), tag("input", type="password", name="token", autocomplete="off"),
            data_for="replace-token"),
        tag("label", tag("span", "Type the number to confirm", id="ask-sure"),
            tag("input", name="sure", inputmode="numeric", autocomplete="off"), data_for="discard"),
    )  # fmt: skip
    form = tag(
        "form",
        tag("h2", "", id="ask-title"),
        tag("p", "", id="ask-text"),
        tag("div", fields, id="ask-fields"),
        tag("div", tag("b", "", id="ask-count"), tag("ul", id="ask-list"), class_="result"),
        tag("p", "", class_="soft", id="ask-note", role="status"),
        tag("div", tag("button", "Export them first…", type="button", id="ask-export", data_for="discard"),
            tag("button", "Cancel", value="cancel", type="button", id="ask-cancel"),
            tag("button", "", value="go", id="ask-go", type="submit"), class_="end"),
        method="dialog", autocomplete="off",
    )  # fmt: skip
    return tag("dialog", form, id="ask", aria_labelledby="ask-title", data_own=True)
