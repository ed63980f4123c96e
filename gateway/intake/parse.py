"""Looking at a decoded body: what it is, and, if it is a call log, in which pieces it is to be stored.

Pure and synchronous. Decoding the top level of a giant holds the interpreter (0.35 s for 1 GB), so that `examine`
runs in a process of its own for these (`gateway.intake.parse_worker`): what it finds is therefore plain data without
views.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap

import msgspec

from gateway.calllog.document import CallLog, Envelope, S3Reference, UploadUrlRequest, recognise
from gateway.calllog.split import CORE_MAX_BYTES, split
from gateway.calllog.toplevel import Piece, Slice, buffers
from gateway.fanout import StoredAs
from spool.payload.frames import FRAME_RAW_BYTES, FrameWriter, chunk_count
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


class About(msgspec.Struct, frozen=True):
    """What is kept of a call log beside its bytes; each field as `gateway.calllog.document.CallLog` has it."""

    call_id: str
    agent_id: str | None
    event: str
    environment: str | None
    token: str | None
    raw_bytes: int
    nonfinite_numbers: int

    def __repr__(self) -> str:
        """Without its token."""
        return f"About({self.call_id!r}, {self.event!r}, {self.raw_bytes} bytes)"


class CallLogFound(msgspec.Struct, frozen=True, tag=True):
    """A call log, or a note that one lies in a bucket."""

    about: About
    digest: bytes
    stored_as: StoredAs
    pieces: Mapping[Fragment, tuple[Piece, ...]]
    """Their slices are of `Examined.text`."""
    is_reference: bool
    s3_key: str | None
    """Of a reference: the name of the object."""


class EnvelopeFound(msgspec.Struct, frozen=True, tag=True):
    """A compressed call log."""

    data: Slice
    """Where the JSON string lies that holds it."""


class UploadUrlRequestFound(msgspec.Struct, frozen=True, tag=True):
    """A request for an upload address."""

    call_id: str


Finding = CallLogFound | EnvelopeFound | UploadUrlRequestFound


class Examined(msgspec.Struct, frozen=True):
    """What a body is."""

    finding: Finding
    text: bytes | memoryview
    """What the finding's slices are slices of: the body without its byte order mark, or a copy in scratch."""


def examine(data: Buffer | mmap, scratch: Callable[[int], bytearray | mmap], rule: SizeRule) -> Examined:
    """What a decoded body is. Raises `CallLogError` when it is nothing of use."""
    posted = recognise(data, scratch=scratch)
    if isinstance(posted, Envelope):
        return Examined(EnvelopeFound(posted.data), posted.top.text)
    if isinstance(posted, UploadUrlRequest):
        return Examined(UploadUrlRequestFound(posted.call_id), b"")
    if isinstance(posted, S3Reference):
        return Examined(_found(posted.call_log, rule, posted), posted.call_log.top.text)
    return Examined(_found(posted, rule, None), posted.top.text)


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
    """Whether so many stored bytes go in one piece."""
    return 4 * stored < 3 * rule.two_phase_threshold


def _found(call_log: CallLog, rule: SizeRule, reference: S3Reference | None) -> CallLogFound:
    """Decide, split and hash: all that costs time with the size of the call log."""
    kind = stored_as(call_log, rule)
    pieces = _in_fragments(call_log, rule) if kind is StoredAs.TWO_PHASE else {Fragment.BODY: call_log.slices}
    about = About(
        call_log.call_id,
        call_log.agent_id,
        call_log.event,
        call_log.environment,
        call_log.token,
        call_log.raw_bytes,
        call_log.nonfinite_numbers,
    )
    key = reference.key if reference else None
    return CallLogFound(about, call_log.digest, kind, pieces, reference is not None, key)


def _in_fragments(call_log: CallLog, rule: SizeRule) -> dict[Fragment, tuple[Piece, ...]]:
    """The fragments of a large call log; one with a number for its `call_id` keeps that for its detail."""
    parts = split(call_log, core_max_bytes=rule.core_max_bytes)
    fragments: dict[Fragment, tuple[Piece, ...]] = {
        Fragment.BASE: parts.base,
        Fragment.DERIVED: (parts.derived,),
        Fragment.REST: parts.rest,
    }
    if not call_log.named_by_text:
        fragments[Fragment.CALL_ID] = (call_log.call_id.encode(),)
    return fragments


# What an examined body asks for: to accept a call log, to accept a note of one, or to be given an upload address.


class Prepared(msgspec.Struct, frozen=True):
    """A call log that is ready to be accepted."""

    about: About
    digest: bytes
    fragments: Mapping[Fragment, Sequence[Buffer]]
    stored_as: StoredAs


class Reference(msgspec.Struct, frozen=True):
    """A note that the call log lies in a bucket, ready to be accepted like one."""

    prepared: Prepared
    s3_key: str | None


class AddressRequest(msgspec.Struct, frozen=True):
    """A request for an address to upload a call log to."""

    call_id: str


Opened = Prepared | Reference | AddressRequest


def prepared(found: CallLogFound, text: bytes | memoryview) -> Prepared | Reference:
    """The call log that was found, with its bytes as views of `text`."""
    fragments = {fragment: buffers(text, pieces) for fragment, pieces in found.pieces.items()}
    call_log = Prepared(found.about, found.digest, fragments, found.stored_as)
    return Reference(call_log, found.s3_key) if found.is_reference else call_log


def call_id_of(opened: Opened) -> str:
    """The call that it is about."""
    if isinstance(opened, AddressRequest):
        return opened.call_id
    return (opened if isinstance(opened, Prepared) else opened.prepared).about.call_id
