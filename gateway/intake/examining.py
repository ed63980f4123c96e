"""Looking at a decoded body: what it is, and, if it is a call log, in which fragments it is to be stored.

Pure and synchronous: for a large body it runs in a worker thread. Decoding a giant's top level holds the
interpreter (0.35 s for 1 GB), which is why all of it stands behind the one function `examine`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap

import msgspec

from gateway.calllog.document import CallLog
from gateway.calllog.envelope import Envelope, S3Reference, UploadUrlRequest, recognise
from gateway.calllog.split import CORE_MAX_BYTES, split
from gateway.routing import StoredAs
from spool.payloads import FRAME_RAW_BYTES, FrameWriter, chunk_count
from spool.records import Buffer, Fragment

_FRAME_OVERHEAD = FRAME_RAW_BYTES // 256 + 128
"""What zstd may add to a frame at most: ZSTD_COMPRESSBOUND of its zstd.h, and a checksum."""


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Which call logs are stored as core and detail. Sizes in bytes."""

    two_phase_threshold: int = 4 << 20
    """4/3 of the stored size (what an envelope's base64 makes of it) must be below this for one piece."""
    two_phase_raw_threshold: int = 5 << 20
    """The raw size must be at most this for one piece."""
    core_max_bytes: int = CORE_MAX_BYTES
    compression_level: int = 1
    """The spool's: the stored size is measured by compressing."""


class Prepared(msgspec.Struct, frozen=True):
    """A call log that is ready to be accepted."""

    call_log: CallLog
    digest: bytes
    fragments: Mapping[Fragment, Sequence[Buffer]]
    stored_as: StoredAs


@dataclass(frozen=True, slots=True)
class Reference:
    """A note that the call log lies in a bucket, ready to be accepted like one."""

    prepared: Prepared
    s3_key: str | None


Examined = Prepared | Reference | Envelope | UploadUrlRequest


def examine(data: Buffer, scratch: Callable[[int], bytearray | mmap], rule: SizeRule) -> Examined:
    """What a decoded body is. Raises `CallLogError` when it is nothing of use."""
    posted = recognise(data, scratch=scratch)
    if isinstance(posted, CallLog):
        return _prepare(posted, rule)
    if isinstance(posted, S3Reference):
        return Reference(_prepare(posted.call_log, rule), posted.key)
    return posted


def stored_as(call_log: CallLog, rule: SizeRule) -> StoredAs:
    """Whether a call log is stored in one piece.

    It is compressed to know its stored size only where that decides: not above the raw threshold, and not where
    even the most that compression may add keeps it below the other one (with the defaults, below 3.1 MB).
    """
    if call_log.raw_bytes > rule.two_phase_raw_threshold:
        return StoredAs.TWO_PHASE
    most = call_log.raw_bytes + _FRAME_OVERHEAD * chunk_count(call_log.raw_bytes)
    if _fits(most, rule):
        return StoredAs.SINGLE
    frames = FrameWriter(rule.compression_level).frames(call_log.pieces)
    return StoredAs.SINGLE if _fits(sum(len(frame.data) for frame in frames), rule) else StoredAs.TWO_PHASE


def _fits(stored: int, rule: SizeRule) -> bool:
    return 4 * stored < 3 * rule.two_phase_threshold


def _prepare(call_log: CallLog, rule: SizeRule) -> Prepared:
    """Decide, split and hash: all that costs time with the size of the call log."""
    kind = stored_as(call_log, rule)
    if kind is StoredAs.SINGLE:
        return Prepared(call_log, call_log.digest, {Fragment.BODY: call_log.pieces}, kind)
    parts = split(call_log, core_max_bytes=rule.core_max_bytes)
    fragments = {Fragment.BASE: parts.base, Fragment.DERIVED: (parts.derived,), Fragment.REST: parts.rest}
    return Prepared(call_log, call_log.digest, fragments, kind)
