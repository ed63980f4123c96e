"""The routes of the pages, of their assets, of signing in, and of the events that keep pages up to date."""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from gateway.admin.answers import HEADERS, form_of, refused
from gateway.admin.auth import REFUSAL, Access, set_cookie
from gateway.admin.events import RecentEvents
from gateway.admin.page.call_pages import CallPages
from gateway.admin.page.layout import Frame, Page, Render, respond, serve_asset, sign_in_page
from gateway.admin.page.operator_pages import OperatorPages
from gateway.admin.page.overview import overview_page
from gateway.admin.page.receiver_pages import ReceiverPages
from gateway.admin.status import for_everyone, status_of
from gateway.admin.view import GatewayView
from gateway.operations.schemas import Status

TICK_SECONDS = 1.0
"""How often the status is looked at for those who follow it; a heartbeat goes out as often."""
MOST_FOLLOWERS = 50
_encode = msgspec.json.Encoder().encode


async def current_status(gateway: GatewayView, events: RecentEvents) -> Status:
    """The gateway as it is now, for whoever may see everything."""
    stats, free = gateway.spool_stats(), gateway.disk_free_bytes()
    return status_of(
        now=gateway.now(),
        lifecycle=gateway.lifecycle,
        stats=stats,
        intake_obstacle=await gateway.intake_obstacle(),
        destinations=gateway.destinations(),
        outboxes=gateway.outboxes(),
        throttle=gateway.drain_throttle(),
        events=events.recent(),
        pace=gateway.recorder.pace(stats, free),
        targets=gateway.targets(),
    )


class PageHandlers:
    """Answers the requests of browsers."""

    def __init__(self, gateway: GatewayView, events: RecentEvents, access: Access) -> None:
        self._gateway = gateway
        self._events = events
        self._access = access
        self._followers = Followers(gateway, events)

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        add_get = app.router.add_get
        add_get("/", self._shown(self.overview))
        CallPages(self._gateway, self._access).add_to(app, self._shown)
        OperatorPages(self._gateway, self._access).add_to(app, self._shown)
        ReceiverPages(self._gateway).add_to(app, self._shown)
        add_get("/sign-in", self._shown(self.sign_in_field))
        app.router.add_post("/sign-in", self.sign_in)
        app.router.add_post("/sign-out", self.sign_out)
        add_get("/assets/{name}", self.asset)
        add_get("/api/events", self.events, allow_head=False)
        app.on_shutdown.append(self._followers.end)

    async def overview(self, _request: web.Request, frame: Frame) -> Page:
        """Whether all is well."""
        return overview_page(frame.status, self._gateway.recorder.history, self._gateway.intake_address)

    async def asset(self, request: web.Request) -> web.Response:
        """A script, a style or the icon."""
        return serve_asset(request)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: see `Followers`."""
        return await self._followers.follow(request, complete=self._access.may_see_calls(request))

    # Signing in ------------------------------------------------------------------------------------------------

    async def sign_in_field(self, request: web.Request, _frame: Frame) -> Page:
        """A field for the token."""
        return sign_in_page(_own_path(request.query.get("to", "/")), "Sign in to see calls and to give orders.")

    async def sign_in(self, request: web.Request) -> web.Response:
        """Begin a session for whoever knows a token, and lead back to where it was asked for."""
        form = await form_of(request)
        path = _own_path(form.get("to", "/"))
        result = self._access.sign_in(request, form.get("token", "").strip())
        if isinstance(result, web.Response):
            error = msgspec.json.decode(result.body)["error"]["message"] if isinstance(result.body, bytes) else ""
            frame = await self._frame(request)
            return respond(sign_in_page(path, error, status=result.status), frame)
        response = web.Response(status=303, headers={**HEADERS, "Location": path})
        set_cookie(response, request, result)
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """End the session of this browser."""
        self._access.sessions.end(request)
        response = web.Response(status=303, headers={**HEADERS, "Location": "/"})
        set_cookie(response, request, "")
        return response

    # Every page ------------------------------------------------------------------------------------------------

    def _shown(self, render: Render) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Put the page into its frame; in place of one that may not be shown stands why, and a way to sign in."""

        async def handle(request: web.Request) -> web.Response:
            frame, refusal = await self._frame(request), request.get(REFUSAL)
            if refusal is None:
                return respond(await render(request, frame), frame)
            message = msgspec.json.decode(refusal.body)["error"]["message"] if isinstance(refusal.body, bytes) else ""
            return respond(sign_in_page(request.path_qs, message, request.path, refusal.status), frame)

        return handle

    async def _frame(self, request: web.Request) -> Frame:
        status = await current_status(self._gateway, self._events)
        if not self._access.may_see_calls(request):
            status = for_everyone(status)
        return Frame(
            status,
            self._access.caller_of(request),
            request.path_qs,
            has_search=self._gateway.pipeline is not None,
            has_tenants=self._gateway.tenant_admin is not None,
        )


