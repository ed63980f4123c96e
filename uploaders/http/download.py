"""Downloads from addresses that others name: checked before anything is asked, streamed, and bounded.

The hosts are checked by name, and every address when its socket is made (`uploaders.upload_hosts`), also after a
redirect. Nothing of an address but its host is shown: what is signed opens what it names to whoever reads it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import aiohttp
from yarl import URL

from uploaders.base import RetryLater
from uploaders.http.pool import checked_socket, proxy_for, received
from uploaders.http.responses import NETWORK_ERRORS, outcome_of, parse_retry_after
from uploaders.upload_hosts import HostNotAllowed, UploadHosts

CHUNK_BYTES: Final = 1 << 18
MOST_REDIRECTS: Final = 5
TOTAL_SECONDS: Final = 3600.0
"""For one download, which may be hundreds of megabytes behind a slow line."""
CONNECT_SECONDS: Final = 10.0
SILENT_SECONDS: Final = 60.0
"""Without a byte."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class DownloadFailed(Exception):
    """There is nothing of use at an address now; `outcome` says why."""

    def __init__(self, outcome: RetryLater) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Download:
    """An answer of which the body is still to be read."""

    content_type: str
    """Without parameters, in lower case."""
    chunks: AsyncIterator[bytes]
    """Raises `DownloadFailed`, also where the body is shorter than was announced, or longer than is allowed."""


class Downloader:
    """For the event loop; opened with the first download."""

    def __init__(self, hosts: UploadHosts, most_bytes: int) -> None:
        self._hosts = hosts
        self._most_bytes = most_bytes
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        """By whether addresses are checked."""

    @asynccontextmanager
    async def get(self, address: str, *, now: int) -> AsyncIterator[Download]:
        """What lies at the address, for the block; `now` is in milliseconds. Raises `DownloadFailed`."""
        url, response = await self._answer(address)
        try:
            yield self._download(url, response, now)
        finally:
            response.close()

    async def close(self) -> None:
        """Close its connections."""
        while self._sessions:
            _, session = self._sessions.popitem()
            await session.close()

    async def _answer(self, address: str) -> tuple[URL, aiohttp.ClientResponse]:
        """The answer that is no redirect, and where it came from. Raises `DownloadFailed`."""
        try:
            url = received(address)
        except aiohttp.InvalidURL:
            raise DownloadFailed(RetryLater("the address is not a valid HTTP URL")) from None
        try:
            for _ in range(MOST_REDIRECTS + 1):
                response = await self._ask(url)
                if response.status not in _REDIRECTS:
                    return url, response
                response.close()
                url = _redirected(url, response.headers.get("Location", ""))
        except NETWORK_ERRORS as error:
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            if isinstance(cause, HostNotAllowed):
                advice = "list the host in webhooks.recording_hosts if that is right"
                raise _failed(url, f"{cause.strerror}: {advice}") from error
            raise _failed(url, outcome_of(error).reason) from error
        raise _failed(url, f"redirects more than {MOST_REDIRECTS} times")

    async def _ask(self, url: URL) -> aiohttp.ClientResponse:
        """Raises `NETWORK_ERRORS`, `HostNotAllowed` among them."""
        proxy = proxy_for(str(url))
        headers = {"User-Agent": "callspool", "Accept-Encoding": "identity"}
        if proxy is not None and not proxy.tunnels:
            headers |= proxy.headers
        # A proxy looks the name up itself, so that there is no address to check.
        session = self._session(checks=not self._hosts.is_trusted(url.host or "") and proxy is None)
        return await session.get(
            url,
            headers=headers,
            allow_redirects=False,
            proxy=proxy.url if proxy else None,
            proxy_headers=proxy.headers if proxy and proxy.tunnels else None,
        )

    def _session(self, *, checks: bool) -> aiohttp.ClientSession:
        if checks not in self._sessions:
            check = partial(checked_socket, self._hosts.check_address) if checks else None
            self._sessions[checks] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=check),
                timeout=aiohttp.ClientTimeout(TOTAL_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._sessions[checks]

    def _download(self, url: URL, response: aiohttp.ClientResponse, now: int) -> Download:
        if response.status != 200:
            wait = parse_retry_after(response.headers.get("Retry-After"), now)
            raise _failed(url, f"answers HTTP {response.status}", wait)
        if (response.content_length or 0) > self._most_bytes:
            raise _failed(url, f"holds more than {self._most_bytes} bytes")
        return Download(response.content_type.lower(), self._chunks(url, response))

    async def _chunks(self, url: URL, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                size += len(chunk)
                if size > self._most_bytes:
                    raise _failed(url, f"holds more than {self._most_bytes} bytes")
                yield chunk
        except NETWORK_ERRORS as error:
            raise _failed(url, outcome_of(error).reason) from error


def _redirected(url: URL, location: str) -> URL:
    """Where an answer leads. Raises `DownloadFailed` where that would give up https."""
    try:
        target = received(str(url.join(URL(location, encoded=True))))
    except ValueError:  # `aiohttp.InvalidURL` is one
        raise _failed(url, "redirects to no address") from None
    if url.scheme == "https" and target.scheme != "https":
        raise _failed(url, "redirects from https to something else")
    return target


def _failed(url: URL, what: str, after_seconds: float | None = None) -> DownloadFailed:
    return DownloadFailed(RetryLater(f"{url.host}: {what}", after_seconds=after_seconds))
