"""A part is one stored event of a call (start, end, update, detail), and what a store knows of it beside its bytes.

Pure. A document is kept as it came; what lists and filters need of it (`Head`) is copied out of it as far as it can
be read. A value of an unexpected type is left out of the head; it never makes the part invalid.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from spool.moments import LATEST, milliseconds_of_moment
from spool.records import AGENT_LOST, DETAIL_FORMS, Form


class PartKind(IntEnum):
    """What a part says of its call. The numbers are stored."""

    START = 1
    """The call began."""
    END = 2
    """The call ended; with everything that was known then."""
    CALL = 3
    """All of a call, from a sender that has no events: it waits for no start."""
    UPDATE = 4
    """Something that became known later, such as where the recording is."""
    DETAIL = 5
    """The large rest of a call: telemetry and turns, as stored zstd frames."""
    REFERENCE = 6
    """A note that a document of the call lies in a bucket."""


DETAIL_EVENT: Final = "call_detail"
"""The event of a Phase 2 body (`"update_type": "detailed_telemetry"`)."""
_KINDS: Final[Mapping[str, PartKind]] = {
    "call_started": PartKind.START,
    "call_ended": PartKind.END,
    "call_log": PartKind.CALL,
    "s3_reference": PartKind.REFERENCE,
    DETAIL_EVENT: PartKind.DETAIL,
}


def kind_of(event: str, form: Form) -> PartKind:
    """Which part a delivery is. An unknown event is an update: it completes nothing, and nothing of it is lost."""
    if form in DETAIL_FORMS:
        return PartKind.DETAIL
    if form is Form.NOTICE:
        return PartKind.REFERENCE
    return _KINDS.get(event, PartKind.UPDATE)


class Head(Struct, frozen=True, omit_defaults=True):
    """What lists and filters need of a document. Times are milliseconds since the Unix epoch."""

    agent_id: str | None = None
    customer_number: str | None = None
    environment: str | None = None
    started_at: int | None = None
    ended_at: int | None = None
    reason: str | None = None
    """Why the call ended, as its sender says."""
    summary: dict[str, int | float] | None = None
    """Figures of the call: turns, tokens, average latency, spans, errors, as far as they are known."""


class Part(Struct, frozen=True):
    """One event of a call, ready to be written. `(project, call_id, kind, digest)` names it for good."""

    project: str
    """Whose call it is; empty where there is one tenant only."""
    call_id: str
    """As `key_text` makes it."""
    kind: PartKind
    digest: bytes
    """SHA-256 of the document as it was posted, without its token: the same through retries, replays and sidecars."""
    accepted_at: int
    """When the spool accepted it, in milliseconds (`shown_as_of`). Of two parts of one kind the later one is shown."""
    source_uid: str
    """The record that it came from."""
    event: str
    document: bytes
    """The JSON text, unchanged; empty for a detail, whose frames are written beside it."""
    head: Head = Head()

    @property
    def rank(self) -> tuple[int, bytes]:
        """Of several parts of one kind the one with the highest rank is shown, whatever order they came in."""
        return (self.accepted_at, self.digest)


def shown_as_of(kind: PartKind, head: Head, accepted_at: int) -> int:
    """From when a part counts among those of its kind.

    An end that says that the agent is lost is as old as what it knows: a real end that another gateway accepted
    before it, after the agent was heard of last, is shown.
    """
    if kind is PartKind.END and head.reason == AGENT_LOST and head.ended_at is not None:
        return min(accepted_at, head.ended_at)
    return accepted_at


def lag_seconds(parts: Iterable[Part], now: int) -> float:
    """How long ago the oldest of these was accepted, without those that count as older (`shown_as_of`)."""
    accepted = [part.accepted_at for part in parts if part.head.reason != AGENT_LOST]
    return max(now - min(accepted, default=now), 0) / 1000


# Texts that a database refuses: NUL anywhere in PostgreSQL, lone surrogates wherever a text must be UTF-8.

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
MAX_TEXT: Final = 512
"""Characters of a text that are kept in a column of its own."""


def storable_text(text: str) -> str:
    """The text, cut to `MAX_TEXT`, with a replacement character for each one that no database takes."""
    if len(text) <= MAX_TEXT and text.isprintable():
        return text  # nearly every one; a fifth of the time of a search
    return _UNSTORABLE.sub(_REPLACEMENT, text[:MAX_TEXT])


def key_text(text: str) -> str:
    """The text as a key: distinct texts stay distinct, also where characters had to be replaced or cut."""
    stored = storable_text(text)
    if stored == text:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{stored[: MAX_TEXT - 17]}~{digest}"


# Reading a head out of a document.

_METRICS: Final = {"turns": "total_turns", "tokens": "total_tokens", "average_latency_seconds": "avg_latency"}
_TELEMETRY: Final = {"spans": "total_spans", "errors": "error_count"}
"""Figures of a summary by their name here, and what `summary_metrics` and `telemetry_summary` of a core call them."""
_LARGEST_EXACT: Final = 1 << 53
_SLOW_BYTES: Final = 32 << 20
"""A document that the fast decoder refuses is read with the standard library's, unless it is larger than this."""