def _own_path(to: str) -> str:
    """A path of this listener: never the address of another."""
    try:
        parts = urlsplit(to)
    except ValueError:  # half an IPv6 address
        return "/"
    fine = not parts.scheme and not parts.netloc and to.startswith("/") and not to.startswith(("//", "/\\"))
    return to if fine and to.isprintable() else "/"


class Followers:
    """Pages that follow the gateway by server-sent events.

    `status` comes at most once a second, and only when something changed: a page then asks for itself and takes over
    what is new. `sample` is a minute of the history, and its number the id of the event, so that a page that comes
    back gets what it missed. `beat` says that the gateway lives. One look at the status serves all pages.
    """

    def __init__(self, gateway: GatewayView, events: RecentEvents) -> None:
        self._gateway = gateway
        self._events = events
        self._count = 0
        self._ended = asyncio.Event()
        self._looked_at = 0.0
        self._digest = b""

    async def end(self, _app: web.Application) -> None:
        """End all streams: the gateway stops."""
        self._ended.set()

    async def follow(self, request: web.Request, *, complete: bool) -> web.StreamResponse:
        """One page's stream, until it goes away."""
        if self._count >= MOST_FOLLOWERS:
            return refused(503, "too_many_pages", "Too many pages follow this gateway.", "Close some of them.")
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        self._count += 1
        try:
            await response.prepare(request)
            await self._send_until_ended(response, _number(request.headers.get("Last-Event-ID")), complete=complete)
        except ConnectionError:
            pass  # the page was closed, which is how every stream ends
        finally:
            self._count -= 1
        return response

    async def _send_until_ended(self, response: web.StreamResponse, seen: int | None, *, complete: bool) -> None:
        history, known = self._gateway.recorder.history, b""
        minute = seen if seen is not None else history.samples[-1].minute if history.samples else 0
        await response.write(b"retry: 1000\n\n")
        while not self._ended.is_set():
            digest = await self._look()
            lines = [
                f"id: {sample.minute}\nevent: sample\ndata: ".encode() + _encode(sample) + b"\n\n"
                for sample in history.since(minute)[-180:]
            ]
            minute = history.samples[-1].minute if history.samples else minute
            kind = "beat" if digest == known else "status"
            known = digest
            body = b'{"now":%d,"complete":%s}' % (self._gateway.now(), b"true" if complete else b"false")
            await response.write(b"".join(lines) + f"event: {kind}\ndata: ".encode() + body + b"\n\n")
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._ended.wait()
            except TimeoutError:
                continue

    async def _look(self) -> bytes:
        """A digest of what pages show, at most a tick old."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= TICK_SECONDS / 2:
            self._looked_at = now
            status = msgspec.structs.replace(await current_status(self._gateway, self._events), now="")
            self._digest = blake2b(_encode(status), digest_size=8).digest()
        return self._digest


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < 12 else None
