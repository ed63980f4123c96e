"""Upload addresses, which the SDK requests for large call logs.

The key in an address is its only credential, so it cannot be guessed, works for one call log, and is kept only as
a hash. After its upload the SDK sends nothing more, or posts a reference to the object, whose `s3_key` looks like an
object's but names the upload.
"""

import hashlib
import secrets
from dataclasses import dataclass

from gateway.intake.ports import RecordStore
from gateway.intake.responses import Rejection
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
        """The upload that a reference tells of, if it went through an address of this gateway."""
        return None if s3_key is None else await self._store.find_upload_by_s3_key(s3_key)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
