"""What all pages share: the frame with its navigation, the assets under hashed names, and the policy of browsers."""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from urllib.parse import urlencode

from aiohttp import web

from gateway.admin.answers import HEADERS
from gateway.admin.auth import Caller
from gateway.admin.page.html import Html, Node, escaped, markup, moment_of, tag, time_of, told
from gateway.formatting import count_text
from gateway.operations.schemas import Status

REFRESH_HEADER = "X-Refresh"
"""Of a page that asks for itself: it takes over only what may have changed."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing of another origin, and nothing inline: what a call log says cannot become a script or a style."""
# Without a referrer of its own, a form of ours would come with `Origin: null`, as one of a stranger may.
PAGE_HEADERS = {
    **HEADERS,
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_TIME = re.compile(r"\{(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)\}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages load, under a name that changes with its content."""

    body: bytes
    content_type: str


@cache
def assets() -> dict[str, Asset]:
    """The assets by the names that they are served under: `page.1a2b3c4d.js`."""
    found = {}
    for each in files("gateway.admin.page").joinpath("assets").iterdir():
        stem, _, ending = each.name.rpartition(".")
        if ending in _TYPES:
            body = each.read_bytes()
            found[f"{stem}.{hashlib.sha256(body).hexdigest()[:8]}.{ending}"] = Asset(body, _TYPES[ending])
    return found


@cache
def _address(name: str) -> str:
    stem, _, ending = name.rpartition(".")
    return next(f"/assets/{each}" for each in assets() if each.startswith(f"{stem}.") and each.endswith(f".{ending}"))


def serve_asset(request: web.Request) -> web.Response:
    """An asset, to be kept for ever: another content has another name."""
    asset = assets().get(request.match_info["name"])
    if asset is None:
        raise web.HTTPNotFound
    headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    return web.Response(body=asset.body, content_type=asset.content_type, headers=headers)


@dataclass(frozen=True, slots=True)
class Page:
    """One page, without its frame."""

    path: str
    """Of the entry in the navigation."""
    title: str
    body: Html
    scripts: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    status: int = 200
    pause: int | None = 0
    """For how many seconds, at least, it does not ask for itself again; None: nothing on it changes by itself."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around a page."""

    status: Status
    caller: Caller | None
    address: str
    """Of the page, with its query: where signing in leads back to."""
    has_search: bool = False
    """Whether similar calls can be found here."""
    has_tenants: bool = False

    @property
    def kind(self) -> str:
        """`sidecar`, or `receiver` where it has a store."""
        stores = {"sqlite", "postgres", "clickhouse"}
        return "receiver" if any(each.type in stores for each in self.status.destinations) else "sidecar"


def respond(page: Page, frame: Frame) -> web.Response:
    """The page in its frame."""
    return web.Response(text=_document(page, frame), content_type="text/html", headers=PAGE_HEADERS, status=page.status)


Render = Callable[[web.Request, Frame], Awaitable[Page]]
Shown = Callable[[Render], Callable[[web.Request], Awaitable[web.Response]]]
"""Puts what is rendered into its frame."""


def trouble_page(path: str, title: str, reason: str) -> Page:
    """In place of a page that cannot be shown at the moment."""
    body = tag("section", tag("h1", title, id="title"), tag("p", reason),
               tag("p", tag("a", "Try again", class_="button", href="")), class_="card",
               aria_labelledby="title")  # fmt: skip
    return Page(path, title, body, status=503)


def _document(page: Page, frame: Frame) -> str:
    status, session = frame.status, frame.caller.session if frame.caller else None
    styles = [tag("link", rel="stylesheet", href=_address(name)) for name in (*page.styles, "page.css")]
    scripts = [Html(f'<script src="{_address(name)}" defer></script>') for name in (*page.scripts, "page.js")]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="csrf", content=session.csrf) if session else None,
        tag("title", f"{page.title} - callspool"),
        tag("link", rel="icon", href=_address("icon.svg"), type="image/svg+xml"),
        styles,
        scripts,
    )
    body = tag(
        "body",
        tag("a", "Skip to content", class_="skip", href="#main"),
        tag("header", tag("div", _brand_and_navigation(page, frame), _moment(frame)), class_="top"),
        tag(
            "main",
            _strip(page, status),
            page.body,
            id="main",
            tabindex="-1",
            data_pause="never" if page.pause is None else page.pause,
        ),
        tag("footer", _footer(frame), class_="foot"),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _brand_and_navigation(page: Page, frame: Frame) -> Html:
    entries: list[tuple[str, str, Node]] = [
        ("/", "Overview", None),
        ("/calls", "Calls", None),
        ("/dead", "Dead letters", _badge(frame.status)),
        ("/destinations", "Destinations", None),
    ]
    if frame.has_search:
        entries.append(("/similar", "Similar calls", None))
    if frame.has_tenants:
        entries.append(("/tenants", "Tenants", None))
    entries.append(("/settings", "Settings", None))
    items = [
        tag("li", tag("a", name, mark, href=path, aria_current="page" if path == page.path else None))
        for path, name, mark in entries
    ]
    return markup(
        tag("a", "callspool", class_="brand", href="/"),
        tag("nav", tag("ul", items), aria_label="Pages", id="pages", data_live=True),
    )


def _badge(status: Status) -> Html | None:
    dead = sum(each.dead for each in status.destinations)
    if not dead:
        return None
    return tag("span", count_text(dead), tag("span", " waiting for a decision", class_="unseen"), class_="badge")


def _moment(frame: Frame) -> Html:
    at = time_of(moment_of(frame.status.now))
    about = tag("span", f"\u00b7 {frame.kind} {frame.status.version}")
    return tag("p", tag("span", "as of ", at, class_="at"), " ", about, class_="live", id="live")


def _strip(page: Page, status: Status) -> Html:
    """The worst trouble, on every page but the overview, where it is the headline."""
    verdict = status.verdict
    without = "The figures are those of the moment shown above, times are UTC; the command line does the same."
    note = tag(
        "noscript", tag("p", tag("b", "Charts, live figures and orders need JavaScript. "), without, class_="strip")
    )
    if page.path == "/" or verdict is None or not verdict.strip:
        return markup(note, tag("div", id="trouble", data_live=True))
    what, _, rest = verdict.strip.partition(": ")
    link = tag("a", tag("b", what, ":"), " ", tag("span", rest), class_="strip", href="/")
    return markup(note, tag("div", link, id="trouble", data_live=True))


def _footer(frame: Frame) -> Html:
    if frame.caller is None or frame.caller.role is None:
        return tag("p", tag("a", "Sign in", href=f"/sign-in?{urlencode({'to': frame.address})}"))
    who = f"{frame.caller.who}, role {frame.caller.role.word}"
    if frame.caller.session is None:
        return tag("p", who)
    out = tag("form", tag("button", "Sign out", type="submit", class_="quiet"), method="post", action="/sign-out")
    return markup(tag("p", who), out)


def sign_in_page(address: str, message: str, path: str = "/sign-in", status: int = 200) -> Page:
    """In place of a whole page that may not be shown."""
    card = sign_in_card(address, message, "h1", "a token")
    return Page(path, "Sign in", card, status=status, pause=None)


def sign_in_card(address: str, message: str, heading: str = "h2", needs: str = "the admin token") -> Html:
    """In place of what may not be shown: why, and a field for the token."""
    form = tag(
        "form",
        tag("input", type="hidden", name="to", value=address),
        tag(
            "label",
            tag("span", "Token"),
            tag("input", type="password", name="token", autocomplete="current-password", required=True),
        ),
        tag("button", "Sign in", type="submit", class_="first"),
        method="post",
        action="/sign-in",
        class_="ask",
    )
    hint = told(
        "A token of the configuration, or the one in the file `admin-token` of the spool's directory. A cookie stands "
        "for it for 12 hours, until you sign out or the gateway restarts; the token itself is not kept."
    )
    return tag(
        "section",
        tag(heading, f"This needs {needs}", id="sign-in"),
        tag("p", message, class_="soft"),
        form,
        tag("p", hint, class_="soft"),
        class_="card signin",
        aria_labelledby="sign-in",
    )


def with_times(text: str) -> Html:
    """A sentence of the verdict: `code`, and times between braces."""
    pieces = _TIME.split(text)
    return markup(time_of(moment_of(piece)) if number % 2 else told(piece) for number, piece in enumerate(pieces))


def data_block(name: str, document: bytes) -> Html:
    """JSON for a script, in the page: no browser takes it for markup or runs it."""
    text = document.decode("utf-8", "replace").replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return Html(f'<script type="application/json" id="{escaped(name)}">{text}</script>')


def json_block(name: str, value: object) -> Html:
    """The same of a value."""
    return data_block(name, json.dumps(value, separators=(",", ":")).encode())
