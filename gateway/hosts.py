"""Detects cross-site requests and DNS rebinding: what a browser was made to send to a listener.

A page that a browser on this machine shows can post to a listener on loopback, and, by a name that its owner lets
resolve to 127.0.0.1 (DNS rebinding), even read the answers. Both give themselves away in their headers.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?")
_NAME = re.compile(r"([A-Za-z0-9._-]+)(?::\d{1,5})?")
_ENDINGS_NOBODY_CAN_BUY = (".localhost", ".svc", ".cluster.local", ".internal")


class BrowserFault(StrEnum):
    """Why a request of a browser is refused."""

    HOST = "host"
    """It asks for a name that does not belong to the listener."""
    CROSS_SITE = "cross_site"
    """A page of another site sent it."""


def browser_fault(headers: Mapping[str, str], hosts: frozenset[str]) -> BrowserFault | None:
    """What is wrong with the headers of a request, if anything; `hosts` are names of the listener, in small letters."""
    host = headers.get("Host")
    if host is not None and not is_trusted_host(host, hosts):
        return BrowserFault.HOST
    origin = headers.get("Origin")
    if origin is not None and _site_of(origin) != (host or "").lower():
        return BrowserFault.CROSS_SITE
    return BrowserFault.CROSS_SITE if headers.get("Sec-Fetch-Site") == "cross-site" else None


def is_host(host: str) -> bool:
    """Whether a text has the form of a Host header: an address or a name, perhaps with a port."""
    match = _BRACKETED.fullmatch(host)
    return _is_address(match[1]) if match else _NAME.fullmatch(host) is not None


@lru_cache(maxsize=64)
def is_trusted_host(host: str, names: frozenset[str] = frozenset()) -> bool:
    """Whether a Host header is an address, or a name that no page of another site can have made to lead here.

    These are `localhost`, the given names, and those that nobody can register: without a dot, as containers have them,
    and those of clusters.
    """
    if match := _BRACKETED.fullmatch(host):
        return _is_address(match[1])
    match = _NAME.fullmatch(host)
    if match is None:
        return False
    name = match[1].lower().rstrip(".")
    return "." not in name or _is_address(name) or name in names or name.endswith(_ENDINGS_NOBODY_CAN_BUY)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _site_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
