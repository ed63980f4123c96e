"""Reading the answers of a server, as little as the load generator needs of them."""

import pytest

from bench.connection import BadAnswer, status_of

HEAD = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (HEAD + b"{}", 202),
        (HEAD + b"{", None),
        (HEAD[:-2], None),
        (b"", None),
        (HEAD.replace(b"Content-Length", b"content-length") + b"{}", 202),
        (b"HTTP/1.1 507 Full\r\nContent-Length: 0\r\n\r\n", 507),
    ],
    ids=["whole", "body-missing", "head-missing", "nothing", "lower-case", "no-body"],
)
def test_an_answer_counts_when_it_is_complete(answer: bytes, status: int | None) -> None:
    """The status is known once the whole answer is there, not before."""
    assert status_of(answer) == status


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"SSH-2.0\r\nContent-Length: 0\r\n\r\n"],
    ids=["chunked", "not-http"],
)
def test_an_answer_of_another_kind_is_an_error(answer: bytes) -> None:
    """What this reader does not understand must not be counted as anything."""
    with pytest.raises(BadAnswer):
        status_of(answer)
