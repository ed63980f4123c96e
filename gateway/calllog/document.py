"""A posted call log: what the gateway must know of it, and its bytes as they came, without the agent's token."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from mmap import mmap
from typing import Final

import msgspec

from gateway.calllog.errors import CallLogError, Fault
from gateway.calllog.toplevel import Member, Scratch, Slice, TopLevel, buffers, is_literal, scan
from spool.moments import LATEST, milliseconds_of_moment
from spool.records import NO_OUTLINE, Buffer, Outline

DEFAULT_EVENT: Final = "call_log"
"""The event of a call log that names none in `wcall_event`."""
DETAIL_EVENT: Final = "call_detail"
"""The event of a detail that another gateway split off (Phase 2): never split again."""
REFERENCE_EVENT: Final = "s3_reference"
"""The event of a note that the call log itself lies in a bucket."""
MAX_NAME_LENGTH: Final = 512
"""Characters of an id, event or environment that are kept beside the body; a longer call_id is refused."""

_TOKEN: Final = "token"
_EMPTY: Final = {b"null", b'""'}
_LONGEST_CREDENTIAL: Final = 8190
"""What common servers read of a header at most."""
_SMALL_BYTES: Final = 64 << 10
_LOCKED_BYTES: Final = 2047
"""hashlib gives Python's lock up for more than this at once, and a busy writer's thread then keeps it for a while."""
_decode_text = msgspec.json.Decoder(str).decode
_is_number = re.compile(rb"-?[0-9]").match


class Document(msgspec.Struct, frozen=True):
    """One checked call log, or a reference to one. Its values lie in the posted body, which must outlive it."""

    call_id: str
    """The `call_id`; one that came as a number is named by its literal text."""
    named_by_text: bool
    """Whether the `call_id` came as a text; otherwise it was a number."""
    agent_id: str | None
    event: str
    """`wcall_event`, or `DEFAULT_EVENT`; `REFERENCE_EVENT` of a reference to a bucket, `DETAIL_EVENT` of a detail."""
    environment: str | None
    token: str | None
    """The top-level `token`, if it is a credential. Any other stays in the document."""
    slices: tuple[Slice, ...]
    """The decoded document without its credential: slices of `top.text` whose concatenation is valid JSON."""
    raw_bytes: int
    """The length of all slices."""
    nonfinite_numbers: int
    """How many NaN and Infinity were replaced by null."""
    top: TopLevel
    is_reference: bool = False
    """Whether it is a note that the call log itself lies in a bucket."""
    stray_token: bool = False
    """Whether it has a top-level `token` that says something and is no credential."""
    happened_at: int | None = None
    """When the start or the end of the call happened, by its own times, in milliseconds; None for other events."""

    @property
    def s3_key(self) -> str | None:
        """Of a reference: the name of the object."""
        return text_of(self.top.values.get("s3_key")) if self.is_reference else None

    def __repr__(self) -> str:
        """Without its token and its content."""
        return f"Document({self.call_id!r}, {self.event!r}, {self.raw_bytes} bytes)"

    @property
    def pieces(self) -> tuple[Buffer, ...]:
        """The bytes of the slices, as views."""
        return buffers(self.top.text, self.slices)

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the pieces, computed each time it is asked for: about 10 ms for 15 MB, so in a thread.

        Not cached here: up to Python 3.11 a cached_property has one lock for all instances, so that threads that hash
        different call logs would wait for each other.
        """
        digest = hashlib.sha256()
        for piece in self.pieces:
            for step in _steps(piece):
                digest.update(step)
        return digest.digest()

    @property
    def members(self) -> Mapping[str, Member]:
        """The top-level members without the credential, in the order of the document; the last one of duplicates.

        Made anew each time it is asked for.
        """
        last = {member.name: member for member in self.top.members()}
        if self.token is not None:
            del last[_TOKEN]
        return {member.name: member for member in sorted(last.values(), key=_index)}


