"""Markup in which every text is escaped: whatever a call log says, it is shown as text.

Only what these functions made is taken as markup (`Html`); a plain `str` is always a text.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from gateway.formatting import age_text

_VOID = frozenset({"br", "input", "link", "meta"})
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What no text needs, and what turns the order of the letters around: a call log could dress up as something else."""


class Html(str):
    """Markup that is safe as it is."""

    __slots__ = ()


Node = Html | str | int | None | Iterable["Node"]
"""What an element may hold: markup, texts, numbers, nothing, or several of these."""


def escaped(text: str) -> str:
    """A text as it stands in markup or in an attribute."""
    return _INVISIBLE.sub("\ufffd", text).translate(_ESCAPES)


def markup(*nodes: Node) -> Html:
    """Nodes one after the other."""
    return Html("".join(_parts(nodes)))


def _parts(nodes: Iterable[Node]) -> Iterable[str]:
    for node in nodes:
        if isinstance(node, Html):
            yield node
        elif isinstance(node, str):
            yield escaped(node)
        elif isinstance(node, int):
            yield str(node)
        elif node is not None:
            yield from _parts(node)


def tag(element: str, /, *nodes: Node, **attributes: str | int | bool | None) -> Html:
    """An element. Attributes: `class_` for `class`, `aria_label` for `aria-label`; False and None are left out."""
    opened = [f"<{element}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        opened.append(f" {attribute}" if value is True else f' {attribute}="{escaped(str(value))}"')
    opened.append(">")
    if element in _VOID:
        return Html("".join(opened))
    return Html(f"{''.join(opened)}{markup(*nodes)}</{element}>")


def told(text: str) -> Html:
    """A sentence in which what stands between backticks is code."""
    pieces = text.split("`")
    return markup(tag("code", piece) if number % 2 else piece for number, piece in enumerate(pieces))


# State by shape, then word, then colour: the same signs everywhere.

_DISC = '<circle class="f" cx="7" cy="7" r="6.5"/>'
_RING = '<circle class="o" cx="7" cy="7" r="5.7"/>'
_SIGNS = {
    "sent": ("good", f'{_DISC}<path class="k" d="M3.9 7.2l2.2 2.2 4-4.4"/>'),
    "dead": (
        "bad",
        '<rect class="f" x=".5" y=".5" width="13" height="13" rx="2"/>'
        '<path class="k" d="M4.3 4.3l5.4 5.4m0-5.4l-5.4 5.4"/>',
    ),
    "waits": ("warn", f'{_RING}<path class="o" d="M7 3.8V7l2.3 1.6"/>'),
    "held": ("warn", f'{_RING}<path class="o" d="M5.4 4.8v4.4m3.2-4.4v4.4"/>'),
    "queued": ("soft", _RING),
    "whole": ("soft", '<path class="o" d="M3.5 7h7"/>'),
}


def sign(kind: str) -> Html:
    """The sign of a state: sent, dead, waits, held, queued (under way) or whole (not split)."""
    colour, shape = _SIGNS[kind]
    return Html(f'<svg class="glyph {colour}" viewBox="0 0 14 14" aria-hidden="true">{shape}</svg>')


# Times: in UTC as the server renders them; a browser with JavaScript shows its own time zone.


_CLOCK_ENDS = {"minutes": 16, "day": 16, "seconds": 19, "moment": 19, "exact": 23}
"""In `2026-11-29T18:41:52.123`."""


def time_of(milliseconds: int, form: str = "seconds", **attributes: str) -> Html:
    """A moment. `form`: `seconds` or `minutes`; with the date where that is not today `day`, `moment`, `exact`."""
    at = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
    iso = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    clock = iso[11 : _CLOCK_ENDS[form]]
    text = clock if form in {"seconds", "minutes"} else f"{at:%b} {at.day}, {clock}"
    return tag("time", text, datetime=iso, data_form=form, title=f"{iso[:19].replace('T', ' ')} UTC", **attributes)


def moment_of(iso: str) -> int:
    """Milliseconds since the Unix epoch of a time that this gateway wrote."""
    return round(datetime.fromisoformat(iso).timestamp() * 1000)


def took_text(milliseconds: float) -> str:
    """How long something took: `0.4 ms`, `92 ms`, `3.62 s`, `4 min 12 s`, `2 h 5 min`."""
    if 0 < milliseconds < 0.95:
        return f"{milliseconds:.1f}\u00a0ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f}\u00a0ms"
    if milliseconds < 100_000:
        return f"{milliseconds / 1000:.{2 if milliseconds < 10_000 else 1}f}\u00a0s"
    if milliseconds < 3_600_000:
        return f"{milliseconds // 60_000:.0f}\u00a0min {milliseconds % 60_000 // 1000:.0f}\u00a0s"
    return age_text(milliseconds / 1000)


def clock_text(seconds: float) -> str:
    """A length as a clock shows it: `4:34`, `1:04:34`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
