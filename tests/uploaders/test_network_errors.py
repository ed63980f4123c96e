"""Errors of the network and of the client library become outcomes."""

import errno
import os

import aiohttp
import pytest

from uploaders.base import RetryLater, Scope
from uploaders.http.responses import outcome_of


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), RetryLater("no response in time (read_timeout)")),
        (aiohttp.SocketTimeoutError(), RetryLater("no response in time (read_timeout)")),
        (aiohttp.ConnectionTimeoutError(), RetryLater("no connection in time (connect_timeout)", Scope.DESTINATION)),
        (
            aiohttp.ServerDisconnectedError(),
            RetryLater("the connection was closed before a response"),
        ),
        (
            aiohttp.ClientOSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)),
            RetryLater("the connection broke: Connection reset by peer (ClientOSError)"),
        ),
        (aiohttp.ClientPayloadError("secret"), RetryLater("the connection broke: ClientPayloadError")),
        (
            aiohttp.InvalidURL("http://user:secret@"),
            RetryLater("the address is not a valid HTTP URL", Scope.DESTINATION),
        ),
    ],
)
def test_each_error_is_named_without_addresses(error: Exception, expected: RetryLater) -> None:
    """No connection means that the destination waits; a broken or silent one, that this delivery is tried again."""
    assert outcome_of(error) == expected


def test_no_error_of_the_library_is_missed() -> None:
    """Every error that the client library defines has an outcome that names no detail of it but its kind."""
    kinds = [
        kind
        for kind in vars(aiohttp.client_exceptions).values()
        if isinstance(kind, type) and issubclass(kind, aiohttp.ClientError)
    ]
    assert len(kinds) > 20
    for kind in kinds:
        error = kind.__new__(kind)
        if not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientResponseError):
            assert outcome_of(error).reason