class _Members(Struct):
    agent_id: Any = None  # Any, here and below: whatever an agent wrote
    customer_number: Any = None
    environment: Any = None
    call_started_at: Any = None
    call_ended_at: Any = None
    call_ended_reason: Any = None
    summary_metrics: Any = None
    telemetry_summary: Any = None
    transcript_json: list[Raw] | None = None


_decode_members = msgspec.json.Decoder(_Members).decode


def read_head(document: bytes) -> Head:
    """What lists need of a document; an empty head for one that cannot be read."""
    try:
        return _head(_decode_members(document))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _head(_read_slowly(document))


def _read_slowly(document: bytes) -> _Members:
    """With the standard library, which takes lone surrogates and numbers beyond any float; no members if it fails."""
    if len(document) > _SLOW_BYTES:
        return _Members()
    try:
        values = json.loads(document)
    except (ValueError, RecursionError):
        return _Members()
    if not isinstance(values, dict):
        return _Members()
    members = _Members(**{name: values[name] for name in _Members.__struct_fields__ if name in values})
    if not isinstance(members.transcript_json, list):
        members.transcript_json = None
    return members


def _head(members: _Members) -> Head:
    return Head(
        agent_id=_text(members.agent_id),
        customer_number=_text(members.customer_number),
        environment=_text(members.environment),
        started_at=moment(members.call_started_at),
        ended_at=moment(members.call_ended_at),
        reason=_text(members.call_ended_reason),
        summary=_summary(members),
    )


def _text(value: object) -> str | None:
    """A text or a number as text; None for anything else, and for an empty one."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST_EXACT << 32:
        value = str(value)  # of a million digits it is refused
    return storable_text(value) or None if isinstance(value, str) else None


def _summary(members: _Members) -> dict[str, int | float] | None:
    """The figures that a document has; without its own count, the turns of its transcript."""
    turns = members.transcript_json
    figures: dict[str, int | float] = {} if turns is None else {"turns": len(turns)}
    for holder, names in ((members.summary_metrics, _METRICS), (members.telemetry_summary, _TELEMETRY)):
        if not isinstance(holder, dict):
            continue
        for name, member in names.items():
            number = holder.get(member)
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if abs(number) < _LARGEST_EXACT:  # False for NaN too
                figures[name] = number
    return figures or None


def moment(value: object) -> int | None:
    """Milliseconds since the Unix epoch, as `spool.moments` reads a time; None for one outside of 1970 to 9999.

    A time without an offset is taken as UTC: the agent's own zone is not known here.
    """
    at = milliseconds_of_moment(value)
    return at if at is not None and 0 <= at <= LATEST else None
