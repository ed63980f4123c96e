"""Where requests go: what an address says about connecting, and the lines with which every request to it begins."""

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from uploaders.proxies import Proxy

_OF_THE_ADDRESS = frozenset({"Host", "Authorization", "Accept"})
"""What the HTTP client library makes of an address itself, credentials in it included; `Accept` is everything."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address, reached directly or through a proxy."""

    origin: str
    """Scheme, host and port: requests of one origin share connections."""
    opening: aiohttp.ClientRequest
    """What the HTTP client library needs in order to connect."""
    named: str
    """The address as a request names it: its path and query, to a proxy that forwards all of it."""
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


def origin_of(url: URL) -> str:
    """See `Target.origin`."""
    return f"{url.scheme}://{url.host_port_subcomponent}"


def target_of(url: URL, proxy: Proxy | None) -> Target:
    """Where this address, of HTTP, is reached."""
    tunnels = proxy is not None and proxy.tunnels
    opening = aiohttp.ClientRequest(
        "POST", url, proxy=proxy.url if proxy else None, proxy_headers=proxy.headers if proxy and tunnels else None
    )
    headers = {name: value for name, value in opening.headers.items() if name in _OF_THE_ADDRESS}
    named = url.raw_path_qs
    if proxy is not None and not tunnels:
        headers |= proxy.headers
        named = str(url.with_user(None).with_fragment(None))
    return Target(origin_of(url), opening, named, tuple(f"{name}: {value}" for name, value in headers.items()))


def request_head(method: str, target: Target, headers: Mapping[str, str]) -> bytes:
    """The request up to its body. Raises `ValueError` for a header that would begin another one."""
    lines = (f"{method} {target.named} HTTP/1.1", *target.lines, *map(": ".join, headers.items()), "", "")
    text = "\r\n".join(lines)
    if text.count("\r") != len(lines) - 1 or text.count("\n") != len(lines) - 1 or "\0" in text:
        raise ValueError("a header of a request has a line break or a null in it")
    return text.encode()
