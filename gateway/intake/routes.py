"""Which route a request takes: a function of its method and path."""

import hmac
from collections.abc import Mapping
from enum import StrEnum
from urllib.parse import unquote

import msgspec
from aiohttp import web

from gateway.intake.responses import Rejection


class Route(StrEnum):
    """What a request asks for. The values label metrics."""

    SEND_CALL_LOG = "send_call_log"
    """`POST [/any/prefix]/send-call-log`, where the SDK posts to."""
    CALLS = "calls"
    """`POST /v1/calls`, one call log."""
    BATCH = "batch"
    """`POST /v1/calls/batch`, one call log a line."""
    UPLOAD_URL = "upload_url"
    """`POST [/any/prefix]/get-upload-url`."""
    UPLOAD = "upload"
    """`PUT [/any/prefix]/uploads/SECRET`, the address that get-upload-url gave."""
    TRACE = "trace"
    """`GET /v1/calls/CALL_ID`, what became of a call."""
    NONE = "none"
    """Nothing that there is; a label, never matched."""


class Match(msgspec.Struct, frozen=True):
    """A route with what its path says."""

    route: Route
    prefix: str = ""
    """What stands before the route's own path, as it was sent."""
    argument: str = ""
    """The secret or the call id, decoded."""


_METHOD: Mapping[Route, str] = {
    Route.SEND_CALL_LOG: "POST",
    Route.CALLS: "POST",
    Route.BATCH: "POST",
    Route.UPLOAD_URL: "POST",
    Route.UPLOAD: "PUT",
    Route.TRACE: "GET",
}
_BY_LAST_PART = {"send-call-log": Route.SEND_CALL_LOG, "get-upload-url": Route.UPLOAD_URL}
_CALLS = "/v1/calls"
_BATCH = f"{_CALLS}/batch"
_HINT = (
    "POST /send-call-log, /get-upload-url (any prefix before them), /v1/calls or /v1/calls/batch; "
    "PUT to an upload_url; GET /v1/calls/{call_id}."
)


def match(method: str, path: str) -> Match:
    """The route of a request; `path` is percent-encoded, as it was sent, and without its query.

    Raises `Rejection`: 404 for an unknown path, 405 for a method that its route does not have.
    """
    found = _find(method, path[:-1] if path.endswith("/") and len(path) > 1 else path)
    if found is None:
        raise Rejection(404, "no_such_route", "There is nothing at this path.", _HINT)
    allowed = _METHOD[found.route]
    if method != allowed:
        raise Rejection(405, "wrong_method", f"This path takes {allowed}, not {method[:20]}.", _HINT, allow=allowed)
    return found


def _find(method: str, path: str) -> Match | None:
    prefix, _, last = path.rpartition("/")
    route = _BY_LAST_PART.get(last)
    if route is not None:
        return Match(route, prefix)
    if path == _CALLS:
        return Match(Route.CALLS)
    if path == _BATCH and method == "POST":
        return Match(Route.BATCH)
    if path.startswith(f"{_CALLS}/"):
        return Match(Route.TRACE, argument=unquote(path[len(_CALLS) + 1 :]))
    if prefix.endswith("/uploads"):
        return Match(Route.UPLOAD, prefix.removesuffix("/uploads"), unquote(last))
    return None


# Credentials of a request: the intake's own token, and the agent's key that destinations may be sent.
#
# The SDK has one header for a key, `x-pype-token`. Where the intake has a token of its own and the header equals
# it, the header is the intake's credential and never leaves this process; only a `token` in the body is then the
# agent's key. An agent that has both sends the intake's token as a bearer, and its key in the header.

HEADER = "x-pype-token"
_LONGEST = 8190
"""What a header can carry at most towards common servers."""


class IntakeToken:
    """The token that agents must present; with None every request is let in."""

    def __init__(self, token: str | None) -> None:
        self._token = token.encode() if token is not None else None

    def check(self, request: web.BaseRequest) -> None:
        """Return if the request may come in; raises `Rejection` (401) otherwise."""
        if self._token is None or self._equals(request.headers.get(HEADER)):
            return
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._equals(bearer.strip()):
            return
        raise Rejection(
            401,
            "unauthorized",
            "The intake's token is missing or wrong.",
            f"Send the token of this gateway's configuration as {HEADER} or as Authorization: Bearer.",
        )

    def agents_key(self, request: web.BaseRequest) -> str | None:
        """The agent's own key from the header, if it is one and not the intake's token."""
        return self.foreign(request.headers.get(HEADER))

    def foreign(self, key: str | None) -> str | None:
        """The key, if a header can carry it and it is not the intake's own token."""
        return None if key is None or self._equals(key) else usable(key)

    def _equals(self, presented: str | None) -> bool:
        if self._token is None or presented is None:
            return False
        return hmac.compare_digest(presented.encode("utf-8", "surrogateescape"), self._token)


def usable(key: str | None) -> str | None:
    """The key, if a header can carry it: not empty, not too long, printable."""
    if not key or len(key) > _LONGEST or not key.isprintable():
        return None
    return key
