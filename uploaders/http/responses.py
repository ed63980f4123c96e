"""What a response to a delivery means, or that none came: from status, headers and the start of the body to an outcome.

| response                                                | outcome                                           |
|---------------------------------------------------------|---------------------------------------------------|
| 2xx                                                     | delivered, but for the two rows below             |
| 2xx whose body reports a failure (`confirmation`)       | this delivery is retried                          |
| 2xx, a web page                                         | the destination is paused: wrong address          |
| 2xx around a function's own `statusCode`                | as that status                                    |
| "call log not found", or 404, to a detail or a notice   | retried for a day: its core has not settled there |
| 3xx, 407, 508                                           | the destination is paused: wrong address or proxy |
| 401, 403                                                | the token is paused                               |
| 413; 400 or 500 with "Request Entity Too Large"         | refused for its size alone                        |
| 429, 503                                                | the whole destination waits                       |
| 408, 409, 421, 423, 424, 425, other 5xx                 | this delivery is retried                          |
| any other 4xx with Retry-After                          | this delivery is retried                          |
| any other 4xx                                           | refused: a dead letter, if others are accepted    |

409 is what a server says that still processes the request of an earlier attempt with the same Idempotency-Key. A
redirect is never followed, and no reason to give up a record: following a 302 turns a POST into a GET, and a login
page's 200 would count as delivered; as a refusal of each record it would empty the queue into the dead letters.
"""

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp

from spool.records import FORMS_AFTER_CORE, Form
from uploaders.base import RETRY_AFTER_LIMIT_SECONDS, Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.http.confirmation import Answer, Verdict, read, text_of
from uploaders.http.connection import BadAnswer
from uploaders.http.options import Rule
from uploaders.http.timeouts import Phase, TimedOut
from uploaders.redact import excerpt

MOST_LAYERS = 3
"""Responses within responses that are looked into: each is parsed anew, and 64 KiB hold thousands."""
NOT_FOUND_GIVE_UP_SECONDS = 24 * 3600.0
"""How long a detail is sent again while its core is not known there."""

TOO_LARGE_ADVICE = (
    "let details go to an S3 bucket, or set when_too_large of this destination to "
    '"presigned", "s3", "critical" or "top_n"'
)

_WEB_PAGE_ADVICE = (
    "a web page, for example of a login or a proxy, confirms nothing: set the endpoint's own address as url"
)
_PAUSING = {
    407: "the proxy wants credentials: put them into HTTPS_PROXY",
    508: "a loop: what is sent to this address comes back to callspool; set the endpoint's own address as url",
}
"""Statuses that pause the destination, and what to do."""
_NOT_FOUND = "call log not found"
_TOO_LARGE = "request entity too large"
_DELAY_SECONDS = re.compile(r"0*([0-9]{1,9})(\.[0-9]*)?", re.ASCII)
_ABSURD_SECONDS = re.compile(r"[0-9]{10,}(\.[0-9]*)?", re.ASCII)


_MAYBE_THE_ADDRESS = frozenset({404, 405, 410})
"""What a server answers where nothing is mounted, for example while the endpoint is being deployed."""
_ABOUT_THE_MOMENT = frozenset({408, 409, 421, 423, 424, 425})
"""Statuses of the 4xx class that say nothing about the record."""


def judge(
    answer: Answer,
    form: Form,
    *,
    sent_bytes: int,
    now: int,
    secrets: Sequence[str] = (),
    delivered_when: Sequence[Rule] = (),
    layers: int = MOST_LAYERS,
) -> Outcome:
    """What this response to a delivery of this form means; `secrets` never appear in the reason."""
    success = 200 <= answer.status < 300
    reading = read(answer, delivered_when) if success else None
    if reading is not None and reading.wrapped is not None and layers:
        inner = judge(reading.wrapped, form, sent_bytes=sent_bytes, now=now, secrets=secrets, layers=layers - 1)
        return inner if isinstance(inner, Delivered) else replace(inner, reason=f"HTTP 2xx around {inner.reason}")
    if reading is not None and reading.verdict is Verdict.CONFIRMED:
        return Delivered()
    text = text_of(answer)
    reason = f"HTTP {answer.status}: {excerpt(text, secrets)}".removesuffix(": ")
    if reading is not None and reading.verdict is Verdict.WEB_PAGE:
        return Refused(f"{reason} ({_WEB_PAGE_ADVICE})", Scope.DESTINATION)
    if form in FORMS_AFTER_CORE and (answer.status == 404 or _NOT_FOUND in text.lower()):
        return RetryLater(reason, give_up_after_seconds=NOT_FOUND_GIVE_UP_SECONDS)
    if reading is not None:
        return RetryLater(f"{reason} ({reading.reason})")
    too_large = answer.status == 413 or (answer.status in {400, 500} and _TOO_LARGE in text.lower())
    advice = f" ({sent_bytes} bytes were sent; {TOO_LARGE_ADVICE})" if too_large else ""
    return _judge_status(answer, reason + advice, parse_retry_after(answer.retry_after, now), too_large=too_large)


