"""Who may give orders and read payloads at the admin listener.

With a token in the configuration: clients that present it as a bearer. Without one: only this machine, and no web page
that a browser on this machine shows. Figures, health and traces are for everyone who reaches the listener.
"""

import hmac
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access:
    """Lets requests through to a handler, or refuses them."""

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()

    def order(self, handler: Handler, content_type: str = "application/json") -> Handler:
        """Protects a route that changes something: no page of another site can post its content type."""

        async def checked(request: web.Request) -> web.StreamResponse:
            """Refuse, or go on."""
            if request.content_type != content_type:
                hint = f"Send it with `Content-Type: {content_type}`."
                return refused(
                    415, "wrong_type", f"This route accepts {content_type}, not {request.content_type}.", hint
                )
            return self._refusal(request) or await handler(request)

        return checked

    def secret(self, handler: Handler) -> Handler:
        """Protects a route that shows what call logs hold."""

        async def checked(request: web.Request) -> web.StreamResponse:
            """Refuse, or go on."""
            return self._refusal(request) or await handler(request)

        return checked

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Why this request may not come in; None if it may."""
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            hint = "Use the `callspool` command line, or a client that sends no Origin."
            return refused(403, "cross_site", f"Pages of {origin} are not allowed to do this.", hint)
        if self._token is not None:
            return None if self._presents_token(request) else _unauthorized()
        if _is_this_machine(request.remote) and _is_direct(request.host):
            return None
        hint = "Set admin.token (CALLSPOOL_ADMIN_TOKEN) and present it as a bearer, or ask from the machine itself."
        return refused(403, "local_only", "Without a token, only this machine may do this, by its own address.", hint)

    def _presents_token(self, request: web.Request) -> bool:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        presented = bearer.strip().encode("utf-8", "surrogateescape")
        return scheme.lower() == "bearer" and hmac.compare_digest(presented, self._token or b"")


def _unauthorized() -> web.Response:
    hint = "Present admin.token as `Authorization: Bearer ...`; the command line takes it from CALLSPOOL_ADMIN_TOKEN."
    return refused(401, "unauthorized", "The admin token is missing or wrong.", hint)


def _is_this_machine(remote: str | None) -> bool:
    """Whether the request came over the loopback interface."""
    try:
        return remote is not None and ip_address(remote).is_loopback
    except ValueError:
        return False


def _is_direct(host: str) -> bool:
    """Whether the listener was asked for by its address: a name may be one that a web page had resolved to it."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or bool(ip_address(name))
    except ValueError:
        return False


# How the admin listener answers: JSON documents, and errors that say what happened and what to do.

_encode = msgspec.json.Encoder().encode

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
"""Stand in every answer."""


class _Error(msgspec.Struct):
    code: str
    message: str
    hint: str


class _Refused(msgspec.Struct):
    error: _Error
    success: bool = False


def answer(document: msgspec.Struct, *, status: int = 200) -> web.Response:
    """A document as JSON."""
    return web.Response(body=_encode(document), status=status, content_type="application/json", headers=HEADERS)


def refused(status: int, code: str, message: str, hint: str) -> web.Response:
    """An error, in the shape that all errors of the gateway have."""
    return answer(_Refused(_Error(code, message, hint)), status=status)
