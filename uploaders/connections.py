"""Kept connections to HTTP servers, and requests over them: one place for TLS, proxies and time-outs.

A request is never redirected and never repeated here; no cookies are kept.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from yarl import URL

from uploaders.answers import Answer
from uploaders.deadlines import Deadlines, Phase, Timeouts, Watch
from uploaders.idle_wires import IdleWires
from uploaders.proxies import Proxy, proxy_for
from uploaders.sending import Data, Pace, send
from uploaders.target import Target, origin_of, parsed, request_head, target_of
from uploaders.wire import BadAnswer, Wire

_IN_ANY_TIME = aiohttp.ClientTimeout(total=None, sock_connect=None)
"""`Deadlines` watches."""


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
        self._connector: aiohttp.TCPConnector | None = None
        self._idle = IdleWires()
        self._watch = Watch()
        self._targets: dict[str, Target] = {}
        self._proxies: dict[str, Proxy | None] = {}

    async def request(
        self, method: str, url: str | URL, headers: Mapping[str, str], data: Data, *, pace: Pace | None = None
    ) -> Answer:
        """Send one request and read the beginning of its answer. Raises `uploaders.network_errors.NETWORK_ERRORS`.

        A `url` of text is one of the few that are configured, and quoted where it must be; a signed one comes as an
        encoded `URL`, which stays as it is. A stream comes with its Content-Length. `pace` holds the body back.
        """
        target = self._target(url)
        if isinstance(data, (bytes, memoryview)):
            headers = {**headers, "Content-Length": str(len(data))}
        head = request_head(method, target, headers)
        async with Deadlines(self._options.timeouts, self._watch) as deadlines:
            wire = self._idle.take(target.origin) or await self._connect(target)
            try:
                wire.begin(lambda: deadlines.begin(Phase.ANSWER))
                all_sent = await send(wire, head, data, deadlines, pace)
                answer = await wire.answered()
            except BaseException:
                wire.abort()
                raise
        if all_sent and wire.is_free:
            self._idle.put(target.origin, wire)
        else:
            wire.abort()
        return answer

    async def close(self) -> None:
        """Close them all."""
        self._idle.close()
        if self._connector is not None:
            await self._connector.close()
            self._connector = None

    async def _connect(self, target: Target) -> Wire:
        if self._connector is None:
            self._connector = aiohttp.TCPConnector(limit=0, ssl=self._tls)
        opened = await self._connector.connect(target.opening, [], _IN_ANY_TIME)
        if opened.protocol is None or opened.protocol.should_close:
            opened.close()
            raise BadAnswer("it spoke before it was asked")
        return Wire(opened)

    def _target(self, url: str | URL) -> Target:
        """Those of text are kept: there are few."""
        if isinstance(url, URL):
            return target_of(url, self._proxy(origin_of(url)))
        if url not in self._targets:
            self._targets[url] = self._target(parsed(url))
        return self._targets[url]

    def _proxy(self, origin: str) -> Proxy | None:
        """Looked up once for each server."""
        if origin not in self._proxies:
            self._proxies[origin] = proxy_for(origin)
        return self._proxies[origin]
