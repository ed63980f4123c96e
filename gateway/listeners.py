"""Sockets that listen: TCP or Unix, who is at the other end of a connection, and by what names it may be asked.

A Unix socket gets its mode and owner before anybody can connect. One that a killed process left behind is removed: only
a socket, and only if nobody answers there.
"""

import asyncio
import errno
import grp
import os
import pwd
import re
import socket
import ssl
import stat
import struct
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MakeProtocol = Callable[[], asyncio.BaseProtocol]
HANDSHAKE_SECONDS = 10.0
"""How long a client may take for its TLS handshake."""
_OVERFLOW_UID = 65534
"""What the kernel calls users of other user namespaces: any of them, so nobody in particular."""
_CREDENTIALS = struct.Struct("3i")
"""struct ucred of Linux: process, user, group."""


class CannotListen(Exception):
    """A listener has no address; the message names the setting and, where it is known, who has the port."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection."""

    address: str
    """An IP address; of a Unix socket `unix`, with the user where the kernel says it."""
    uid: int | None = None
    """The user, over a Unix socket on Linux."""
    certificate: str | None = None
    """The subject of the certificate that it proved to have, over mutual TLS."""
    is_unix: bool = False

    @property
    def is_own_user(self) -> bool:
        """Whether it is a process of this one's user or of root: those could read this one's files and memory."""
        return self.uid is not None and (self.uid == 0 or self.uid == os.geteuid() != _OVERFLOW_UID)


def peer_of(transport: asyncio.BaseTransport | None) -> Peer:
    """Who is at the other end; nobody in particular once the connection has ended."""
    if transport is None:
        return Peer("unknown")
    certificate = _subject_of(transport.get_extra_info("peercert"))
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple) and name:
        return Peer(str(name[0]), certificate=certificate)
    uid = _uid_of(transport.get_extra_info("socket"))
    return Peer("unix" if uid is None else f"unix uid {uid}", uid, certificate, is_unix=True)


def _uid_of(connection: socket.socket | None) -> int | None:
    """The user who connected to a Unix socket; None where the system does not say."""
    if connection is None or not hasattr(socket, "SO_PEERCRED"):
        return None
    try:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    return int(_CREDENTIALS.unpack(credentials)[1])


def _subject_of(certificate: object) -> str | None:
    """The common name in a certificate as `ssl.SSLSocket.getpeercert` describes it, or the first of its other names."""
    if not isinstance(certificate, dict) or not certificate:
        return None
    subject = {name: value for parts in certificate.get("subject", ()) for name, value in parts}
    names = [f"{kind}:{value}" for kind, value in certificate.get("subjectAltName", ())]
    return str(subject.get("commonName") or next(iter(names), None) or f"serial {certificate.get('serialNumber')}")


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """Who may connect to a Unix socket: its mode, and its owner where that is another than this process."""

    mode: int = 0o600
    uid: int = -1
    gid: int = -1


def owner_ids(owner: str) -> tuple[int, int]:
    """The user and the group of `USER`, `USER:GROUP` or `:GROUP`, names or numbers; -1 for what is not named.

    Raises `LookupError` for one that this system does not know.
    """
    user, _, group = owner.partition(":")
    return _id_of(user, lambda name: pwd.getpwnam(name).pw_uid), _id_of(group, lambda name: grp.getgrnam(name).gr_gid)


def _id_of(name: str, look_up: Callable[[str], int]) -> int:
    if not name:
        return -1
    return int(name) if name.isdecimal() else look_up(name)


def bind_unix(path: Path, options: SocketOptions) -> socket.socket:
    """A Unix socket at a path, bound. Raises `OSError`: EADDRINUSE where somebody answers, EEXIST for no socket."""
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the mode of the socket, so that there is no moment at which others could connect.
        os.fchmod(bound.fileno(), 0o600)
        bound.bind(str(path))
        if (options.uid, options.gid) != (-1, -1):
            os.chown(path, options.uid, options.gid, follow_symlinks=False)
        path.chmod(options.mode)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


