"""Redacts the spans of a post before they are stored. Pure.

Their texts are searched as those of call logs are. What is put together of them later is redacted once more, by the
rules for fields, too.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.calllog.toplevel import scan
from gateway.intake.redaction import redactor_of
from spool.records import NewSpans
from uploaders.redaction.finders import Finder, finders_of, masked
from uploaders.redaction.options import Redaction

if TYPE_CHECKING:
    from google.protobuf.message import Message

_KEPT: Final = frozenset({"key", "schema_url"})
"""Fields that name something. Ids are bytes, and times numbers."""


def redacted(groups: Iterable[NewSpans], redaction: Redaction) -> list[NewSpans]:
    """The spans as they may be stored, each row in its encoding; a row in which nothing is found as it came."""
    return [msgspec.structs.replace(new, data=_row(new.data, redaction)) for new in groups]


def _row(data: bytes, redaction: Redaction) -> bytes:
    if data[:1] == b"{":
        text, counts = redactor_of(redaction).redact(scan(data), bytearray)
        return bytes(text) if counts else data
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415  # an extra
        ExportTraceServiceRequest,
    )

    request = ExportTraceServiceRequest.FromString(data)
    return request.SerializeToString() if _mask(request, finders_of(redaction)) else data


def _mask(message: "Message", finders: tuple[Finder, ...]) -> bool:
    """Mask all texts of a message; whether there was anything to mask."""
    changed = False
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for each in (value,) if hasattr(value, "ListFields") else value:
                changed |= _mask(each, finders)
        elif isinstance(value, str) and field.name not in _KEPT:
            text = masked(value, finders)
            if text != value:
                setattr(message, field.name, text)
                changed = True
    return changed
