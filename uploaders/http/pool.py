"""Connection pool and HTTP client: one place for TLS, proxies and time-outs.

A request is never redirected and never repeated here; no cookies are kept.
"""

import asyncio
import socket
import ssl
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from uploaders.http.confirmation import Answer
from uploaders.http.connection import BadAnswer, Data, HttpConnection, send
from uploaders.http.timeouts import Deadlines, Phase, Timeouts, Watch
from uploaders.rate_limit import Pace

# Connection pool: idle connections by server.

KEEP_ALIVE_SECONDS = 4.0
"""Shorter than the 5 s after which Node servers close an idle connection: a POST on a closed one would fail."""
MAX_AGE_SECONDS = 60.0
"""Then a connection, direct or through a proxy, is closed after its request and the name resolved anew: under steady
traffic it would lead to an address that the name left long ago. One TLS handshake a minute costs nothing."""
DNS_CACHE_SECONDS = 10
"""How long a resolved name is used for new connections."""


class ConnectionPool:
    """Keeps idle connections. The one used last is taken first, so that surplus ones grow old and are closed."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, list[tuple[float, HttpConnection]]] = defaultdict(list)
        """By server; the one used last stands at the end."""
        self._sweep: asyncio.TimerHandle | None = None

    def put(self, origin: str, connection: HttpConnection) -> None:
        """Keep a connection for the next request to this server, unless it is too old."""
        if time.monotonic() - connection.opened_at > MAX_AGE_SECONDS:
            connection.abort()
            return
        self._waiting[origin].append((time.monotonic(), connection))
        if self._sweep is None:
            self._sweep_later()

    def take(self, origin: str) -> HttpConnection | None:
        """A connection that can still be used; None where there is none."""
        waiting = self._waiting[origin]
        oldest = time.monotonic() - KEEP_ALIVE_SECONDS
        while waiting:
            since, connection = waiting.pop()
            if since >= oldest and connection.is_free:
                return connection
            connection.abort()
        return None

    def close(self) -> None:
        """Close them all."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for waiting in self._waiting.values():
            for _, connection in waiting:
                connection.abort()
        self._waiting.clear()

    def _close_old(self) -> None:
        """Close what was idle for too long or lost its connection; look again while any is left."""
        self._sweep = None
        oldest = time.monotonic() - KEEP_ALIVE_SECONDS
        for origin, waiting in list(self._waiting.items()):
            young = [(since, connection) for since, connection in waiting if since > oldest and connection.is_free]
            for _, connection in set(waiting) - set(young):
                connection.abort()
            if young:
                self._waiting[origin] = young
            else:
                del self._waiting[origin]
        if self._waiting:
            self._sweep_later()

    def _sweep_later(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS, self._close_old)


# The proxy that the environment names for an address: HTTPS_PROXY, HTTP_PROXY, NO_PROXY, in either case.
#
# It is looked up once. The client library's own look-up (`trust_env`) goes through two threads for every request, which
# is a third of the cost of a small one, and sends credentials from ~/.netrc that nobody asked it to send.


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's address without its credentials, and the headers that carry these."""

    url: URL
    headers: Mapping[str, str] = field(repr=False)
    tunnels: bool
    """Whether it is asked to CONNECT, and gets the headers with that; else every request carries them."""


def proxy_for(address: str) -> Proxy | None:
    """The proxy to use for this address; None when it is to be reached directly, or is no valid address."""
    try:
        target = URL(address)
    except ValueError:
        return None
    named = urllib.request.getproxies().get(target.scheme)
    if not named or not target.host or urllib.request.proxy_bypass(target.host):
        return None
    proxy = URL(named if "://" in named else f"http://{named}")
    headers = {}
    if proxy.user:
        headers["Proxy-Authorization"] = aiohttp.encode_basic_auth(proxy.user, proxy.password or "")
    return Proxy(proxy.with_user(None), headers, tunnels=target.scheme == "https")


# Request targets: how to connect to an address, and the lines with which every request to it begins.

_OF_THE_ADDRESS = frozenset({"Host", "Authorization", "Accept"})
"""Headers that the HTTP client library derives from an address, credentials in it included; `Accept` is `*/*`."""


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """One address, reached directly or through a proxy."""

    origin: str
    """Scheme, host and port: requests of one origin share connections."""
    opening: aiohttp.ClientRequest
    """What the HTTP client library needs in order to connect."""
    named: str
    """What stands in the request line: path and query, or the whole address for a proxy that forwards."""
    lines: tuple[str, ...]
    """Headers that each request carries."""


def parsed(address: str) -> URL:
    """Raises `aiohttp.InvalidURL` when it is no HTTP address."""
    try:
        url = URL(address)
    except ValueError as error:
        raise aiohttp.InvalidURL(address) from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise aiohttp.InvalidURL(address)
    return url


def received(address: str) -> URL:
    """An address that somebody else gave, to be used as it is. Raises `aiohttp.InvalidURL` when it is no HTTP address.

    Host and port are looked at here: the libraries raise `ValueError` for a bad one wherever they use it.
    """
    try:
        url = URL(address, encoded=True)
        named = bool(url.host) and bool((url.raw_host or "").encode("idna")) and bool(address.encode())
        if named and url.port and url.scheme in {"http", "https"}:
            return url
    except ValueError as error:
        raise aiohttp.InvalidURL(address) from error
    raise aiohttp.InvalidURL(address)


