"""Sessions of browsers: a person presents a token once, and a cookie stands for it.

The cookie is a random name, nothing else: HttpOnly, so that no script reads it, and SameSite=Strict, so that no page of
another site makes a browser send it. An order must carry the session's CSRF token besides, which only our own pages
know. A session lasts for a working day, until it is closed, its token is no longer configured, or the gateway restarts.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

CSRF_HEADER = "X-CSRF-Token"
LIFETIME_SECONDS = 12 * 3600.0
MOST = 200
"""Sessions at once; the oldest goes for the next."""


@dataclass(frozen=True, slots=True)
class Session:
    """A browser whose person presented a token."""

    token_digest: bytes
    csrf: str
    ends_at: float

    def allows_order(self, request: web.Request) -> bool:
        """Whether a request that changes something was made by our own page."""
        return hmac.compare_digest(self.csrf.encode(), request.headers.get(CSRF_HEADER, "").encode("utf-8", "replace"))


class Sessions:
    """The sessions of one listener, by the hash of their cookies."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[bytes, Session] = {}

    def begin(self, token_digest: bytes) -> str:
        """Begin a session for who presented this token; returns the value of its cookie."""
        now = self._clock()
        self._open = {key: each for key, each in self._open.items() if each.ends_at > now}
        if len(self._open) >= MOST:
            del self._open[next(iter(self._open))]
        cookie = secrets.token_urlsafe(32)
        self._open[_key(cookie)] = Session(token_digest, secrets.token_urlsafe(32), now + LIFETIME_SECONDS)
        return cookie

    def of(self, request: web.Request) -> Session | None:
        """The session that the cookie of a request stands for."""
        cookie = request.cookies.get(cookie_name(request))
        found = self._open.get(_key(cookie)) if cookie else None
        return found if found is not None and found.ends_at > self._clock() else None

    def end(self, request: web.Request) -> None:
        """End the session of a request, if it has one."""
        self._open.pop(_key(request.cookies.get(cookie_name(request), "")), None)


def cookie_name(request: web.Request) -> str:
    """With the port: browsers send a cookie to every port of a host, and each may be another gateway."""
    return f"callspool-session-{request.url.port or 0}"


def set_cookie(response: web.StreamResponse, request: web.Request, cookie: str) -> None:
    """Have the browser keep it; an empty one ends."""
    response.set_cookie(
        cookie_name(request), cookie, httponly=True, samesite="Strict", path="/", secure=request.secure,
        max_age=int(LIFETIME_SECONDS) if cookie else 0,
    )  # fmt: skip


def _key(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()
