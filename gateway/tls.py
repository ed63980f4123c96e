"""TLS of the listeners: certificates from files, loaded anew when these change, and what is wrong with them.

TLS 1.2 is the least. With authorities for clients (mutual TLS), a client must prove to have a certificate of one.
"""

import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

EXPIRES_SOON = timedelta(days=14)
"""Before its end, a certificate that is renewed by itself has been renewed: ACME clients do it 30 days before."""


class CertificateUnusable(Exception):
    """The files are no certificate with its key; the message says which one, and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the certificate of a listener lies, as PEM."""

    certificate: Path
    """With the certificates between it and its authority behind it."""
    key: Path | None = None
    """None: in the file of the certificate."""
    client_ca: Path | None = None
    """Authorities of which clients must have a certificate; None: clients need none."""

    @property
    def key_file(self) -> Path:
        """Where the key lies."""
        return self.key or self.certificate

    def stamp(self) -> tuple[object, ...]:
        """Changes when one of the files does; links, as Kubernetes replaces them, are followed."""
        return tuple(_stamp_of(path) for path in (self.certificate, self.key, self.client_ca) if path is not None)


class ServerTls:
    """The TLS of one listener. `changed` tells when the files hold another certificate that can be used."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises `CertificateUnusable`."""
        self._files = files
        self._stamp = files.stamp()
        self.context = server_context(files)

    def changed(self) -> bool:
        """Whether the files changed since they were read last; then `context` is a new one.

        Raises `CertificateUnusable`, once for each change, where they cannot be used: the present context stays.
        """
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self.context = server_context(self._files)
        return True


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A context that presents the certificate. Raises `CertificateUnusable`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, files)
    if files.client_ca is not None:
        _load_authorities(context, files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_certificate(context: ssl.SSLContext, files: TlsFiles) -> None:
    for path, what in ((files.certificate, "the certificate"), (files.key_file, "the key")):
        _check_readable(path, what)
    try:
        # Without a password, OpenSSL would ask for one at the terminal.
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except _Encrypted:
        raise CertificateUnusable(f"the key in {files.key_file} is encrypted: decrypt it (openssl pkey)") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateUnusable(
                f"the key in {files.key_file} does not belong to the certificate in {files.certificate}"
            ) from None
        raise CertificateUnusable(
            f"{files.certificate} and {files.key_file} hold no certificate and key in PEM ({_reason_of(error)})"
        ) from None
    except OSError as error:
        raise CertificateUnusable(f"{files.certificate} cannot be read: {error.strerror or error}") from None


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    _check_readable(path, "the authorities of clients")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise CertificateUnusable(f"{path} holds no certificates in PEM ({_reason_of(error)})") from None


def _check_readable(path: Path, what: str) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise CertificateUnusable(f"{path} ({what}) cannot be read: {error.strerror or error}") from None


class _Encrypted(Exception):
    """The key needs a password."""


def _no_password() -> str:
    raise _Encrypted


def _reason_of(error: ssl.SSLError) -> str:
    return (error.reason or "no PEM").replace("_", " ").lower()


def _stamp_of(path: Path) -> object:
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def client_context(authorities: Path | None = None, *, whatever_name: bool = False) -> ssl.SSLContext:
    """A context for a client that trusts these certificates, authorities or not; by default the system's authorities.

    With `whatever_name` the server's name is not compared: for one whose own certificate is the trusted one. Raises
    `OSError`, of which `ssl.SSLError` is one.
    """
    context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities is not None:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = not whatever_name
    return context


# What is wrong with a certificate, as a client would see it.


@dataclass(frozen=True, slots=True)
class Findings:
    """What an operator should know of a certificate."""

    expires: datetime | None
    """None where that could not be found out."""
    errors: tuple[str, ...]
    """Why clients will refuse it, or it cannot be used at all."""
    warnings: tuple[str, ...]


def examine(files: TlsFiles, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Findings:
    """Look at a certificate and its key without listening."""
    try:
        server_context(files)
        certificate = _presented_by(server_context(TlsFiles(files.certificate, files.key)), files.certificate)
    except CertificateUnusable as error:
        return Findings(None, (str(error),), _loose_key(files))
    starts, expires = (_moment(certificate, name) for name in ("notBefore", "notAfter"))
    errors, warnings = [], list(_loose_key(files))
    if expires is not None and expires <= now():
        errors.append(f"the certificate in {files.certificate} expired at {expires:%Y-%m-%d %H:%M} UTC")
    elif expires is not None and expires - now() <= EXPIRES_SOON:
        warnings.append(f"the certificate in {files.certificate} expires at {expires:%Y-%m-%d %H:%M} UTC")
    if starts is not None and starts > now():
        errors.append(f"the certificate in {files.certificate} is not valid before {starts:%Y-%m-%d %H:%M} UTC")
    return Findings(expires, tuple(errors), tuple(warnings))


def _loose_key(files: TlsFiles) -> tuple[str, ...]:
    try:
        mode = files.key_file.stat().st_mode
    except OSError:
        return ()
    if not stat.S_ISREG(mode) or not mode & 0o004:
        return ()
    return (f"{files.key_file} holds a private key, and every user of this machine can read it: chmod o-rwx it",)


_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, for which the `ssl` module has no name."""


def _presented_by(context: ssl.SSLContext, certificate: Path) -> dict[str, object]:
    """The certificate that a server of this context presents: the `ssl` module describes only what a peer presented."""
    client = client_context(certificate, whatever_name=True)
    client.verify_flags |= _NO_CHECK_TIME
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_end = context.wrap_bio(to_server, to_client, server_side=True)
    client_end = client.wrap_bio(to_client, to_server)
    for end in (client_end, server_end, client_end, server_end):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "") or _reason_of(error)
            raise CertificateUnusable(f"clients refuse the certificate in {certificate}: {why}") from None
    return dict(client_end.getpeercert() or {})


def _moment(certificate: dict[str, object], name: str) -> datetime | None:
    text = certificate.get(name)
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC) if isinstance(text, str) else None
