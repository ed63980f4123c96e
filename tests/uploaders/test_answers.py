"""What an endpoint's answer means for a delivery."""

import pytest

from spool.records import Form
from tests.uploaders.deliveries import ACCEPTED_AT
from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.http.confirmation import Answer
from uploaders.http.responses import judge
from uploaders.redact import EXCERPT_CHARACTERS, excerpt

DAY = 24 * 3600.0

RETRY = (RetryLater, Scope.RECORD)
WAIT = (RetryLater, Scope.DESTINATION)
DEAD = (Refused, Scope.RECORD)
TOKEN_REFUSED = (Refused, Scope.CREDENTIAL)
PAUSED = (Refused, Scope.DESTINATION)


def judged(status: int, body: bytes = b"", form: Form = Form.CORE, retry_after: str | None = None) -> Outcome:
    return judge(Answer(status, body, retry_after), form, sent_bytes=123, now=ACCEPTED_AT, secrets=("tok-1",))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, RETRY) for status in (408, 409, 421, 423, 424, 425)),
        *((status, RETRY) for status in (500, 501, 502, 504, 507, 520, 599, 100, 600)),
        *((status, WAIT) for status in (429, 503)),
        *((status, TOKEN_REFUSED) for status in (401, 403)),
        *((status, PAUSED) for status in (300, 301, 302, 303, 304, 307, 308, 407, 508)),
        *((status, DEAD) for status in (400, 404, 405, 406, 410, 413, 415, 422, 451)),
    ],
)
def test_what_a_status_means(status: int, expected: tuple[type, Scope]) -> None:
    """Each status leads to one outcome, and its reason names the status."""
    outcome = judged(status)
    assert isinstance(outcome, RetryLater | Refused)
    assert (type(outcome), outcome.scope) == expected
    assert f"HTTP {status}" in outcome.reason


@pytest.mark.parametrize(
    "body",
    [b"", b'{"success": true}', b"<b>ok</b>", b'{"note": "false"}', b"[1]", b'{"data": {"success": false}}'],
)
@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_2xx_is_delivered(status: int, body: bytes) -> None:
    """Any 2xx is a delivery, unless the body reports a failure or is none of an endpoint."""
    assert judged(status, body) == Delivered()


@pytest.mark.parametrize("body", [b'{"success": false}', b' {"error": "db down", "success" : false }'])
def test_a_2xx_that_says_false_is_retried(body: bytes) -> None:
    """A 2xx whose body says `"success": false` is not delivered, and is the record's affair at first."""
    outcome = judged(200, body)
    assert isinstance(outcome, RetryLater)
    assert (outcome.scope, outcome.give_up_after_seconds) == (Scope.RECORD, None)


@pytest.mark.parametrize("form", [Form.DETAIL, Form.NOTICE])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b""),
        (404, b"<html>not found</html>"),
        (400, b'{"error": "Call log not found"}'),
        (500, b"CALL LOG NOT FOUND"),
        (200, b'{"success": false, "error": "call log not found"}'),
    ],
)
def test_a_detail_that_comes_too_early_is_retried_for_a_day(form: Form, status: int, body: bytes) -> None:
    """A 404, or that text with any status, means that the core has not settled there."""
    outcome = judged(status, body, form)
    assert isinstance(outcome, RetryLater)
    assert (outcome.scope, outcome.give_up_after_seconds) == (Scope.RECORD, DAY)


@pytest.mark.parametrize("form", [Form.CORE, Form.WHOLE])
def test_a_core_is_never_too_early(form: Form) -> None:
    """The same 404 to a core or a whole is a refusal."""
    assert isinstance(judged(404, b"call log not found", form), Refused)


@pytest.mark.parametrize(
    ("status", "body", "too_large"),
    [
        (413, b"", True),
        (400, b"Request Entity Too Large", True),
        (500, b'{"message": "request entity too large"}', True),
        (400, b"bad", False),
        (422, b"Request Entity Too Large", False),
    ],
)
def test_a_refusal_for_size_is_told_apart(status: int, body: bytes, too_large: bool) -> None:
    """Size alone as the reason is marked, tells what was sent and what to configure."""
    outcome = judged(status, body)
    assert isinstance(outcome, Refused)
    assert outcome.too_large is too_large
    assert ("123 bytes were sent" in outcome.reason) is too_large


@pytest.mark.parametrize("status", [400, 404, 405, 410, 413, 422, 451])
def test_a_4xx_that_names_a_time_is_retried_then(status: int) -> None:
    """With Retry-After the server says that the same request may succeed: no refusal of the record."""
    outcome = judged(status, retry_after="1")
    assert isinstance(outcome, RetryLater)
    assert outcome == RetryLater(outcome.reason, after_seconds=1.0)


@pytest.mark.parametrize(("status", "scope"), [(429, Scope.DESTINATION), (503, Scope.DESTINATION), (502, Scope.RECORD)])
def test_retry_after_is_passed_on(status: int, scope: Scope) -> None:
    """The endpoint's own wish reaches the policy, whichever status it comes with."""
    outcome = judged(status, retry_after="17")
    assert isinstance(outcome, RetryLater)
    assert (outcome.scope, outcome.after_seconds) == (scope, 17.0)


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://sso.example:8443/login?ticket=abc#frag", "redirects to https://sso.example/login:"),
        ("https://user:pass@sso.example/", "redirects to https://sso.example/:"),
        ("/login?x=1", "redirects to /login:"),
        ("http://[broken", "redirects to nowhere:"),
        (None, "redirects to nowhere:"),
    ],
)
def test_a_redirect_tells_where_without_secrets(location: str | None, told: str) -> None:
    """The reason names scheme, host and path of the target: never its query, fragment or user."""
    outcome = judge(Answer(302, b"", location=location), Form.CORE, sent_bytes=1, now=0)
    assert isinstance(outcome, Refused)
    assert told in outcome.reason


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("a\n\tb\x00\x1b[31m  c", "a b [31m c"),
        ('{"x-pype-token": "abc123"}', '{"x-pype-token": "***"}'),
        ("token=abc123&x=1", "token=***&x=1"),
        ("api_key: abc123", "api_key: ***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("sent Bearer abc.def-123", "sent Bearer ***"),
        ("you sent own-secret here", "you sent *** here"),
        ("X-Amz-Signature=ab12&X-Amz-Credential=AKIA", "X-Amz-Signature=***&X-Amz-Credential=***"),
    ],
)
def test_an_excerpt_is_one_line_without_credentials(text: str, shown: str) -> None:
    """What an endpoint says is shown on one line, with anything like a credential hidden."""
    assert excerpt(text, ("own-secret", "")) == shown


def test_an_excerpt_is_short() -> None:
    """A long answer is cut, and the cut shows."""
    shown = excerpt("x" * 10_000)
    assert len(shown) == EXCERPT_CHARACTERS
    assert shown.endswith("…")


def test_a_token_that_an_endpoint_echoes_is_hidden() -> None:
    """The token that was sent never appears in a reason, even where an endpoint repeats it."""
    outcome = judged(401, b"no such key: tok-1")
    assert isinstance(outcome, Refused)
    assert outcome.reason == "HTTP 401: no such key: ***"
