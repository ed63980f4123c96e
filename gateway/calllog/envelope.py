"""What kind of body was posted, told by its top-level members. What an envelope carries is decoded by the intake."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from mmap import mmap

import msgspec

from gateway.calllog.document import CallLog, call_log_of, is_reference, text_of
from gateway.calllog.nonfinite import Scratch
from gateway.calllog.pieces import Slice
from gateway.calllog.toplevel import TopLevel, is_literal, scan
from spool.records import Buffer

_DATA = "data"
_UPLOAD_URL_REQUEST = {"call_id", "content_type"}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A compressed call log: `{"compressed": true, "data": base64 of gzip}`, other members as they may be.

    A body with a `call_id` of its own is a call log, whatever else it holds, and never an envelope.
    """

    top: TopLevel = field(repr=False)

    @property
    def data(self) -> Slice:
        """Where in `top.text` the JSON string lies that holds what it carries."""
        member = next(member for member in reversed(self.top.members()) if member.name == _DATA)
        return Slice(member.value_start, member.end)


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
    if "call_id" not in values and is_literal(values.get("compressed"), b"true") and _DATA in values:
        return Envelope(top)
    if len(values) == len(_UPLOAD_URL_REQUEST) and values.keys() == _UPLOAD_URL_REQUEST:
        return UploadUrlRequest(call_log_of(top).call_id, text_of(values["content_type"]) or "")
    call_log = call_log_of(top)
    if is_reference(values):
        return _reference(call_log, values)
    return call_log


def _reference(call_log: CallLog, values: Mapping[str, msgspec.Raw]) -> S3Reference:
    return S3Reference(call_log, text_of(values.get("s3_bucket")), text_of(values.get("s3_key")))
