"""The proxy that the environment names for an address: HTTPS_PROXY, HTTP_PROXY, NO_PROXY, in either case.

It is looked up once. The client library's own look-up (`trust_env`) goes through two threads for every request, which
is a third of the cost of a small one, and sends credentials from ~/.netrc that nobody asked it to send.
"""

import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
from yarl import URL


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
