"""The bytes and attributes of an object, built from the stored frames; building again gives the same bytes.

Stored frames pass as they are, with the glue between them as small frames of their own; or they are decompressed;
or compressed again as one gzip member. At most one frame is held, and whatever takes long runs in a thread.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, TypedDict, cast
from urllib.parse import quote

from msgspec.structs import replace

from spool.payload.frames import PASSTHROUGH, decode, encode
from spool.records import Delivery, Form
from uploaders.document.body import Compressor, fast_gzip
from uploaders.document.encoding import Frames
from uploaders.document.render import Piece, encoded_member, raw_bytes_of, render, with_last_member
from uploaders.s3.options import ObjectContent, ObjectEncoding, S3Options, ServerSideEncryption

if TYPE_CHECKING:
    from types_aiobotocore_s3.literals import ServerSideEncryptionType, StorageClassType


CONTENT_TYPE = "application/json"
_ENCRYPTIONS: dict[ServerSideEncryption, "ServerSideEncryptionType"] = {
    ServerSideEncryption.AES256: "AES256",
    ServerSideEncryption.KMS: "aws:kms",
}
_CONTENT_ENCODINGS = {ObjectEncoding.ZSTD: PASSTHROUGH, ObjectEncoding.GZIP: "gzip", ObjectEncoding.PLAIN: None}
_GZIP_OVERHEAD = 1024
"""More than header and trailer; incompressible input grows by 5 bytes for every 16 KB or more."""
_FRAME_OVERHEAD = 128
"""More than a frame of zstd has around its blocks; incompressible input grows by less than 1 in 256."""


@dataclass(frozen=True, slots=True)
class ObjectBody:
    """What one object holds. `delivery` carries the form that is stored, which may differ from the one owed."""

    delivery: Delivery
    pieces: tuple[Piece, ...]
    """What its content is joined from; where stored frames pass as they are, the glue is frames, too."""
    encoding: ObjectEncoding
    frames: Frames
    raw_bytes: int
    """The length of the JSON document."""
    last_member: bytes = b""
    """What is put in before the last brace of a call log that is stored in one piece, with its comma."""

    @property
    def form(self) -> Form:
        """The form of the record that the object holds."""
        return self.delivery.form

    @property
    def content_encoding(self) -> str | None:
        """The `Content-Encoding` that the object is stored with."""
        return _CONTENT_ENCODINGS[self.encoding]

    @property
    def size_bound(self) -> int:
        """An upper bound of the object's size; exact unless it is compressed anew (gzip, or with a `last_member`)."""
        if self.encoding is ObjectEncoding.ZSTD:
            fragments = self.delivery.record.fragments
            if self.last_member:
                frames = 1 + sum(fragment.chunks for fragment in fragments.values())
                return self.raw_bytes + self.raw_bytes // 256 + frames * _FRAME_OVERHEAD
            return sum(
                len(piece) if isinstance(piece, bytes) else fragments[piece].stored_bytes for piece in self.pieces
            )
        if self.encoding is ObjectEncoding.GZIP:
            return self.raw_bytes + self.raw_bytes // 1024 + _GZIP_OVERHEAD
        return self.raw_bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes, in chunks of about a frame. Raises what `frames` raises, and `CorruptPayload`."""
        if self.encoding is ObjectEncoding.ZSTD and self.last_member:
            async for data in self._plain():
                yield await asyncio.to_thread(encode, data)
        elif self.encoding is ObjectEncoding.ZSTD:
            async for _, data in self._stored():
                yield data
        elif self.encoding is ObjectEncoding.GZIP:
            async for data in self._gzip(fast_gzip()):
                yield data
        else:
            async for data in self._plain():
                yield data

    async def _stored(self) -> AsyncIterator[tuple[Piece, bytes]]:
        """Each piece with its bytes: the glue itself, or one stored frame after the other."""
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece, piece
                continue
            async for frame in self.frames(self.delivery.record, piece):
                yield piece, frame

    def _plain(self) -> AsyncIterator[bytes]:
        """The JSON document."""
        decoded = self._decoded()
        return with_last_member(decoded, self.last_member) if self.last_member else decoded

    async def _decoded(self) -> AsyncIterator[bytes]:
        """The document as the spool has it."""
        async for piece, data in self._stored():
            yield data if isinstance(piece, bytes) else await asyncio.to_thread(decode, data)

    async def _gzip(self, compressor: Compressor) -> AsyncIterator[bytes]:
        """The document as one gzip member."""
        async for data in self._plain():
            compressed = await asyncio.to_thread(compressor.compress, data)
            if compressed:
                yield compressed
        yield await asyncio.to_thread(compressor.flush)


def object_body(
    delivery: Delivery, encoding: ObjectEncoding, content: ObjectContent, frames: Frames, *, token: str | None = None
) -> ObjectBody:
    """What the object of a delivery holds; a `token` becomes the last member of its document.

    Raises `CorruptPayload` and `BadLocation` as `render` does.
    """
    stored = delivery
    if delivery.form is Form.DETAIL and content is ObjectContent.WHOLE:
        stored = replace(delivery, form=Form.WHOLE)
    pieces = render(stored)
    member = b"" if token is None else encoded_member("token", token)
    raw_bytes = raw_bytes_of(stored.record, pieces) + len(member)
    if pieces[-1] == b"}" and member:
        # Made of fragments: there is glue at the end that can hold it.
        pieces, member = (*pieces[:-1], member + b"}"), b""
    if encoding is ObjectEncoding.ZSTD:
        pieces = tuple(encode(piece) if isinstance(piece, bytes) else piece for piece in pieces)
    return ObjectBody(stored, pieces, encoding, frames, raw_bytes, member)


# How an object is stored: what goes beside its bytes, as the parameters of the requests that create one. Pure.


@dataclass(frozen=True, slots=True)
class Attributes:
    """The headers and metadata that an object is stored with."""

    content_type: str
    content_encoding: str | None
    metadata: Mapping[str, str]


class StoredParameters(TypedDict, total=False):
    """The names are those of the S3 API. There is no ACL among them: the bucket's policy decides who reads."""

    ContentType: str
    ContentEncoding: str
    Metadata: Mapping[str, str]
    ServerSideEncryption: "ServerSideEncryptionType"
    SSEKMSKeyId: str
    StorageClass: "StorageClassType"


