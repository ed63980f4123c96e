"""Parses a decoded body: what it is, and, if it is a call log, in which pieces it is to be stored.

Pure and synchronous. Decoding the top level of a giant holds the interpreter (0.35 s for 1 GB), so that `parse` runs
in a process of its own for these (`gateway.intake.parse_worker`): its result is therefore plain data without views.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import mmap

import msgspec

from gateway.calllog.document import DETAIL_EVENT, Document, Envelope, UploadRequest, document_of, outline_of, recognise
from gateway.calllog.shape import Bounds
from gateway.calllog.split import CORE_MAX_BYTES, split
from gateway.calllog.toplevel import Piece, buffers, scan
from gateway.fanout import StoredAs
from gateway.intake.redaction import redactor_of
from spool.payload.frames import FrameEncoder, frames_bound
from spool.records import AGENT_LOST, NO_OUTLINE, Buffer, Fragment, Outline
from uploaders.redaction.options import Redaction


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
    message_max_bytes: int | None = None
    """The largest message that every broker among the destinations takes; None: there is none."""


class CallLog(msgspec.Struct, frozen=True, tag=True):
    """A call log that is ready to be accepted; its first eight fields are those of its `Document`."""

    call_id: str
    agent_id: str | None
    event: str
    environment: str | None
    token: str | None
    raw_bytes: int
    nonfinite_numbers: int
    stray_token: bool
    digest: bytes
    stored_as: StoredAs
    pieces: Mapping[Fragment, tuple[Piece, ...]]
    """What is stored: slices of `text`, and bytes that were made."""
    text: memoryview = memoryview(b"")
    """The document. Empty on its way from the parse worker, which has only mapped it."""
    happened_at: int | None = None
    """When the start or the end of the call happened, by its own times; milliseconds."""
    outline: Outline = NO_OUTLINE
    redaction: Redaction | None = None
    """By which rules it was redacted."""
    redacted: Mapping[str, int] = {}
    """How often each of them found something."""

    def __repr__(self) -> str:
        """Without its token and its content."""
        return f"CallLog({self.call_id!r}, {self.event!r}, {self.raw_bytes} bytes)"

    @property
    def agent_lost(self) -> bool:
        """Whether it is an end that was made because nothing came from the agent any more: any other replaces it."""
        return self.outline.ended_reason == AGENT_LOST and self.event == "call_ended"

    @property
    def fragments(self) -> dict[Fragment, tuple[Buffer, ...]]:
        """The bytes of the pieces, as views of the document."""
        return {fragment: buffers(self.text, pieces) for fragment, pieces in self.pieces.items()}


class Reference(msgspec.Struct, frozen=True, tag=True):
    """A note that the call log lies in a bucket. `note` is the note itself, to be accepted like a call log."""

    note: CallLog
    s3_key: str | None

    @property
    def call_id(self) -> str:
        """The call that it is about."""
        return self.note.call_id


Parsed = CallLog | UploadRequest | Reference
"""What a source of call logs makes of a body."""


def parse(
    data: Buffer | mmap,
    scratch: Callable[[int], bytearray | mmap],
    rule: SizeRule,
    bounds: Bounds | None = None,
    redaction: Redaction | None = None,
) -> Parsed | Envelope:
    """What a decoded body is, with views of it: or of `scratch`, where a changed copy is needed.

    With a `redaction` it is what that leaves of a call log: its digest and its summaries are made of nothing else.
    Raises `CallLogError` when it is nothing of use, and `Costly` for what is out of `bounds`.
    """
    top = scan(data, scratch, bounds)
    posted = recognise(top)
    if not isinstance(posted, Document):
        return posted
    redacted: Mapping[str, int] = {}
    if redaction is not None:
        text, redacted = redactor_of(redaction).redact(top, scratch)
        if redacted:
            again = scan(text, scratch, bounds)
            posted = document_of(msgspec.structs.replace(again, nonfinite_numbers=top.nonfinite_numbers))
    call_log = _call_log(posted, rule, redaction, redacted)
    return Reference(call_log, posted.s3_key) if posted.is_reference else call_log


def text_of(parsed: Parsed | Envelope) -> memoryview:
    """The document that its slices are slices of."""
    match parsed:
        case Reference():
            return parsed.note.text
        case UploadRequest():
            return memoryview(b"")
        case _:
            return parsed.text


def with_text(parsed: Parsed | Envelope, text: memoryview) -> Parsed | Envelope:
    """The same with this document, or without any, as it goes from one process to another."""
    match parsed:
        case Reference():
            return Reference(msgspec.structs.replace(parsed.note, text=text), parsed.s3_key)
        case UploadRequest():
            return parsed
        case _:
            return msgspec.structs.replace(parsed, text=text)


def stored_as(document: Document, rule: SizeRule) -> StoredAs:
    """Whether a call log is stored in one piece.

    It is compressed to know its stored size only where that decides: not above the raw threshold, and not where
    even the most that compression may add keeps it below the other one (with the defaults, below 3.1 MB).
    """
    if document.raw_bytes > rule.two_phase_raw_threshold:
        return _large(document)
    if _fits(frames_bound(document.raw_bytes), rule):
        return _small(document, rule)
    frames = FrameEncoder(rule.compression_level).frames(document.pieces)
    return _small(document, rule) if _fits(sum(len(frame.data) for frame in frames), rule) else _large(document)


def _small(document: Document, rule: SizeRule) -> StoredAs:
    """In one piece, unless that is too large for a message of a broker."""
    if rule.message_max_bytes is None or document.raw_bytes <= rule.message_max_bytes:
        return StoredAs.SINGLE
    return StoredAs.DETAIL if document.event == DETAIL_EVENT else StoredAs.MEDIUM


def _large(document: Document) -> StoredAs:
    """A detail has no core: splitting it again would make one that says nothing, and replace the call's."""
    return StoredAs.DETAIL if document.event == DETAIL_EVENT else StoredAs.TWO_PHASE


def _fits(stored: int, rule: SizeRule) -> bool:
    """Whether a call log of this stored size is stored in one piece."""
    return 4 * stored < 3 * rule.two_phase_threshold


def _call_log(document: Document, rule: SizeRule, redaction: Redaction | None, redacted: Mapping[str, int]) -> CallLog:
    """Decide, split and hash: everything whose cost grows with the call log."""
    kind = stored_as(document, rule)
    return CallLog(
        document.call_id,
        document.agent_id,
        document.event,
        document.environment,
        document.token,
        document.raw_bytes,
        document.nonfinite_numbers,
        document.stray_token,
        document.digest,
        kind,
        _in_fragments(document, rule)
        if kind in {StoredAs.TWO_PHASE, StoredAs.MEDIUM}
        else {Fragment.BODY: document.slices},
        memoryview(document.top.text),
        document.happened_at,
        outline_of(document),
        redaction,
        redacted,
    )


def _in_fragments(document: Document, rule: SizeRule) -> dict[Fragment, tuple[Piece, ...]]:
    """The fragments of a large call log; one with a number for its `call_id` keeps that for its detail."""
    parts = split(document, core_max_bytes=rule.core_max_bytes)
    fragments: dict[Fragment, tuple[Piece, ...]] = {
        Fragment.BASE: parts.base,
        Fragment.DERIVED: (parts.derived,),
        Fragment.REST: parts.rest,
    }
    if not document.named_by_text:
        fragments[Fragment.CALL_ID] = (document.call_id.encode(),)
    return fragments
