"""Addresses: where to listen, and where an endpoint is. Pure checks whose errors say what would be right."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})")
_LISTEN_ADVICE = "should be HOST:PORT, such as 127.0.0.1:7717, [::1]:7717, or 0.0.0.0:7717 for every interface"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A host and a port to listen at; port 0 takes any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def parse_listen(value: object) -> ListenAddress:
    """The address that `HOST:PORT` names. Raises ValueError, with advice, for anything else."""
    if isinstance(value, ListenAddress):
        return value
    match = _LISTEN.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or int(match[3]) > 65535:
        raise ValueError(_LISTEN_ADVICE)
    if match[1] is not None and not _is_ipv6(match[1]):
        raise ValueError(_LISTEN_ADVICE)
    return ListenAddress(match[1] or match[2], int(match[3]))


def check_endpoint(value: str) -> str:
    """An endpoint's URL as it may be used: http or https, a host, no credentials, no fragment.

    Raises ValueError, with advice, for anything else.
    """
    parts = _split(value)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("should be an http:// or https:// URL, such as https://host/dev/send-call-log")
    if parts.username is not None or parts.password is not None:
        raise ValueError("should not carry credentials: set the destination's token instead")
    if parts.fragment:
        raise ValueError("should not have a fragment (the part after #)")
    if any(character.isspace() or not character.isprintable() for character in value):
        raise ValueError("should not contain spaces or control characters")
    return value


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _split(value: str) -> SplitResult | None:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
