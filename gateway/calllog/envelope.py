"""What kind of body was posted, told by its top-level members; and the envelope of compressed call logs."""

import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from mmap import mmap

import msgspec

from gateway.calllog.document import CallLog, call_log_of, is_reference, text_of
from gateway.calllog.errors import CallLogError, Fault
from gateway.calllog.nonfinite import Scratch
from gateway.calllog.toplevel import is_literal, scan
from spool.records import Buffer

_UPLOAD_URL_REQUEST = {"call_id", "content_type"}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A compressed call log: `{"compressed": true, "data": base64 of gzip}`, other members as they may be.

    A body with a `call_id` of its own is a call log, whatever else it holds, and never an envelope.
    """

    data: msgspec.Raw = field(repr=False)
    """The JSON string as it came, a view into the body."""


@dataclass(frozen=True, slots=True)
class UploadUrlRequest:
    """A request for an address to upload a call log to: exactly `call_id` and `content_type`."""

    call_id: str
    content_type: str


@dataclass(frozen=True, slots=True)
class S3Reference:
    """A note that the call log lies in a bucket. `call_log` is the note itself, to be spooled like a call log."""

    call_log: CallLog
    bucket: str | None
    key: str | None


Posted = CallLog | Envelope | UploadUrlRequest | S3Reference


def recognise(body: Buffer | mmap, *, scratch: Scratch = bytearray) -> Posted:
    """Check a decoded body and say what it is, in one pass: `parse` need not be called on the same body.

    `scratch` gives the buffer for the copy of a body with non-finite numbers. Raises `CallLogError`.
    """
    top = scan(body, scratch)
    values = top.values
    if "call_id" not in values and is_literal(values.get("compressed"), b"true") and "data" in values:
        return Envelope(values["data"])
    if len(values) == len(_UPLOAD_URL_REQUEST) and values.keys() == _UPLOAD_URL_REQUEST:
        return UploadUrlRequest(call_log_of(top).call_id, text_of(values["content_type"]) or "")
    call_log = call_log_of(top)
    if is_reference(values):
        return _reference(call_log, values)
    return call_log


def open_envelope(envelope: Envelope) -> bytes:
    """The gzip bytes that the envelope carries; they are not looked at.

    Raises `CallLogError` (bad_envelope) when its data is not the base64, with padding and nothing else, of
    something.
    """
    quoted = memoryview(envelope.data)
    try:
        if bytes(quoted[:1]) != b'"':
            raise _bad_envelope("is not a text")
        compressed = _decode_base64(quoted)
    except (binascii.Error, ValueError):
        raise _bad_envelope("is not valid base64, or was cut off") from None
    if not compressed:
        raise _bad_envelope("is empty")
    return compressed


def _decode_base64(quoted: memoryview) -> bytes:
    try:
        return binascii.a2b_base64(quoted[1:-1], strict_mode=True)
    except binascii.Error:
        # A JSON text may hold escapes, and some encoders write every slash as \/.
        return binascii.a2b_base64(msgspec.json.decode(quoted, type=str), strict_mode=True)


def _bad_envelope(what: str) -> CallLogError:
    return CallLogError(
        Fault.BAD_ENVELOPE,
        f"The body says that it is compressed, but its `data` {what}.",
        "Put the base64 of the gzipped call log into `data`, or post the call log itself.",
    )


def _reference(call_log: CallLog, values: Mapping[str, msgspec.Raw]) -> S3Reference:
    return S3Reference(call_log, text_of(values.get("s3_bucket")), text_of(values.get("s3_key")))
