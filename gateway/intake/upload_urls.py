"""Upload addresses, which the SDK requests for large call logs.

The key in an address is its only credential, so it cannot be guessed, works for one call log, and is kept only as
a hash. After its upload the SDK sends nothing more, or posts a reference to the object, whose `s3_key` looks like an
object's but names the upload.
"""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from aiohttp import web

from gateway.intake.ports import RecordStore
from gateway.intake.responses import Rejection
from gateway.listeners import is_host
from spool.records import Clock, Upload

BUCKET = "callspool"
"""The value of `s3_bucket`: the SDK repeats it in its reference, and nothing else reads it."""


@dataclass(frozen=True, slots=True)
class GivenAddress:
    """An upload address, before it is put into a URL."""

    secret: str
    s3_key: str
    s3_bucket: str = BUCKET


@dataclass(frozen=True, slots=True)
class Claim:
    """An address that a client uploads to."""

    key_hash: bytes
    upload: Upload

    def check_same(self, digest: bytes) -> None:
        """Return unless another call log came through this address before; raises `Rejection` (409) then.

        The same one again is a repeated request, whose answer got lost.
        """
        if self.upload.record_uid is not None and self.upload.digest != digest:
            raise Rejection(
                409,
                "upload_used",
                "Another call log was uploaded to this address before.",
                "Ask get-upload-url for a new address; each is for one call log.",
            )


class UploadUrlService:
    """Gives out upload addresses and finds them again. Times in milliseconds."""

    def __init__(self, store: RecordStore, clock: Clock, lifetime: int) -> None:
        self._store = store
        self._clock = clock
        self._lifetime = lifetime

    async def give(self, call_id: str, agents_key: str | None) -> GivenAddress:
        """A new address; durable, so that it works after a restart. Raises `SpoolError`."""
        secret = secrets.token_urlsafe(32)
        s3_key = f"uploads/{secrets.token_hex(16)}.json"
        await self._store.register_upload(_hash(secret), s3_key, call_id, agents_key, self._clock() + self._lifetime)
        return GivenAddress(secret, s3_key)

    async def claim(self, secret: str) -> Claim:
        """The address that a client wants to upload to. Raises `Rejection`: 404 if unknown, 403 if expired."""
        key_hash = _hash(secret)
        upload = await self._store.find_upload(key_hash)
        if upload is None:
            raise Rejection(
                404, "unknown_upload", "This upload address is not known.", "Ask get-upload-url for a new address."
            )
        if upload.record_uid is None and self._clock() >= upload.expires_at:
            raise Rejection(
                403,
                "upload_expired",
                "This upload address has expired.",
                "Ask get-upload-url for a new address and use it at once.",
            )
        return Claim(key_hash, upload)

    async def find_by_s3_key(self, s3_key: str | None) -> Upload | None:
        """The upload that a reference names, if it went through an address of this gateway."""
        return None if s3_key is None else await self._store.find_upload_by_s3_key(s3_key)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


# What an upload address begins with. An agent sends call logs there, so nobody but the configuration, a proxy that it
# trusts, and the sender itself decides it.

UNIX = "unix"
"""In a list of trusted proxies: whoever connects to the Unix socket."""


class PublicAddress:
    """What senders call the intake by: the configured URL, what a trusted proxy forwards, or the Host that was asked.

    `url` is without a slash at its end; `trusted_proxies` are addresses, networks, or `unix`.
    """

    def __init__(self, url: str | None = None, trusted_proxies: Iterable[str] = ()) -> None:
        proxies = frozenset(trusted_proxies)
        self._url = url.rstrip("/") if url else None
        self._trusts_unix = UNIX in proxies
        self._networks = tuple(ip_network(each) for each in proxies - {UNIX})

    def base_url(self, request: web.BaseRequest) -> str:
        """What an address for this sender begins with: scheme, host, and the path of the configured URL."""
        if self._url is not None:
            return self._url
        headers = request.headers
        scheme, host = request.scheme, headers.get("Host", "")
        if ("X-Forwarded-Host" in headers or "X-Forwarded-Proto" in headers) and self._trusts(request):
            forwarded = _last(headers.getall("X-Forwarded-Proto", ())).lower()
            scheme = forwarded if forwarded in {"http", "https"} else scheme
            host = _last(headers.getall("X-Forwarded-Host", ())) or host
        return f"{scheme}://{host if is_host(host) else _own_address(request)}"

    def _trusts(self, request: web.BaseRequest) -> bool:
        try:
            peer = ip_address((request.remote or "").partition("%")[0])
        except ValueError:  # a Unix socket has no address
            return self._trusts_unix
        peer = getattr(peer, "ipv4_mapped", None) or peer
        return any(peer in network for network in self._networks)


DIRECT = PublicAddress()
"""No proxy is trusted."""


def _last(lines: Iterable[str]) -> str:
    """What the trusted proxy itself wrote: whatever came before that is its client's."""
    return ",".join(lines).rpartition(",")[2].strip()


def _own_address(request: web.BaseRequest) -> str:
    """Where a sender of HTTP/1.0 connected to. `request.host` would ask a name server, and block the event loop."""
    name = request.transport.get_extra_info("sockname") if request.transport else None
    if not isinstance(name, tuple):  # a Unix socket
        return "localhost"
    host, port, *_ = name
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
