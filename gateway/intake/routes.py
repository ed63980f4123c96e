"""Which route a request takes: a function of its method and path."""

from collections.abc import Mapping
from enum import StrEnum
from urllib.parse import unquote

import msgspec

from gateway.intake.refusals import Refusal


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

    Raises `Refusal`: 404 for an unknown path, 405 for a method that its route does not have.
    """
    found = _find(method, path[:-1] if path.endswith("/") and len(path) > 1 else path)
    if found is None:
        raise Refusal(404, "no_such_route", "There is nothing at this path.", _HINT)
    allowed = _METHOD[found.route]
    if method != allowed:
        raise Refusal(405, "wrong_method", f"This path takes {allowed}, not {method[:20]}.", _HINT, allow=allowed)
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
