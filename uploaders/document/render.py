"""How each form of a record is joined from what the spool keeps of it.

The result is a sequence of pieces: literal JSON glue, and fragments whose bytes go in between as they are. Nothing
here reads a payload, so a form costs the same to describe whether it is 2 KB or 2 GB.

    whole   BODY, or {BASE,REST}
    core    BODY, or {BASE,DERIVED}
    detail  {"call_id":..,"update_type":"detailed_telemetry",REST}
    reduced  the same: `uploaders.document.encoding` then leaves out of it what is not to be sent
    notice  {"s3_reference":true,"s3_bucket":..,"s3_key":..,"call_id":..,"agent_id":..,"environment":..}
"""

import json
from collections.abc import AsyncIterator, Sequence

from spool.errors import CorruptPayload
from spool.records import DETAIL_FORMS, Delivery, Form, Fragment, Record

Piece = bytes | Fragment
"""Literal JSON, or a fragment that stands for its raw bytes."""


class BadLocation(ValueError):
    """The location of a notice is missing or not an `s3://bucket/key`."""


def render(delivery: Delivery) -> tuple[Piece, ...]:
    """The pieces that, one after the other, are the JSON document that this delivery carries.

    Raises `BadLocation` for a notice without an object, and `CorruptPayload` when the record has none of the
    fragments that its form is made of.
    """
    record = delivery.record
    if delivery.form is Form.NOTICE:
        return (_notice(record, delivery.location),)
    if _is_stored(record, Fragment.BODY) and delivery.form not in DETAIL_FORMS:
        return (Fragment.BODY,)
    _require_fragments(record, delivery.form)
    if delivery.form in DETAIL_FORMS:
        return _detail(record)
    second = Fragment.REST if delivery.form is Form.WHOLE else Fragment.DERIVED
    return _object(record, (Fragment.BASE, second))


def raw_bytes_of(record: Record, pieces: Sequence[Piece]) -> int:
    """The length in bytes of the document that these pieces of a record make, known without reading the payload."""
    fragments = record.fragments
    return sum([len(piece) if isinstance(piece, bytes) else fragments[piece].raw_bytes for piece in pieces])


def parse_location(location: str | None) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`. Raises `BadLocation`."""
    scheme, separator, rest = (location or "").partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not separator or not bucket or not key:
        raise BadLocation(f"a notice without an object: expected a location like s3://bucket/key, got {location!r}")
    return bucket, key


def _detail(record: Record) -> tuple[Piece, ...]:
    """The detail, with the `call_id` as it came: one that was a number is stored for this."""
    if not _is_stored(record, Fragment.CALL_ID):
        opening = {"call_id": record.call_id, "update_type": "detailed_telemetry"}
        return _object(record, (json.dumps(opening).encode()[1:-1], Fragment.REST))
    pieces = _object(record, (b'"update_type": "detailed_telemetry"', Fragment.REST))
    return (b'{"call_id": ', Fragment.CALL_ID, b", ", *pieces[1:])


def _object(record: Record, runs: Sequence[Piece]) -> tuple[Piece, ...]:
    """One JSON object from runs of members; a run that is not stored, or empty, leaves no comma behind."""
    pieces: list[Piece] = [b"{"]
    for run in runs:
        if isinstance(run, Fragment) and not _is_stored(record, run):
            continue
        if len(pieces) > 1:
            pieces.append(b",")
        pieces.append(run)
    return (*pieces, b"}")


def _notice(record: Record, location: str | None) -> bytes:
    bucket, key = parse_location(location)
    notice = {
        "s3_reference": True,
        "s3_bucket": bucket,
        "s3_key": key,
        "call_id": record.call_id,
        "agent_id": record.agent_id,
        "environment": record.environment,
    }
    return json.dumps(notice).encode()


def _is_stored(record: Record, fragment: Fragment) -> bool:
    stored = record.fragments.get(fragment)
    return stored is not None and stored.chunks > 0 and stored.raw_bytes > 0


def _require_fragments(record: Record, form: Form) -> None:
    """A document made of glue alone would overwrite a call with nothing; better a dead letter with a reason."""
    needed = (Fragment.REST,) if form in DETAIL_FORMS else (Fragment.BASE,)
    if not any(fragment in record.fragments for fragment in needed):
        names = ", ".join(sorted(record.fragments)) or "nothing"
        raise CorruptPayload(f"record {record.uid} has no {needed[0]} to make its {form} from: it has {names}")


# Puts a member at the end of a JSON object while that streams by.

_WHITESPACE = b" \t\r\n"


def encoded_member(name: str, value: str) -> bytes:
    """A member behind others: with the comma."""
    return f",{json.dumps(name)}:{json.dumps(value)}".encode()


async def with_last_member(document: AsyncIterator[bytes], member: bytes) -> AsyncIterator[bytes]:
    """The document with `member` before its last brace; the rest stays byte for byte as it came.

    The document is an object with at least one member. What may be its last brace, with the whitespace behind it, is
    held back until more comes or the end.
    """
    held = b""
    async for chunk in document:
        held += chunk
        brace = held.rfind(b"}")
        if brace < 0 or held[brace + 1 :].strip(_WHITESPACE):
            yield held
            held = b""
            continue
        if brace > 0:
            yield held[:brace]
        held = held[brace:]
    yield member + held
