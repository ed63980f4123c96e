"""Which route a path takes."""

from unittest.mock import AsyncMock, Mock

import pytest

from gateway.intake.responses import Rejection
from gateway.intake.routes import Route, Router
from gateway.intake.sources.batch import BatchSource
from gateway.intake.sources.sdk import SdkSource

match = Router([*SdkSource(*[Mock()] * 6).routes(), *BatchSource(*[Mock()] * 7).routes()]).match


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/send-call-log", ("send_call_log",)),
        ("POST", "/dev/send-call-log", ("send_call_log", "/dev")),
        ("POST", "/a/b/send-call-log/", ("send_call_log", "/a/b")),
        ("POST", "/v1/calls", ("calls",)),
        ("POST", "/v1/calls/", ("calls",)),
        ("POST", "/v1/calls/batch", ("batch",)),
        ("POST", "/dev/get-upload-url", ("upload_url", "/dev")),
        ("PUT", "/uploads/a-b_c", ("upload", "", "a-b_c")),
        ("PUT", "/dev/uploads/abc", ("upload", "/dev", "abc")),
        ("GET", "/v1/calls/abc", ("trace", "", "abc")),
        ("GET", "/v1/calls/batch", ("trace", "", "batch")),
        ("GET", "/v1/calls/a%2Fb%20%C3%A9", ("trace", "", "a/b é")),
        ("GET", "/v1/calls/a/b", ("trace", "", "a/b")),
    ],
)
def test_known_paths(method: str, path: str, expected: tuple[str, ...]) -> None:
    """Fixed names under any prefix, and what stands behind them decoded."""
    found = match(method, path)
    name, prefix, argument = (*expected, "", "")[:3]
    assert (found.route.name, found.prefix, found.argument) == (name, prefix, argument)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "", 404),
        ("POST", "/", 404),
        ("POST", "/prefix/v1/calls", 404),
        ("PUT", "/uploads", 404),
        ("GET", "/send-call-log", 405),
        ("post", "/send-call-log", 405),
        ("DELETE", "/v1/calls/abc", 405),
    ],
)
def test_other_paths(method: str, path: str, status: int) -> None:
    """Everything else is 404, or 405 where the path is known."""
    with pytest.raises(Rejection) as rejection:
        match(method, path)
    assert rejection.value.status == status


def test_every_refusal_says_what_this_listener_takes() -> None:
    """The hint of a listener is its own: that of webhooks has none of the routes of agents."""
    webhooks = Router([Route("webhook", "POST", "/webhooks/retell", AsyncMock())], hint="POST to /webhooks/retell.")
    for path in ("/", "/webhooks/retell"):
        with pytest.raises(Rejection) as rejection:
            webhooks.match("GET", path)
        assert rejection.value.hint == "POST to /webhooks/retell."


def test_a_wrong_method_names_those_that_the_path_has() -> None:
    """RFC 9110 wants all of them in Allow."""
    with pytest.raises(Rejection) as rejection:
        match("PUT", "/v1/calls/batch")
    assert rejection.value.allow == "POST, GET"