def _judge_status(answer: Answer, reason: str, after: float | None, *, too_large: bool) -> Outcome:
    status = answer.status
    if 300 <= status < 400:
        return Refused(_redirect_reason(answer), Scope.DESTINATION)
    if status in _PAUSING:
        return Refused(f"{reason} ({_PAUSING[status]})", Scope.DESTINATION)
    if status in {401, 403}:
        return Refused(reason, Scope.CREDENTIAL)
    if status in {429, 503}:
        return RetryLater(reason, Scope.DESTINATION, after)
    about_the_moment = status in _ABOUT_THE_MOMENT or not 400 <= status < 500
    if after is not None or (about_the_moment and not too_large):
        return RetryLater(reason, after_seconds=after)
    return Refused(reason, too_large=too_large, maybe_address=status in _MAYBE_THE_ADDRESS)


def parse_retry_after(value: str | None, now: int) -> float | None:
    """Seconds that a `Retry-After` header asks for (RFC 9110, 10.2.3), at most an hour; None if it says nothing.

    Takes delay-seconds (a fraction is tolerated) and an HTTP-date; a date in the past is 0.
    """
    text = (value or "").strip()
    if _ABSURD_SECONDS.fullmatch(text):
        return RETRY_AFTER_LIMIT_SECONDS
    if _DELAY_SECONDS.fullmatch(text):
        return min(float(text), RETRY_AFTER_LIMIT_SECONDS)
    try:
        when = parsedate_to_datetime(text)
        aware = when if when.tzinfo else when.replace(tzinfo=UTC)
        seconds = aware.timestamp() - now / 1000
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT_SECONDS)


def _redirect_reason(answer: Answer) -> str:
    """Names where it leads without the query, which may hold a ticket."""
    try:
        parts = urlsplit(answer.location or "")
        target = f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else parts.path
    except ValueError:
        target = ""
    where = excerpt(target) or "nowhere"
    return f"HTTP {answer.status} redirects to {where}: redirects are not followed, set the final address as url"


# No response: the errors of HTTP clients, as outcomes.
#
# Without a connection nothing reaches the destination, so all its deliveries wait; where a connection broke or went
# silent, only this delivery is known to have failed.

NETWORK_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""What a request may raise because of the network or the peer."""

_UNREACHABLE: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (aiohttp.ConnectionTimeoutError, "no connection in time (connect_timeout)"),
    (aiohttp.ClientHttpProxyError, "the proxy refused to connect: {detail}"),
    (aiohttp.ClientProxyConnectionError, "the proxy cannot be reached: {detail}"),
    (aiohttp.ClientConnectorCertificateError, "TLS: {detail} (set ca_file for a private authority)"),
    ((aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch), "TLS failed: {detail}"),
    (aiohttp.ClientConnectorDNSError, "the host name cannot be resolved"),
    (aiohttp.ClientConnectorError, "cannot connect: {detail}"),
    ((aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError), "the address is not a valid HTTP URL"),
)
"""Errors of connecting; the first row that matches counts, so special cases stand before general ones."""

_SILENT = {
    Phase.SEND: "the server stopped reading the request",
    Phase.FIRST_BYTE: "the server read the request and did not respond",
    Phase.ANSWER: "the response did not end",
}
"""What the server did in the phase in which a time-out expired."""


def outcome_of(error: Exception) -> RetryLater:
    """The outcome of a network error; names no addresses or headers, since both may hold secrets."""
    if isinstance(error, TimedOut):
        return _timed_out(error)
    unreachable = _unreachable_reason(error)
    if unreachable is not None:
        return RetryLater(unreachable, Scope.DESTINATION)
    if isinstance(error, asyncio.TimeoutError):
        return RetryLater("no response in time (read_timeout)")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return RetryLater("the connection was closed before a response")
    if isinstance(error, BadAnswer | aiohttp.ClientResponseError):
        return RetryLater("the response is not HTTP")
    return RetryLater(f"the connection broke: {_detail(error)}")


def _timed_out(error: TimedOut) -> RetryLater:
    """Names the time-out that expired, and what the server was doing."""
    within = f"within {error.seconds:g} s ({error.setting})"
    if error.phase is Phase.CONNECT:
        return RetryLater(f"no connection {within}", Scope.DESTINATION)
    return RetryLater(f"{_SILENT[error.phase]} {within}")


def _unreachable_reason(error: Exception) -> str | None:
    for kinds, reason in _UNREACHABLE:
        if isinstance(error, kinds):
            return reason.format(detail=_detail(error))
    return None


def _detail(error: Exception) -> str:
    """The words of the proxy's status, of the certificate check or the operating system, else the error's name."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"HTTP {error.status}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(getattr(error.certificate_error, "verify_message", "certificate not accepted"))
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
        # The event loop's own text names the address, and the operating system's says the same without.
        return f"{os.strerror(cause.errno)} ({type(cause).__name__})"
    return type(cause).__name__