def origin_of(url: URL) -> str:
    """See `RequestTarget.origin`."""
    return f"{url.scheme}://{url.host_port_subcomponent}"


def request_target(url: URL, proxy: Proxy | None) -> RequestTarget:
    """How this HTTP address is reached."""
    tunnels = proxy is not None and proxy.tunnels
    opening = aiohttp.ClientRequest(
        "POST", url, proxy=proxy.url if proxy else None, proxy_headers=proxy.headers if proxy and tunnels else None
    )
    headers = {name: value for name, value in opening.headers.items() if name in _OF_THE_ADDRESS}
    named = url.raw_path_qs
    if proxy is not None and not tunnels:
        headers |= proxy.headers
        named = str(url.with_user(None).with_fragment(None))
    return RequestTarget(origin_of(url), opening, named, tuple(f"{name}: {value}" for name, value in headers.items()))


def request_head(method: str, target: RequestTarget, headers: Mapping[str, str]) -> bytes:
    """The request up to its body. Raises `ValueError` for a header that would begin another one."""
    lines = (f"{method} {target.named} HTTP/1.1", *target.lines, *map(": ".join, headers.items()), "", "")
    text = "\r\n".join(lines)
    if text.count("\r") != len(lines) - 1 or text.count("\n") != len(lines) - 1 or "\0" in text:
        raise ValueError("a header of a request has a line break or a null in it")
    return text.encode()


AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]  # as aiohttp's
_IN_ANY_TIME = aiohttp.ClientTimeout(total=None, sock_connect=None)
"""`Deadlines` enforces the time-outs."""


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How to connect, and how long to wait."""

    ca_file: Path | None = None
    """PEM certificates of authorities to trust besides the system's."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    check_address: Callable[[str], None] | None = None
    """Called with each address before a socket to it is made; raises `OSError` to refuse it. A proxy's is not asked."""


def checked_socket(check: Callable[[str], None], info: AddressInfo) -> socket.socket:
    """A socket to an address that passes the check."""
    check(str(info[4][0]))
    return socket.socket(*info[:3])


def _trusting(ca_file: Path) -> ssl.SSLContext:
    """The system's authorities and these."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=ca_file)
    return context


class HttpClient:
    """Opened at the first request, because they belong to the running event loop."""

    def __init__(self, options: ClientOptions) -> None:
        """Raises `OSError` or `ssl.SSLError` when `ca_file` cannot be read."""
        self._options = options
        self._tls = True if options.ca_file is None else _trusting(options.ca_file)
        """True for the system's authorities, in aiohttp's one context: to load them takes 10 ms for each client."""
        self._connectors: dict[bool, aiohttp.TCPConnector] = {}
        """By whether addresses are checked."""
        self._idle = ConnectionPool()
        self._watch = Watch()
        self._targets: dict[str, RequestTarget] = {}
        self._proxies: dict[str, Proxy | None] = {}

    async def request(
        self, method: str, url: str | URL, headers: Mapping[str, str], data: Data, *, pace: Pace | None = None
    ) -> Answer:
        """Send one request and read the beginning of its answer. Raises `uploaders.http.responses.NETWORK_ERRORS`.

        A `url` of text is one of the few that are configured, and quoted where it must be; a signed one comes as an
        encoded `URL`, which stays as it is. A stream comes with its Content-Length. `pace` holds the body back.
        """
        target = self._request_target(url)
        if isinstance(data, (bytes, memoryview)):
            headers = {**headers, "Content-Length": str(len(data))}
        head = request_head(method, target, headers)
        with Deadlines(self._options.timeouts, self._watch) as deadlines:
            connection = self._idle.take(target.origin) or await self._connect(target)
            try:
                connection.begin(lambda: deadlines.begin(Phase.ANSWER))
                all_sent = await send(connection, head, data, deadlines, pace)
                answer = await connection.answered()
            except BaseException:
                connection.abort()
                raise
        if all_sent and connection.is_free:
            self._idle.put(target.origin, connection)
        else:
            connection.abort()
        return answer

    async def close(self) -> None:
        """Close them all."""
        self._idle.close()
        while self._connectors:
            _, connector = self._connectors.popitem()
            await connector.close()

    async def _connect(self, target: RequestTarget) -> HttpConnection:
        check = self._options.check_address if target.opening.proxy is None else None
        checked = check is not None
        if checked not in self._connectors:
            self._connectors[checked] = aiohttp.TCPConnector(
                limit=0,
                ssl=self._tls,
                ttl_dns_cache=DNS_CACHE_SECONDS,
                socket_factory=None if check is None else partial(checked_socket, check),
            )
        opened = await self._connectors[checked].connect(target.opening, [], _IN_ANY_TIME)
        if opened.protocol is None or opened.protocol.should_close:
            opened.close()
            raise BadAnswer("the server sent data before the request")
        return HttpConnection(opened)

    def _request_target(self, url: str | URL) -> RequestTarget:
        """Those of text are kept: there are few."""
        if isinstance(url, URL):
            return request_target(url, self._proxy(origin_of(url)))
        if url not in self._targets:
            self._targets[url] = self._request_target(parsed(url))
        return self._targets[url]

    def _proxy(self, origin: str) -> Proxy | None:
        """Looked up once for each server."""
        if origin not in self._proxies:
            self._proxies[origin] = proxy_for(origin)
        return self._proxies[origin]
