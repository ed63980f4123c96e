"""Translates the errors of HTTP clients into outcomes.

Without a connection nothing reaches the destination, so all its deliveries wait; where a connection broke or went
silent, only this delivery is known to have failed.
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
