"""Kept connections to HTTP servers, and requests over them: one place for TLS, proxies and time-outs.

A request is never redirected and never repeated here; no cookies are kept.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import aiohttp
from yarl import URL

from uploaders.answers import Answer
from uploaders.proxies import Proxy, proxy_for

RESPONSE_LIMIT_BYTES = 64 * 1024
"""More of an answer than this is neither read nor kept."""

KEEP_ALIVE_SECONDS = 4.0
"""Shorter than the 5 s after which Node servers close an idle connection: a POST on a closed one would fail."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to connect. Time-outs are seconds."""

    ca_file: Path | None
    """PEM certificates of authorities to trust besides the system's."""
    connect_timeout: float
    response_timeout: float
    """From the end of the request to the answer, and between its parts."""
    total_timeout: float


class Connections:
    """Opened at the first request, because they belong to the running event loop."""

    def __init__(self, options: ConnectionOptions) -> None:
        """Raises `OSError` or `ssl.SSLError` when `ca_file` cannot be read."""
        self._options = options
        self._tls = ssl.create_default_context()
        if options.ca_file is not None:
            self._tls.load_verify_locations(cafile=options.ca_file)
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, Proxy | None] = {}

    async def request(
        self, method: str, url: str | URL, headers: Mapping[str, str], data: BytesIO | bytes | AsyncIterator[bytes]
    ) -> Answer:
        """Send one request and read the beginning of its answer. Raises `uploaders.network_errors.NETWORK_ERRORS`.

        A `url` of text is quoted where it must be; a signed one comes as an encoded `URL`, which stays as it is.
        """
        proxy = self._proxy(str(url))
        sent = dict(headers)
        if proxy is not None and not proxy.tunnels:
            sent |= proxy.headers
        async with self._opened().request(
            method,
            url,
            data=data,
            headers=sent,
            proxy=proxy.url if proxy else None,
            proxy_headers=proxy.headers if proxy is not None and proxy.tunnels else None,
            allow_redirects=False,
        ) as response:
            told = response.headers
            return Answer(response.status, await _beginning(response), told.get("Retry-After"), told.get("Location"))

    async def close(self) -> None:
        """Close them all."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            options = self._options
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls, keepalive_timeout=KEEP_ALIVE_SECONDS),
                timeout=aiohttp.ClientTimeout(
                    total=options.total_timeout,
                    sock_connect=options.connect_timeout,
                    sock_read=options.response_timeout,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    def _proxy(self, url: str) -> Proxy | None:
        """Looked up once for each server."""
        server, _, _ = url.partition("?")
        origin = "/".join(server.split("/", 3)[:3])
        if origin not in self._proxies:
            self._proxies[origin] = proxy_for(origin)
        return self._proxies[origin]


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while len(body) < RESPONSE_LIMIT_BYTES:
        part = await response.content.read(RESPONSE_LIMIT_BYTES - len(body))
        if not part:
            break
        body += part
    return bytes(body)
