"""Which hosts a call log may be uploaded to, when an endpoint names them: the defence against SSRF.

Recordings are fetched from hosts that providers name, by the same rules but one: any name will do.

An endpoint that was taken over could name the metadata service of a cloud, or any server behind the firewall, and the
upload has the agent's key in it. So its answer may name its own site, a known object store, and what the operator
lists; and no name may lead to an address that is not public, unless it is the endpoint's own or listed. Addresses are
checked when the socket is made, after resolution, so that no second resolution can differ from the one checked.
"""

import errno
import re
import socket
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address

_REGION = r"[a-z]{2}(?:-[a-z]+)+-\d"
_OBJECT_STORES = re.compile(
    r"(?:[a-z0-9._-]+\.)?(?:"
    rf"s3(?:-accelerate|-fips|express-[a-z0-9-]+|-{_REGION})?(?:\.dualstack)?(?:\.{_REGION})?\.amazonaws\.com(?:\.cn)?"
    r"|storage\.googleapis\.com"
    r"|blob\.core\.(?:windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)"
    r"|r2\.cloudflarestorage\.com)"
)
"""Amazon S3, Google Cloud Storage, Azure Blob Storage, Cloudflare R2."""
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_IPV4_COMPATIBLE = IPv6Network("::/96")
_LABELS_OF_A_SITE = 2
_LONGEST_PUBLIC_SUFFIX_LABEL = 3
"""`co` in co.uk and `com` in com.au are no sites."""


_METADATA_SERVICE = IPv4Address("169.254.169.254")
_NAME = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?", re.IGNORECASE)


class HostNotAllowed(OSError):
    """Nothing may be uploaded to, or fetched from, this host."""


def is_host_or_network(entry: str) -> bool:
    """Whether this can be an entry of the list of allowed hosts."""
    if _NAME.fullmatch(entry):
        return True
    try:
        ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False
    return True


def literal_address(host: str) -> Address | None:
    """The address that a host is, in any form that the system's resolver knows (octal, hexadecimal, one number)."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass  # a name, or an address in a form that only the resolver knows
    if not re.fullmatch(r"[0-9a-fx.]+", host, re.IGNORECASE):
        return None
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def is_public(address: Address) -> bool:
    """Whether an address is anybody's on the internet; an IPv4 address within an IPv6 one counts as itself."""
    if isinstance(address, IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this one end at: mapped, compatible, 6to4, Teredo, NAT64."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _IPV4_COMPATIBLE or any(address in network for network in _NAT64):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


class UploadHosts:
    """The hosts of one endpoint. `endpoints` are its own, `allowed` names, `*.names`, addresses and networks.

    With `any_name` every name is allowed, as long as its address is public.
    """

    def __init__(self, endpoints: Iterable[str], allowed: Iterable[str] = (), *, any_name: bool = False) -> None:
        self._any_name = any_name
        self._own = frozenset(_normal(host) for host in endpoints)
        self._names: set[str] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in allowed:
            try:
                self._networks.append(ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                self._names.add(_normal(entry))

    def is_trusted(self, host: str) -> bool:
        """Whether the host may have any address: the endpoint's own, or one that the operator named.

        Raises `HostNotAllowed` for a host that is not to be asked at all.
        """
        host = _normal(host)
        if host in self._own or self._is_named(host):
            return True
        address = literal_address(host)
        if address is not None and not self._is_listed(address):
            raise _refusal(host)
        if address is None and not self._is_known(host):
            raise _refusal(host)
        return False

    def check_address(self, text: str) -> None:
        """Raises `HostNotAllowed` unless the address of a socket is public or listed."""
        address = literal_address(text)
        if address is None or not (is_public(address) or self._is_listed(address)):
            raise _refusal("an address that is not public")

    @property
    def lists_metadata_service(self) -> bool:
        """Whether the list allows the address at which clouds give out credentials."""
        return self._is_listed(_METADATA_SERVICE)

    def _is_known(self, name: str) -> bool:
        if self._any_name or _OBJECT_STORES.fullmatch(name):
            return True
        return any(_same_site(name, own) for own in self._own)

    def _is_named(self, host: str) -> bool:
        return host in self._names or any(name.startswith("*.") and host.endswith(name[1:]) for name in self._names)

    def _is_listed(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _normal(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")


def _same_site(host: str, own: str) -> bool:
    """Whether a host is below the endpoint's, or beside it below a name that is no public suffix."""
    if literal_address(own) is not None:
        return False
    if host.endswith(f".{own}"):
        return True
    labels = own.split(".")[1:]
    if len(labels) < _LABELS_OF_A_SITE or (
        len(labels) == _LABELS_OF_A_SITE and len(labels[0]) <= _LONGEST_PUBLIC_SUFFIX_LABEL
    ):
        return False
    site = ".".join(labels)
    return host == site or host.endswith(f".{site}")


def _refusal(what: str) -> HostNotAllowed:
    return HostNotAllowed(errno.EACCES, f"leads to {what}")