def _remove_stale(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(
            errno.EEXIST, "there is a file that is no socket; remove it, or choose another path", str(path)
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except (TimeoutError, BlockingIOError):  # its queue is full: somebody listens
            pass
    raise OSError(errno.EADDRINUSE, "another process answers there", str(path))


# A listener: at one address, with or without TLS.


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """Where to listen."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: any that is free."""
    path: Path | None = None
    """A Unix socket, in place of host and port."""
    socket: SocketOptions = SocketOptions()
    """With `path`: who may connect."""


class Listener:
    """Accepts connections at one address. For the event loop.

    Connections last longer than the context that they were accepted with, and than the listener itself.
    """

    def __init__(self, options: ListenOptions, make_protocol: MakeProtocol, backlog: int) -> None:
        self._options = options
        self._make_protocol = make_protocol
        self._backlog = backlog
        self.port = 0 if options.path else options.port
        """The port that it listens on, as configured until it listens; 0 for a Unix socket."""
        self._servers: list[asyncio.Server] = []
        self._made: tuple[int, int] | None = None
        """Device and number of the socket's file, as long as it is ours to remove."""

    async def start(self, tls: ssl.SSLContext | None, inherited: socket.socket | None = None) -> None:
        """Listen, on the socket of a listener before this one if there is one. Raises `OSError`."""
        loop, path = asyncio.get_running_loop(), self._options.path
        if inherited is None and path is not None:
            inherited = bind_unix(path, self._options.socket)
        if path is not None:
            status = path.lstat()
            self._made = (status.st_dev, status.st_ino)
        if inherited is not None:
            self._servers = [await self._serve(inherited, tls)]
            name = inherited.getsockname()
            self.port = int(name[1]) if isinstance(name, tuple) else 0
            return
        host, port = self._options.host, self._options.port
        more: dict[str, Any] = {} if tls is None else {"ssl": tls, "ssl_handshake_timeout": HANDSHAKE_SECONDS}
        self._servers = [await loop.create_server(self._make_protocol, host, port, backlog=self._backlog, **more)]
        self.port = int(self._servers[0].sockets[0].getsockname()[1])

    async def replace_tls(self, tls: ssl.SSLContext) -> None:
        """Accept connections with another context from now on; nobody who connects meanwhile is turned away.

        Raises `OSError`, for want of descriptors say; then it listens as before.
        """
        after: list[asyncio.Server] = []
        try:
            for each in [each for server in self._servers for each in server.sockets]:
                after.append(await self._serve(_duplicate(each), tls))  # noqa: PERF401  # those before a failure are closed
        except BaseException:
            for server in after:
                server.close()
            raise
        before, self._servers = self._servers, after
        for server in before:
            server.close()

    def duplicate(self) -> socket.socket | None:
        """A second hold on the socket that it listens on; None where it listens on several."""
        sockets = [each for server in self._servers for each in server.sockets]
        return _duplicate(sockets[0]) if len(sockets) == 1 else None

    def keep_file(self) -> None:
        """Leave the file of a Unix socket where it is when this closes: another listener has the socket."""
        self._made = None

    def close(self) -> None:
        """Accept nobody any more, and remove the file of a Unix socket unless another process put its own there."""
        for server in self._servers:
            server.close()
        if self._options.path is not None and self._made is not None:
            with suppress(OSError):
                status = self._options.path.lstat()
                if (status.st_dev, status.st_ino) == self._made:
                    self._options.path.unlink()

    async def _serve(self, listening: socket.socket, tls: ssl.SSLContext | None) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        more: dict[str, Any] = {} if tls is None else {"ssl": tls, "ssl_handshake_timeout": HANDSHAKE_SECONDS}
        if listening.family == socket.AF_UNIX:
            # From Python 3.13 on, a server removes the file of its socket unless it is told not to.
            more |= {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            return await loop.create_unix_server(self._make_protocol, sock=listening, backlog=self._backlog, **more)
        return await loop.create_server(self._make_protocol, sock=listening, backlog=self._backlog, **more)


def _duplicate(listening: socket.socket) -> socket.socket:
    return socket.fromfd(listening.fileno(), listening.family, listening.type)


# Cross-site requests and DNS rebinding: what a browser was made to send to a listener.
#
# A page that a browser on this machine shows can post to a listener on loopback, and, by a name that its owner lets
# resolve to 127.0.0.1 (DNS rebinding), even read the answers. Both give themselves away in their headers.

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
