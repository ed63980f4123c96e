"""Kept connections to HTTP servers, and requests over them: one place for TLS, proxies and time-outs.

A request is never redirected and never repeated here; no cookies are kept.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from yarl import URL

from uploaders.answers import Answer
from uploaders.deadlines import Deadlines, Phase, Timeouts
from uploaders.proxies import Proxy, proxy_for
from uploaders.request_body import Pace, RequestBody

RESPONSE_LIMIT_BYTES = 64 * 1024
"""More of an answer than this is neither read nor kept."""

KEEP_ALIVE_SECONDS = 4.0
"""Shorter than the 5 s after which Node servers close an idle connection: a POST on a closed one would fail."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to connect, and how long to wait."""

    ca_file: Path | None = None
    """PEM certificates of authorities to trust besides the system's."""
    timeouts: Timeouts = field(default_factory=Timeouts)


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
        self,
        method: str,
        url: str | URL,
        headers: Mapping[str, str],
        data: bytes | memoryview | AsyncIterator[bytes],
        *,
        pace: Pace | None = None,
    ) -> Answer:
        """Send one request and read the beginning of its answer. Raises `uploaders.network_errors.NETWORK_ERRORS`.

        A `url` of text is quoted where it must be; a signed one comes as an encoded `URL`, which stays as it is.
        `pace` holds the body back.
        """
        proxy = self._proxy(str(url))
        sent = dict(headers)
        if proxy is not None and not proxy.tunnels:
            sent |= proxy.headers
        session = self._opened()
        async with (
            Deadlines(self._options.timeouts) as deadlines,
            session.request(
                method,
                url,
                data=RequestBody(data, headers["Content-Type"], deadlines, pace),
                headers=sent,
                proxy=proxy.url if proxy else None,
                proxy_headers=proxy.headers if proxy is not None and proxy.tunnels else None,
                allow_redirects=False,
            ) as response,
        ):
            deadlines.begin(Phase.ANSWER)
            return await _answer_of(response)

    async def close(self) -> None:
        """Close them all."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls, keepalive_timeout=KEEP_ALIVE_SECONDS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
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


async def _answer_of(response: aiohttp.ClientResponse) -> Answer:
    """What is looked at of a response, having read no more of it than that."""
    body, told, content = bytearray(), response.headers, response.content
    while len(body) < RESPONSE_LIMIT_BYTES and not content.at_eof():
        body += await content.read(RESPONSE_LIMIT_BYTES - len(body))
    return Answer(
        response.status,
        bytes(body),
        told.get("Retry-After"),
        told.get("Location"),
        told.get("Content-Type", "").partition(";")[0].strip().lower() or None,
        whole=content.at_eof(),
    )