class CustomerKey(TypedDict, total=False):
    """The key of an object that is encrypted by one of ours (SSE-C), as every request about its bytes names it."""

    SSECustomerAlgorithm: str
    SSECustomerKey: bytes


def customer_key(options: S3Options) -> CustomerKey:
    """What goes with a request; nothing where the server has the key."""
    if options.customer_key is None:
        return CustomerKey()
    return CustomerKey(SSECustomerAlgorithm="AES256", SSECustomerKey=options.customer_key)


class OnlyNew(TypedDict, total=False):
    """The condition under which an object is created."""

    IfNoneMatch: str


class Checksum(TypedDict, total=False):
    """What a server checks the content of a request by: one of the two."""

    ChecksumCRC32: str
    ContentMD5: str


class ChecksumKind(TypedDict, total=False):
    """What an upload in parts announces: one checksum of all bytes, not one made of those of the parts."""

    ChecksumAlgorithm: Literal["CRC32"]
    ChecksumType: Literal["FULL_OBJECT"]


class ChecksumMode(TypedDict, total=False):
    """Whether the response to a HEAD is to hold checksums."""

    ChecksumMode: Literal["ENABLED"]


class WholeChecksum(TypedDict, total=False):
    """What the end of an upload in parts is checked by."""

    ChecksumCRC32: str
    ChecksumType: Literal["FULL_OBJECT"]
    MpuObjectSize: int


def stored_parameters(options: S3Options, attributes: Attributes) -> StoredParameters:
    """The parameters for an object of this destination."""
    parameters = StoredParameters(ContentType=attributes.content_type, Metadata=attributes.metadata)
    if attributes.content_encoding is not None:
        parameters["ContentEncoding"] = attributes.content_encoding
    if options.encryption in _ENCRYPTIONS:
        parameters["ServerSideEncryption"] = _ENCRYPTIONS[options.encryption]
    if options.kms_key_id is not None:
        parameters["SSEKMSKeyId"] = options.kms_key_id
    if options.storage_class is not None:
        # Other servers than Amazon's have classes of their own.
        parameters["StorageClass"] = cast("StorageClassType", options.storage_class)
    return parameters


def only_new(condition: bool) -> OnlyNew:
    """With the condition, no object is replaced."""
    return OnlyNew(IfNoneMatch="*") if condition else OnlyNew()


# What an object's metadata says about the call log in it: pure, and ASCII, which is all that S3 takes.
#
# Amazon S3 allows 2 KB of metadata in all (User Guide, "Working with object metadata"), so a long call id is cut.

RECORD_UID = "callspool-record"
"""The record whose object it is; by it callspool recognizes its own objects."""
TENANT = "tenant"
"""Whose the call is, where the gateway that stored it knew tenants."""
LONGEST_VALUE = 512
_VERSION = version("callspool")
"""Looked up once: that reads a file."""


def metadata_of(body: ObjectBody) -> dict[str, str]:
    """The call's id is percent-encoded (RFC 3986). The digest is that of the call log, without the agent's token."""
    record = body.delivery.record
    metadata = {
        "callspool-version": _VERSION,
        RECORD_UID: record.uid,
        "form": body.form,
        "call-id": percent_encoded(record.call_id),
        "call-log-sha256": record.digest.hex(),
        "raw-bytes": str(body.raw_bytes),
    }
    if record.tenant is not None:
        metadata[TENANT] = percent_encoded(record.tenant)
    return metadata


def percent_encoded(text: str) -> str:
    """A text as a value of metadata, cut between characters, never within an escape."""
    encoded = ""
    for character in text:
        escaped = quote(character, safe="", errors="replace")
        if len(encoded) + len(escaped) > LONGEST_VALUE:
            break
        encoded += escaped
    return encoded
