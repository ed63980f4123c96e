"""What an endpoint's answer means: pure, from status, headers and the beginning of the body to an outcome.

| answer                                                  | outcome                                          |
|---------------------------------------------------------|--------------------------------------------------|
| 2xx                                                     | delivered, but for the two rows below            |
| 2xx, JSON with `"success": false`, or JSON that is none | this delivery is retried                         |
| 2xx, a web page                                         | the destination is paused: wrong address         |
| "call log not found", or 404, to a detail or a notice   | retried for a day: its core has not settled there |
| 3xx, 407                                                | the destination is paused: wrong address or proxy |
| 401, 403                                                | the token is paused                              |
| 413; 400 or 500 with "Request Entity Too Large"         | refused for its size alone                       |
| 429, 503                                                | the whole destination waits                      |
| 408, 425, other 5xx                                     | this delivery is retried                         |
| other 4xx                                               | refused: a dead letter                           |

A redirect is never followed, and no reason to give up a record: following a 302 turns a POST into a GET, and a login
page's 200 would count as delivered; as a refusal of each record it would empty the queue into the dead letters.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from urllib.parse import urlsplit

import msgspec

from spool.records import FORMS_AFTER_CORE, Form
from uploaders.base import RETRY_AFTER_LIMIT_SECONDS, Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.redact import excerpt

NOT_FOUND_GIVE_UP_SECONDS = 24 * 3600.0
"""How long a detail is sent again while its core is not known there."""

TOO_LARGE_ADVICE = (
    "let details go to an S3 bucket, or set when_too_large of this destination to "
    '"presigned", "s3", "critical" or "top_n"'
)

_NOT_FOUND = "call log not found"
_TOO_LARGE = "request entity too large"
_DELAY_SECONDS = re.compile(r"0*([0-9]{1,9})(\.[0-9]*)?", re.ASCII)
_ABSURD_SECONDS = re.compile(r"[0-9]{10,}(\.[0-9]*)?", re.ASCII)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_WEB_PAGE = re.compile(rb"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)
_BEGINS_WITH_FAILURE = re.compile(rb'\s*\{[^{}\[\]]{0,4096}?"success"\s*:\s*false\b')
"""In an object, before anything nested."""


class _Doubt(StrEnum):
    """What makes a 2xx no confirmation of a delivery."""

    SAYS_FAILURE = "the body reports a failure"
    NO_JSON = "the body is not valid JSON although its content type says so"
    WEB_PAGE = "a web page, for example of a login or a proxy, confirms nothing: set the endpoint's own address as url"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is looked at of a response. `body` is its beginning."""

    status: int
    body: bytes
    retry_after: str | None = None
    location: str | None = None
    content_type: str | None = None
    """Without its parameters."""
    whole: bool = True
    """False where there was more of the body than its beginning."""


def judge(answer: Answer, form: Form, *, sent_bytes: int, now: int, secrets: Sequence[str] = ()) -> Outcome:
    """What this answer to a delivery of this form means; `secrets` never appear in the reason."""
    success = 200 <= answer.status < 300
    doubt = _doubt(answer) if success else None
    if success and doubt is None:
        return Delivered()
    text = answer.body.decode(errors="replace")
    reason = f"HTTP {answer.status}: {excerpt(text, secrets)}".removesuffix(": ")
    if doubt is _Doubt.WEB_PAGE:
        return Refused(f"{reason} ({doubt})", Scope.DESTINATION)
    if form in FORMS_AFTER_CORE and (answer.status == 404 or _NOT_FOUND in text.lower()):
        return RetryLater(reason, give_up_after_seconds=NOT_FOUND_GIVE_UP_SECONDS)
    if success:
        return RetryLater(f"{reason} ({doubt})")
    if answer.status == 413 or (answer.status in {400, 500} and _TOO_LARGE in text.lower()):
        return Refused(f"{reason} ({sent_bytes} bytes were sent; {TOO_LARGE_ADVICE})", too_large=True)
    return _judge_status(answer, reason, parse_retry_after(answer.retry_after, now))


def _judge_status(answer: Answer, reason: str, after: float | None) -> Outcome:
    status = answer.status
    if 300 <= status < 400:
        return Refused(_redirect_reason(answer), Scope.DESTINATION)
    if status == 407:
        return Refused(f"{reason} (the proxy wants credentials: put them into HTTPS_PROXY)", Scope.DESTINATION)
    if status in {401, 403}:
        return Refused(reason, Scope.CREDENTIAL)
    if status in {429, 503}:
        return RetryLater(reason, Scope.DESTINATION, after)
    if status in {408, 425} or not 400 <= status < 500:
        return RetryLater(reason, after_seconds=after)
    return Refused(reason)


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


def _doubt(answer: Answer) -> _Doubt | None:
    """Why a 2xx is no confirmation; None where it is one.

    An empty body is fine, and so is any text that does not claim to be JSON. Of an answer that is longer than what was
    read of it, only what stands at its beginning is known.
    """
    if answer.content_type == "text/html" or _WEB_PAGE.match(answer.body):
        return _Doubt.WEB_PAGE
    if not answer.whole:
        return _Doubt.SAYS_FAILURE if _BEGINS_WITH_FAILURE.match(answer.body) else None
    try:
        failed = bytes(_MEMBERS.decode(answer.body).get("success", b"")) == b"false"
    except msgspec.ValidationError:
        return None
    except msgspec.DecodeError:
        is_json = answer.content_type is not None and answer.content_type.endswith("json")
        return _Doubt.NO_JSON if is_json and answer.body.strip() else None
    return _Doubt.SAYS_FAILURE if failed else None
