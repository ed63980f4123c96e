"""The top level of a posted JSON object: its members as raw slices, checked as a whole, nothing of them built.

The fast decoder (1.6 GB/s) checks all the JSON and gives each top-level value as a view into the document. Only
what it refuses goes the slower ways, in this order: non-finite numbers are replaced by null and the decoder is
asked again; what is still refused goes through the scanner, which accepts lone surrogates and deep nesting, or
names the byte that is wrong.
"""

import json
import re
from collections.abc import Mapping, Sequence
from mmap import mmap
from typing import Final

import msgspec

from gateway.calllog.encoding import BYTE_ORDER_MARK, check_utf8
from gateway.calllog.errors import CallLogError, Fault
from gateway.calllog.nonfinite import Scratch, replace_by_null
from gateway.calllog.pieces import Piece, Slice
from gateway.calllog.scanner import Span, scan_object
from spool.records import Buffer

_LARGE: Final = 64 * 1024
"""From here on the first decoding notes duplicate keys, because a second one would cost more than that."""
_COMPACT_COLON: Final = 2
_BEFORE_MEMBER = re.compile(rb"[ \t\n\r{,]*+").match
_KEY = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL).match
_COLON = re.compile(rb"[ \t\n\r:]*+").match


class _Occurrence:
    """A key as the decoder met it. Equal to itself alone, so that duplicate keys stay apart in a dict."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def _occurrence(_type: type, name: str) -> _Occurrence:
    return _Occurrence(name)


_decode_last = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_all = msgspec.json.Decoder(dict[_Occurrence, msgspec.Raw], dec_hook=_occurrence).decode


class Member(msgspec.Struct, frozen=True, gc=False):
    """One member of the top-level object, as offsets into `text`, from its key's quote to its value's end.

    `index` counts the members of the document, duplicates included.
    """

    name: str
    text: memoryview
    index: int
    start: int
    key_end: int
    value_start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of `pieces`."""
        return self.end - self.start if self.compact else self.key_end - self.start + 1 + self.end - self.value_start

    @property
    def compact(self) -> bool:
        """Whether there is no more whitespace around the colon than `json.dumps` writes."""
        return self.value_start - self.key_end <= _COMPACT_COLON

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The member as it came, but for excessive whitespace around its colon."""
        if self.compact:
            return (Slice(self.start, self.end),)
        return (Slice(self.start, self.key_end), b":", Slice(self.value_start, self.end))

    @property
    def key(self) -> memoryview:
        """The key as it came, with its quotes and escapes."""
        return self.text[self.start : self.key_end]

    @property
    def value(self) -> memoryview:
        """The value as it came."""
        return self.text[self.value_start : self.end]


class TopLevel(msgspec.Struct, frozen=True):
    """A JSON object that was checked to its last byte."""

    text: bytes | memoryview
    """The document: the posted one, without its byte order mark, and with non-finite numbers replaced by null."""
    values: Mapping[str, msgspec.Raw]
    """Each top-level key with its value; the last one of duplicates."""
    nonfinite_numbers: int = 0
    found: Sequence[tuple[str, msgspec.Raw]] | None = None
    """All members with duplicates, where the decoder noted them at once."""
    spans: Sequence[Span] | None = None
    """Where the members lie, if the scanner had to look for them."""

    def members(self) -> list[Member]:
        """All members in the order of the document, duplicates included."""
        view = memoryview(self.text)
        if self.spans is None:
            return _walk(view, self.found or _all_members(self.text))
        return [Member(_name(view, span), view, index, *span) for index, span in enumerate(self.spans)]


def scan(body: Buffer | mmap, scratch: Scratch = bytearray) -> TopLevel:
    """Check a posted body and return its top level. Nothing is copied unless it holds non-finite numbers.

    For those `scratch` gives the buffer of the copy. Raises `CallLogError`.
    """
    text = body if isinstance(body, bytes) else memoryview(body)
    offset = 0
    if text[:3] == BYTE_ORDER_MARK:
        offset = len(BYTE_ORDER_MARK)
        text = memoryview(text)[offset:]
    check_utf8(text, offset=offset)
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return _scan_slowly(memoryview(text), offset, scratch)


def is_literal(raw: msgspec.Raw | None, literal: bytes) -> bool:
    """Whether the value is there and written exactly so."""
    return raw is not None and len(view := memoryview(raw)) == len(literal) and bytes(view) == literal


def _decode(text: bytes | memoryview, nonfinite_numbers: int = 0) -> TopLevel:
    if len(text) < _LARGE:
        return TopLevel(text, _decode_last(text), nonfinite_numbers)
    found = _all_members(text)
    return TopLevel(text, dict(found), nonfinite_numbers, found)


def _all_members(text: bytes | memoryview) -> list[tuple[str, msgspec.Raw]]:
    return [(occurrence.name, raw) for occurrence, raw in _decode_all(text).items()]


def _scan_slowly(text: memoryview, offset: int, scratch: Scratch) -> TopLevel:
    if not text:
        raise CallLogError(Fault.NOT_JSON, "The body is empty.", "Send the call log as a JSON object.", offset)
    finite, replaced = replace_by_null(text, scratch)
    if replaced:
        try:
            return _decode(finite, replaced)
        except (msgspec.DecodeError, RecursionError):
            scan_object(text, offset=offset)
    spans = scan_object(finite, offset=offset)
    values = {_name(finite, span): msgspec.Raw(finite[span.value_start : span.value_end]) for span in spans}
    return TopLevel(finite, values, replaced, spans=spans)


def _name(text: memoryview, span: Span) -> str:
    """The key of a member as text. `json` is asked because it takes lone surrogates, and keeps them."""
    name: str = json.loads(bytes(text[span.key_start : span.key_end]))
    return name


def _walk(text: memoryview, found: Sequence[tuple[str, msgspec.Raw]]) -> list[Member]:
    """Find each member by stepping over the raw values, whose lengths the decoder knows."""
    members: list[Member] = []
    position = 0
    for index, (name, raw) in enumerate(found):
        start = _end(_BEFORE_MEMBER(text, position))
        key_end = _end(_KEY(text, start))
        value_start = _end(_COLON(text, key_end))
        position = value_start + len(memoryview(raw))
        members.append(Member(name, text, index, start, key_end, value_start, position))
    return members


def _end(match: re.Match[bytes] | None) -> int:
    """The end of a match that cannot fail: the text was checked before."""
    assert match is not None
    return match.end()
