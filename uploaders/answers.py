"""What an endpoint's answer means: pure, from status, headers and the beginning of the body to an outcome.

| answer                                                  | outcome                                          |
|---------------------------------------------------------|--------------------------------------------------|
| 2xx                                                     | delivered, unless JSON says `"success": false`   |
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

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from spool.records import Form
from uploaders.reasons import excerpt
from uploaders.retry import parse_retry_after
from uploaders.uploader import Delivered, Outcome, Refused, RetryLater, Scope

NOT_FOUND_GIVE_UP_SECONDS = 24 * 3600.0
"""How long a detail is sent again while its core is not known there."""

TOO_LARGE_ADVICE = (
    "let details go to an S3 bucket, or set when_too_large of this destination to "
    '"presigned", "s3", "critical" or "top_n"'
)

_NOT_FOUND = "call log not found"
_TOO_LARGE = "request entity too large"
_FOLLOWERS = frozenset({Form.DETAIL, Form.REDUCED, Form.NOTICE})
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Answer:
    """What is looked at of a response. `body` is its beginning."""

    status: int
    body: bytes
    retry_after: str | None = None
    location: str | None = None


def judge(answer: Answer, form: Form, *, sent_bytes: int, now: int, secrets: Sequence[str] = ()) -> Outcome:
    """What this answer to a delivery of this form means; `secrets` never appear in the reason."""
    text = answer.body.decode(errors="replace")
    reason = f"HTTP {answer.status}: {excerpt(text, secrets)}".removesuffix(": ")
    success = 200 <= answer.status < 300
    if success and not _says_failure(answer.body):
        return Delivered()
    if form in _FOLLOWERS and (answer.status == 404 or _NOT_FOUND in text.lower()):
        return RetryLater(reason, give_up_after_seconds=NOT_FOUND_GIVE_UP_SECONDS)
    if success:
        return RetryLater(reason)
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


def _redirect_reason(answer: Answer) -> str:
    """Names where it leads without the query, which may hold a ticket."""
    try:
        parts = urlsplit(answer.location or "")
        target = f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else parts.path
    except ValueError:
        target = ""
    where = excerpt(target) or "nowhere"
    return f"HTTP {answer.status} redirects to {where}: redirects are not followed, set the final address as url"


def _says_failure(body: bytes) -> bool:
    """Whether it is a JSON object with `"success": false`; anything else is no news after a 2xx."""
    try:
        return bytes(_MEMBERS.decode(body).get("success", b"")) == b"false"
    except msgspec.DecodeError:
        return False
