"""Sockets that listen: TCP or Unix, and who is at the other end of a connection.

A Unix socket gets its mode and owner before anybody can connect. One that a killed process left behind is removed: only
a socket, and only if nobody answers there.
"""

import asyncio
import errno
import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_OVERFLOW_UID = 65534
"""What the kernel calls users of other user namespaces: any of them, so nobody in particular."""
_CREDENTIALS = struct.Struct("3i")
"""struct ucred of Linux: process, user, group."""


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


class UnixListener:
    """A Unix socket that listens. `close` removes it, unless another process put its own in its place."""

    def __init__(self, path: Path, options: SocketOptions, backlog: int) -> None:
        """Bind and listen. Raises `OSError`: EADDRINUSE where somebody answers, EEXIST where lies what is no socket."""
        self._path = path
        _remove_stale(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Linux gives the file the mode of the socket, so that there is no moment at which others could connect.
            os.fchmod(self.socket.fileno(), 0o600)
            self.socket.bind(str(path))
            status = path.lstat()
            self._made = (status.st_dev, status.st_ino)
            if (options.uid, options.gid) != (-1, -1):
                os.chown(path, options.uid, options.gid, follow_symlinks=False)
            path.chmod(options.mode)
            self.socket.listen(backlog)
            self.socket.setblocking(False)
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        """Remove the socket's file."""
        with suppress(OSError):
            status = self._path.lstat()
            if (status.st_dev, status.st_ino) == self._made:
                self._path.unlink()


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
