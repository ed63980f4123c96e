"""Which route a path takes."""

import pytest

from gateway.intake.responses import Rejection
from gateway.intake.routes import Match, Route, match


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/send-call-log", Match(Route.SEND_CALL_LOG)),
        ("POST", "/dev/send-call-log", Match(Route.SEND_CALL_LOG, "/dev")),
        ("POST", "/a/b/send-call-log/", Match(Route.SEND_CALL_LOG, "/a/b")),
        ("POST", "/v1/calls", Match(Route.CALLS)),
        ("POST", "/v1/calls/", Match(Route.CALLS)),
        ("POST", "/v1/calls/batch", Match(Route.BATCH)),
        ("POST", "/dev/get-upload-url", Match(Route.UPLOAD_URL, "/dev")),
        ("PUT", "/uploads/a-b_c", Match(Route.UPLOAD, "", "a-b_c")),
        ("PUT", "/dev/uploads/abc", Match(Route.UPLOAD, "/dev", "abc")),
        ("GET", "/v1/calls/abc", Match(Route.TRACE, "", "abc")),
        ("GET", "/v1/calls/batch", Match(Route.TRACE, "", "batch")),
        ("GET", "/v1/calls/a%2Fb%20%C3%A9", Match(Route.TRACE, "", "a/b é")),
        ("GET", "/v1/calls/a/b", Match(Route.TRACE, "", "a/b")),
    ],
)
def test_known_paths(method: str, path: str, expected: Match) -> None:
    """Fixed names under any prefix, and what stands behind them decoded."""
    assert match(method, path) == expected


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
