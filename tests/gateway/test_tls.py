"""Certificates of listeners: what is wrong with them, and that renewed ones are used without a restart."""

import asyncio
import datetime as dt
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gateway import listeners
from gateway.listeners import Listener, ListenOptions, peer_of
from gateway.runtime import listening as following
from gateway.tls import CertificateUnusable, ServerTls, TlsFiles, client_context, examine
from tests.system.waiting import until

AUTHORITY = trustme.CA()
DAYS = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC)


def written(
    folder: Path,
    name: str = "server",
    authority: trustme.CA = AUTHORITY,
    *,
    not_before: dt.datetime | None = None,
    not_after: dt.datetime | None = None,
) -> TlsFiles:
    """A certificate for localhost with its key, in files of their own."""
    made = authority.issue_cert("localhost", "127.0.0.1", common_name=name, not_before=not_before, not_after=not_after)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    key.chmod(0o600)
    return TlsFiles(certificate, key)


def test_a_good_certificate_has_no_findings(tmp_path: Path) -> None:
    """One that is valid for longer, with its key, and nobody else can read the key."""
    found = examine(written(tmp_path, not_after=NOW + 60 * DAYS))
    assert (found.errors, found.warnings) == ((), ())
    assert found.expires is not None
    assert abs(found.expires - (NOW + 60 * DAYS)) < DAYS


def test_what_is_wrong_with_a_certificate_is_named(tmp_path: Path) -> None:
    """Expired, not valid yet, another's key, encrypted, no PEM, missing: each in words that say what to do."""
    good, other = written(tmp_path), written(tmp_path, "other")
    (tmp_path / "empty.pem").write_text("")
    key = load_pem_private_key((good.key or good.certificate).read_bytes(), None)
    (tmp_path / "encrypted.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hush"))
    )
    expired = written(tmp_path, "expired", not_before=NOW - 9 * DAYS, not_after=NOW - DAYS)
    future = written(tmp_path, "future", not_before=NOW + DAYS, not_after=NOW + 9 * DAYS)
    soon = written(tmp_path, "soon", not_after=NOW + 2 * DAYS)
    wrong = {
        "expired at": expired,
        "is not valid before": future,
        "does not belong to the certificate": TlsFiles(good.certificate, other.key),
        "is encrypted": TlsFiles(good.certificate, tmp_path / "encrypted.key"),
        "hold no certificate and key in PEM": TlsFiles(tmp_path / "empty.pem", good.key),
        "(the certificate) cannot be read: No such file": TlsFiles(tmp_path / "missing.pem", good.key),
        "holds no certificates in PEM": TlsFiles(good.certificate, good.key, tmp_path / "empty.pem"),
    }
    for said, files in wrong.items():
        (error,) = examine(files).errors
        assert said in error
    (warning,) = examine(soon).warnings
    assert "expires at" in warning
    assert good.key is not None
    good.key.chmod(0o644)
    (warning,) = examine(good).warnings
    assert "every user of this machine can read it" in warning


async def test_a_renewed_certificate_is_presented_from_then_on(tmp_path: Path) -> None:
    """Open connections stay; a half-written renewal changes nothing, and is said once."""
    files = written(tmp_path)
    tls = ServerTls(files)
    async with listening(tls, asyncio.Protocol) as listener:
        client = client_context(_authority_file(tmp_path))
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=client)
        assert not tls.changed()
        before = files.certificate.read_bytes()
        renewed = written(tmp_path, "renewed")
        files.certificate.write_bytes(renewed.certificate.read_bytes())
        with pytest.raises(CertificateUnusable, match="does not belong"):
            tls.changed()
        assert not tls.changed()
        assert files.key is not None
        assert renewed.key is not None
        files.key.write_bytes(renewed.key.read_bytes())
        assert tls.changed()
        await listener.replace_tls(tls.context)
        presented = await _presented(listener, client)
        assert presented != before
        assert presented == ssl.PEM_cert_to_DER_cert(_first(renewed.certificate.read_text()))
        assert not reader.at_eof()
        writer.close()


async def test_a_certificate_that_cannot_be_presented_now_is_presented_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without descriptors the listener goes on with the one before; nothing more has to change on disk."""
    files = written(tmp_path)
    tls = ServerTls(files)
    client = client_context(_authority_file(tmp_path))
    tries: list[int] = []
    duplicate, succeeds = listeners._duplicate, asyncio.Event()

    def without_descriptors(listening: socket.socket) -> socket.socket:
        tries.append(listening.fileno())
        if not succeeds.is_set():
            raise OSError(errno.EMFILE, "Too many open files")
        return duplicate(listening)

    monkeypatch.setattr(listeners, "_duplicate", without_descriptors)
    monkeypatch.setattr(following, "CERTIFICATE_SECONDS", 0.01)
    async with listening(tls, asyncio.Protocol) as listener:
        before = await _presented(listener, client)
        async with following.certificates_followed({"intake": tls}, lambda: {"intake": listener}):
            renewed = written(tmp_path, "renewed")
            assert files.key is not None
            assert renewed.key is not None
            files.key.write_bytes(renewed.key.read_bytes())
            files.certificate.write_bytes(renewed.certificate.read_bytes())

            async def tried() -> bool:
                return len(tries) > 1

            await until(tried, "it was tried again")
            assert await _presented(listener, client) == before
            succeeds.set()

            async def presented() -> bool:
                return await _presented(listener, client) != before

            await until(presented, "the renewed one is presented")


async def test_clients_without_a_certificate_are_turned_away(tmp_path: Path) -> None:
    """Mutual TLS: one of another authority is refused, too; the name in a good one is known. TLS 1.1 is refused."""
    files = written(tmp_path)
    server = ServerTls(TlsFiles(files.certificate, files.key, _authority_file(tmp_path)))
    names: asyncio.Queue[str | None] = asyncio.Queue()

    class Asked(asyncio.Protocol):
        """Notes who connected."""

        def connection_made(self, transport: Any) -> None:
            names.put_nowait(peer_of(transport).certificate)
            transport.write(b"hello")
            transport.close()

    async with listening(server, Asked) as listener:
        client = client_context(_authority_file(tmp_path))
        assert await _read(listener, client) == b""
        trustme.CA().issue_cert("stranger@example.com").configure_cert(client)
        assert await _read(listener, client) == b""
        assert names.empty()
        AUTHORITY.issue_cert("agent@example.com", common_name="agent-7").configure_cert(client)
        assert await _read(listener, client) == b"hello"
        assert names.get_nowait() == "agent-7"
    assert server.context.minimum_version is ssl.TLSVersion.TLSv1_2


@asynccontextmanager
async def listening(tls: ServerTls, make_protocol: type[asyncio.BaseProtocol]) -> AsyncIterator[Listener]:
    listener = Listener(ListenOptions(), make_protocol, 16)
    await listener.start(tls.context)
    try:
        yield listener
    finally:
        listener.close()


async def _read(listener: Listener, client: ssl.SSLContext) -> bytes:
    """What the listener says; nothing where it refuses the client's certificate."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=client)
    except (ssl.SSLError, ConnectionError):
        return b""
    try:
        return await reader.read()
    except (ssl.SSLError, ConnectionError):
        return b""
    finally:
        writer.close()


async def _presented(listener: Listener, client: ssl.SSLContext) -> bytes:
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=client)
    encoded: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return encoded


def _first(pem: str) -> str:
    end = "-----END CERTIFICATE-----\n"
    return pem[: pem.index(end) + len(end)]


def _authority_file(folder: Path) -> Path:
    path = folder / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return path
