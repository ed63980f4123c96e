"""Finds destinations that are this gateway's own intake: it would deliver to itself, and never get rid of a call log.

One environment for the agent and the gateway is enough for that. What the address alone shows is found here; what comes
back by a proxy or another gateway is recognised by its `Via` when it arrives.
"""

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

import psutil

from config.destinations.base import EndpointTable
from config.settings import Settings
from config.values import ListenAddress

Address = IPv4Address | IPv6Address
Resolve = Callable[[str], set[Address]]

_DEFAULT_PORTS = {"http": 80, "https": 443}


def own_intake_warnings(settings: Settings, resolve: Resolve | None = None) -> Iterator[str]:
    """A sentence for each address, of a destination or for spans, that leads to the own intake.

    `resolve` gives the addresses of a host; by default only numeric ones and `localhost` are looked up, so that a start
    waits for no name server.
    """
    listen = settings.intake.listen
    if listen.path is not None:  # no URL leads to a Unix socket
        return
    if settings.traces.url and _leads_to(settings.traces.url, listen, resolve or addresses_without_names):
        yield (
            f"traces.endpoint is this gateway's own intake ({listen}), which would make call logs of the gateway's own "
            "spans; set it to a collector"
        )
    for destination in settings.destinations:
        if not isinstance(destination, EndpointTable):
            continue
        presigned = getattr(destination, "presigned", None)
        for key, url in (("url", destination.url), ("presigned.address_url", presigned and presigned.address_url)):
            if url and _leads_to(url, listen, resolve or addresses_without_names):
                yield (
                    f"destinations[{destination.name}].{key} is this gateway's own intake ({listen}): it would deliver "
                    "every call log to itself; set it to the endpoint that the agents posted to before callspool"
                )


def addresses_without_names(host: str) -> set[Address]:
    """The addresses of a numeric host, in any spelling, or of `localhost`; none for a name."""
    if host.rstrip(".").lower() == "localhost" or host.lower().endswith(".localhost"):
        return {IPv4Address("127.0.0.1"), IPv6Address("::1")}
    try:
        # `127.1`, `0x7f000001` and `2130706433` are what the C library, and so every client, takes for 127.0.0.1.
        return {IPv4Address(socket.inet_aton(host))}
    except OSError:
        return _look_up(host, socket.AI_NUMERICHOST)


def addresses_of(host: str) -> set[Address]:
    """The addresses of any host; none where it cannot be resolved. May take seconds."""
    return addresses_without_names(host) or _look_up(host, 0)


def _look_up(host: str, flags: int) -> set[Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError):
        return set()
    return {ip_address(str(where[0]).partition("%")[0]) for _, _, _, _, where in found}


def _leads_to(url: str, listen: ListenAddress, resolve: Resolve) -> bool:
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    if port != listen.port or not parts.hostname:
        return False
    own, wanted = _own_addresses(), set(map(_plain, resolve(parts.hostname)))
    listening = set(map(_plain, addresses_of(listen.host)))
    if any(address.is_unspecified for address in listening):
        listening = own
    # To connect to 0.0.0.0 or :: is to connect to this machine.
    reached = own if any(address.is_unspecified for address in wanted) else wanted
    return bool(reached & listening) or (listening == own and any(address.is_loopback for address in reached))


def _own_addresses() -> set[Address]:
    """Those of the interfaces of this machine."""
    families = {socket.AF_INET, socket.AF_INET6}
    interfaces = psutil.net_if_addrs().values()
    return {
        _plain(ip_address(each.address.partition("%")[0]))
        for interface in interfaces
        for each in interface
        if each.family in families
    }


def _plain(address: Address) -> Address:
    """An IPv4 address for one that is written as IPv6."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