def parse(body: Buffer | mmap, *, scratch: Scratch = bytearray) -> Document:
    """Check a decoded body and take it as a call log.

    Nothing is copied, unless the body holds non-finite numbers: `scratch` then gives the buffer for the copy.
    Raises `CallLogError` when it is not a JSON object in UTF-8 with a usable `call_id`.
    """
    return document_of(scan(body, scratch))


def document_of(top: TopLevel) -> Document:
    """The call log whose top level was scanned. Raises `CallLogError` without a usable `call_id`."""
    values = top.values
    call_id, named_by_text = _call_id(values.get("call_id"))
    reference = is_literal(values.get("s3_reference"), b"true") and "s3_key" in values
    event = REFERENCE_EVENT if reference else _event(values)
    token, stray_token = None, False
    slices: tuple[Slice, ...] = (Slice(0, len(top.text)),)
    if _TOKEN in values:
        token = credential(text_of(values[_TOKEN]))
        if token is not None:
            slices = tuple(kept for kept in _without_token(top) if kept.size)
        else:
            stray_token = bytes(values[_TOKEN]) not in _EMPTY
    return Document(
        call_id,
        named_by_text,
        _text(values.get("agent_id")),
        event,
        _text(values.get("environment")),
        token,
        slices,
        sum([kept.size for kept in slices]),
        top.nonfinite_numbers,
        top,
        reference,
        stray_token,
        _happened_at(event, values),
    )


def _event(values: Mapping[str, msgspec.Raw]) -> str:
    """What the call log says it is. An update without an event is called by its `update_type`."""
    update = _text(values.get("update_type"))
    if update == "detailed_telemetry":
        return DETAIL_EVENT
    return _text(values.get("wcall_event")) or update or DEFAULT_EVENT


_TIME_OF_EVENT: Final = {"call_started": "call_started_at", "call_ended": "call_ended_at"}
_LONGEST_MOMENT: Final = 64
_decode_moment = msgspec.json.Decoder(str | int | float | None).decode


def _happened_at(event: str, values: Mapping[str, msgspec.Raw]) -> int | None:
    return moment_of(values.get(_TIME_OF_EVENT.get(event, "")))


def moment_of(raw: msgspec.Raw | None) -> int | None:
    """A time in milliseconds, as `spool.moments` reads it; None for what is none.

    One without an offset counts as UTC: it is compared with those of the same sender only.
    """
    if raw is None or len(memoryview(raw)) > _LONGEST_MOMENT:
        return None
    try:
        at = milliseconds_of_moment(_decode_moment(raw))
    except (msgspec.DecodeError, RecursionError):
        return None
    return None if at is None else min(max(at, 0), LATEST)


_LONGEST_REASON: Final = 60


def outline_of(document: Document) -> Outline:
    """What a list of calls shows of it: nothing for most events, which say none of this."""
    values = document.top.values
    number, reason = text_of(values.get("customer_number")), text_of(values.get("call_ended_reason"))
    began = None
    if document.event == "call_ended" and document.happened_at is not None:
        began = _happened_at("call_started", values)
    if number is None and reason is None and began is None:
        return NO_OUTLINE
    length = None if began is None or document.happened_at is None else max(0, document.happened_at - began)
    return Outline(number_hint(number) if number else None, length, reason[:_LONGEST_REASON] if reason else None)


def number_hint(number: str) -> str:
    """A number of which nobody can be called: its country, as far as that is its beginning, and its end."""
    kept = number.strip()
    return (
        f"{kept[:2]} \u2022\u2022\u2022\u2022 {kept[-3:]}" if len(kept) > 7 else f"\u2022\u2022\u2022\u2022 {kept[-2:]}"
    )


