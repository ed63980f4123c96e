"""The one place that translates the errors of HTTP clients into outcomes.

Where no connection came about, nothing would reach this destination, so it waits as a whole; where a connection
broke or went silent, only this delivery is known to have failed.
"""

import asyncio
import os

import aiohttp

from uploaders.base import RetryLater, Scope
from uploaders.http.connection import BadAnswer
from uploaders.http.timeouts import Phase, TimedOut

NETWORK_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""What a request may raise because of the network or the peer."""

_UNREACHABLE: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (aiohttp.ConnectionTimeoutError, "no connection in time (connect_timeout)"),
    (aiohttp.ClientHttpProxyError, "the proxy refused to connect: {detail}"),
    (aiohttp.ClientProxyConnectionError, "the proxy cannot be reached: {detail}"),
    (aiohttp.ClientConnectorCertificateError, "TLS: {detail} (set ca_file for a private authority)"),
    ((aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch), "TLS failed: {detail}"),
    (aiohttp.ClientConnectorDNSError, "its host name cannot be resolved"),
    (aiohttp.ClientConnectorError, "cannot connect: {detail}"),
    ((aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError), "its address is not a valid HTTP URL"),
)
"""No connection came about; the first row that fits counts, so the particular stand before the general."""

_SILENT = {
    Phase.SEND: "it took no more of the request",
    Phase.FIRST_BYTE: "it took the request and did not answer",
    Phase.ANSWER: "its answer did not come to an end",
}
"""What the peer did in the phase in which a time-out struck."""


def outcome_of(error: Exception) -> RetryLater:
    """Names the failure without addresses or headers: both may hold secrets."""
    if isinstance(error, TimedOut):
        return _timed_out(error)
    unreachable = _unreachable_reason(error)
    if unreachable is not None:
        return RetryLater(unreachable, Scope.DESTINATION)
    if isinstance(error, asyncio.TimeoutError):
        return RetryLater("no answer in time (read_timeout)")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return RetryLater("the connection was closed before an answer came")
    if isinstance(error, BadAnswer | aiohttp.ClientResponseError):
        return RetryLater("what it answered is not HTTP")
    return RetryLater(f"the connection broke: {_detail(error)}")


def _timed_out(error: TimedOut) -> RetryLater:
    """Says which time-out struck, and what the peer was doing."""
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
