"""Whether an object that a server tells of is the one that was sent: pure, from what both sides computed.

What a server tells depends on its dialect: Amazon S3 returns the CRC-32 that it computed, and under a KMS key an ETag
that is no MD5; others know no checksums but an ETag made of MD5s, and some know neither. So a checksum decides, an
ETag that is equal proves, one that differs proves nothing, and what cannot be proven is to be read back.
"""

import base64
import hashlib
from dataclasses import dataclass, field
from enum import Enum, auto
from zlib import crc32

from uploaders.s3.cutting import Part


@dataclass(frozen=True, slots=True)
class ObjectState:
    """What HEAD tells of an object. Checksums as the server writes them: base64, `-N` behind those made of parts."""

    size: int
    etag: str
    """Without its quotes."""
    crc32: str | None = None
    record_uid: str | None = None
    """The record that the object's metadata names, if it is one of callspool's."""


class Verdict(Enum):
    """What that says about the object."""

    MATCHES = auto()
    """It holds the bytes that were sent."""
    DIFFERS = auto()
    """It does not."""
    UNPROVEN = auto()
    """The server told nothing that could decide."""


@dataclass(slots=True)
class Fingerprint:
    """What the bytes of an object come to, gathered part by part, in order."""

    size: int = 0
    crc32: int = 0
    """Of the whole object."""
    part_md5s: list[bytes] = field(default_factory=list)
    part_crc32s: list[int] = field(default_factory=list)
    only: Part | None = None
    """The part of an object of one request: its MD5 is computed only if it is needed."""

    @classmethod
    def of_one(cls, part: Part) -> "Fingerprint":
        """What an object of one request comes to."""
        return cls(part.size, part.crc32, [], [part.crc32], part)

    def add(self, part: Part) -> None:
        """Take in the next part."""
        self.size += part.size
        self.crc32 = part.crc32_so_far
        self.part_md5s.append(part.md5)
        self.part_crc32s.append(part.crc32)

    @property
    def parts(self) -> int:
        """How many parts were taken in."""
        return len(self.part_crc32s)

    def etags(self) -> frozenset[str]:
        """The ETags that servers give such an object: of one request, and of an upload in parts.

        May take some milliseconds: an MD5 that was not needed so far is computed.
        """
        md5s = self.part_md5s if self.only is None else [self.only.md5]
        composite = f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{self.parts}"
        return frozenset({composite, md5s[0].hex()} if self.parts == 1 else {composite})

    def crc32s(self) -> frozenset[str]:
        """The CRC-32 checksums that servers give such an object: of all bytes, or made of those of the parts."""
        joined = b"".join(crc.to_bytes(4, "big") for crc in self.part_crc32s)
        return frozenset({encoded_crc32(self.crc32), f"{encoded_crc32(crc32(joined))}-{self.parts}"})


def compare(state: ObjectState, sent: Fingerprint) -> Verdict:
    """What the server's own figures say about the object."""
    if state.size != sent.size:
        return Verdict.DIFFERS
    if state.crc32 is not None:
        return Verdict.MATCHES if state.crc32 in sent.crc32s() else Verdict.DIFFERS
    return Verdict.MATCHES if state.etag in sent.etags() else Verdict.UNPROVEN


def proves(told_crc32: str | None, sent: Fingerprint) -> bool:
    """Whether the answer to the upload alone says that the object is what was sent, so that none need be asked for.

    It tells no size: the server has got as many bytes as were announced, or it would have refused them. An ETag does
    not suffice: that of an upload in parts is made of what the server was told of these.
    """
    return told_crc32 is not None and told_crc32 in sent.crc32s()


def encoded_crc32(crc32: int) -> str:
    """As S3 writes it: base64 of the four bytes, the highest first."""
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def encoded_md5(digest: bytes) -> str:
    """As `Content-MD5` writes it."""
    return base64.b64encode(digest).decode()