def text_of(raw: msgspec.Raw | None) -> str | None:
    """The value as text; None where it is missing or not a string."""
    if raw is None:
        return None
    try:
        return _decode_text(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _text(raw: msgspec.Raw | None) -> str | None:
    """A text that is kept beside the body, cut to a length that fits an index and a file name."""
    text = text_of(raw)
    return text[:MAX_NAME_LENGTH] if text else None


def _call_id(raw: msgspec.Raw | None) -> tuple[str, bool]:
    """The call id as text, and whether it came as one. Raises `CallLogError` for what could name no call."""
    if raw is None or is_literal(raw, b"null"):
        raise CallLogError(
            Fault.NO_CALL_ID, "The call log has no call_id.", "Set the top-level field call_id to the call's id."
        )
    text = text_of(raw)
    call_id = _number(raw) if text is None else text
    if call_id is None:
        raise _bad_call_id("neither text nor a number, or holds half of a surrogate pair")
    if not call_id.strip():
        raise CallLogError(Fault.NO_CALL_ID, "The call_id is empty.", "Set call_id to the call's id.")
    if len(call_id) > MAX_NAME_LENGTH:
        raise _bad_call_id(f"longer than {MAX_NAME_LENGTH} characters")
    return call_id, text is not None


def _number(raw: msgspec.Raw) -> str | None:
    """The literal text of a number that could name a call."""
    literal = memoryview(raw)
    return bytes(literal).decode() if len(literal) <= MAX_NAME_LENGTH and _is_number(literal) else None


def _bad_call_id(what: str) -> CallLogError:
    hint = f"Set call_id to a text of 1 to {MAX_NAME_LENGTH} characters, or to a number."
    return CallLogError(Fault.BAD_CALL_ID, f"The call_id is {what}.", hint)


def credential(text: str | None) -> str | None:
    """The text, if it can be a key: a header carries it unchanged, so it is printable, short, without blanks around."""
    if not text or len(text) > _LONGEST_CREDENTIAL or not text.isprintable() or text != text.strip():
        return None
    return text


def _without_token(top: TopLevel) -> Iterator[Slice]:
    """The document with each member named `token` cut out, together with one adjacent comma and its whitespace."""
    members = top.members()
    kept_until = 0
    kept_a_member = False
    for member, following in zip(members, [*members[1:], None], strict=True):
        if member.name != _TOKEN:
            kept_a_member = True
            continue
        cut_from = members[member.index - 1].end if kept_a_member else member.start
        cut_to = following.start if following and not kept_a_member else member.end
        yield Slice(kept_until, max(cut_from, kept_until))
        kept_until = cut_to
    yield Slice(kept_until, len(top.text))


def _index(member: Member) -> int:
    return member.index


def _steps(piece: Buffer) -> Iterator[Buffer]:
    """A large piece whole; a small one, which the event loop hashes itself, so that Python's lock is kept meanwhile."""
    if not _LOCKED_BYTES < len(piece) <= _SMALL_BYTES:
        yield piece
        return
    view = memoryview(piece)
    for start in range(0, len(view), _LOCKED_BYTES):
        yield view[start : start + _LOCKED_BYTES]


# The kind of a posted body, recognised by its top-level members. What an envelope carries is decoded by the intake.

_DATA = "data"
_UPLOAD_REQUEST = {"call_id", "content_type"}


class Envelope(msgspec.Struct, frozen=True, tag=True):
    """A compressed call log: `{"compressed": true, "data": base64 of gzip}`, other members as they may be.

    A body with a `call_id` of its own is a call log, whatever else it holds, and never an envelope.
    """

    data: Slice
    """Where in `text` the JSON string lies that holds what it carries."""
    text: memoryview = memoryview(b"")
    """The document."""


class UploadRequest(msgspec.Struct, frozen=True, tag=True):
    """A request for an address to upload a call log to: exactly `call_id` and `content_type`."""

    call_id: str


Posted = Document | Envelope | UploadRequest


def recognise(top: TopLevel) -> Posted:
    """What a document is. Raises `CallLogError` for one that has no usable `call_id` and needs one."""
    values = top.values
    if "call_id" not in values and is_literal(values.get("compressed"), b"true") and _DATA in values:
        data = next(member for member in reversed(top.members()) if member.name == _DATA)
        return Envelope(Slice(data.value_start, data.end), memoryview(top.text))
    document = document_of(top)
    if len(values) == len(_UPLOAD_REQUEST) and values.keys() == _UPLOAD_REQUEST:
        return UploadRequest(document.call_id)
    return document
