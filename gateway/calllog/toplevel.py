"""The top level of a posted JSON object: its members as raw slices, checked as a whole, nothing of them built.

The fast decoder (1.6 GB/s) checks all the JSON and gives each top-level value as a view into the document. Only
what it refuses goes the slower ways, in this order: non-finite numbers are replaced by null and the decoder is
asked again; what is still refused goes through the scanner, which accepts lone surrogates and deep nesting, or
names the byte that is wrong.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from mmap import mmap
from typing import Final

import msgspec

from gateway.calllog.errors import CallLogError, Fault
from gateway.calllog.scanner import Span, scan_object
from gateway.calllog.shape import Bounds, Costly, check_shape
from spool.records import Buffer

# Checks that a body is UTF-8: the JSON decoder does not look inside the strings that it skips.

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_STEP = 1 << 20
"""How much is looked at at once: a decoded copy of this size is thrown away at each step."""


def check_utf8(text: bytes | memoryview, *, offset: int = 0) -> None:
    """Return if `text` is valid UTF-8; `offset` is where it begins in the posted body.

    Raises `CallLogError` (not_utf8) with the position of the first byte that is not.
    """
    if isinstance(text, bytes) and text.isascii():
        return
    position = 0
    while position < len(text):
        step = bytes(text[position : position + _STEP])
        if step.isascii():
            position += len(step)
            continue
        last = position + len(step) == len(text)
        try:
            position += codecs.utf_8_decode(step, "strict", last)[1]
        except UnicodeDecodeError as error:
            raise _not_utf8(offset + position + error.start) from None


def _not_utf8(position: int) -> CallLogError:
    return CallLogError(
        Fault.NOT_UTF8,
        f"The body is not valid UTF-8: byte {position} (counted from 0) does not belong there.",
        "Send JSON encoded as UTF-8; a compressed body needs its Content-Encoding header.",
        position,
    )


# Replaces NaN, Infinity and -Infinity by null: Python's `json.dumps` writes them, JSON does not know them.

Scratch = Callable[[int], bytearray | mmap]
"""Returns a writable buffer of this many bytes; for giants a mapped file."""

_UNINTERESTING = re.compile(rb'(?:[^"NI]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Everything up to the next N or I outside of strings, in one step that never goes back."""
_LITERAL = re.compile(rb"NaN|Infinity")
_NULL = b"null"


def find_nonfinite(text: memoryview) -> Iterator[tuple[int, int]]:
    """Where non-finite numbers stand outside of strings, as (start, end), the minus sign included.

    Stops at the first byte that cannot be JSON; the scanner then reports it.
    """
    position = 0
    while (skipped := _UNINTERESTING.match(text, position)) and (literal := _LITERAL.match(text, skipped.end())):
        start, position = literal.span()
        signed = literal[0] != b"NaN" and start > 0 and text[start - 1] == ord("-")
        yield start - signed, position


def replace_by_null(text: memoryview, scratch: Scratch) -> tuple[memoryview, int]:
    """A copy of `text` in a buffer of `scratch`, with null for each non-finite number, and how many these were.

    With none the text itself is returned. They are looked for twice, because a list of them could be many times
    larger than the text.
    """
    count, size = 0, len(text)
    for start, end in find_nonfinite(text):
        count += 1
        size += len(_NULL) - (end - start)
    if not count:
        return text, 0
    copy = memoryview(scratch(size))
    read = written = 0
    for start, end in find_nonfinite(text):
        kept = start - read
        copy[written : written + kept] = text[read:start]
        copy[written + kept : written + kept + len(_NULL)] = _NULL
        written += kept + len(_NULL)
        read = end
    copy[written:size] = text[read:]
    return copy, count


# Pieces of a document: where its values lie, as offsets, so that a process that has only mapped it can name them.
#
# What is stored of a call log is a sequence of pieces. Almost all are slices of the posted text, which is never copied;
# the few others are bytes that were made (commas, summaries).


class Slice(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The bytes of a document from `start` up to, but not including, `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """How many these are."""
        return self.end - self.start


Piece = Slice | bytes


def buffers(text: bytes | memoryview, pieces: Iterable[Piece]) -> tuple[Buffer, ...]:
    """The pieces of `text` as views of it; one that is all of it is the text itself."""
    view = memoryview(text)
    return tuple([_buffer(text, view, piece) for piece in pieces])


def _buffer(text: bytes | memoryview, view: memoryview, piece: Piece) -> Buffer:
    if isinstance(piece, bytes):
        return piece
    return text if piece.end - piece.start == len(text) else view[piece.start : piece.end]


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


_decode_last = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


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


def scan(body: Buffer | mmap, scratch: Scratch = bytearray, bounds: Bounds | None = None) -> TopLevel:
    """Check a posted body and return its top level. Nothing is copied unless it holds non-finite numbers.

    For those `scratch` gives the buffer of the copy. Raises `CallLogError`, and `Costly` for what is out of `bounds`.
    """
    text = body if isinstance(body, bytes) else memoryview(body)
    offset = 0
    if text[:3] == BYTE_ORDER_MARK:
        offset = len(BYTE_ORDER_MARK)
        text = memoryview(text)[offset:]
    if bounds is not None and bounds.separators is not None:
        check_shape(text, bounds)
    check_utf8(text, offset=offset)
    most = None if bounds is None else bounds.members
    try:
        return _decode(text, most)
    except (msgspec.DecodeError, RecursionError):
        if bounds is not None and bounds.slow_bytes is not None and len(text) > bounds.slow_bytes:
            raise Costly from None
        return _scan_slowly(memoryview(text), offset, scratch, most)


def is_literal(raw: msgspec.Raw | None, literal: bytes) -> bool:
    """Whether the value is there and written exactly so."""
    return raw is not None and len(view := memoryview(raw)) == len(literal) and bytes(view) == literal


def _decode(text: bytes | memoryview, most: int | None = None, nonfinite_numbers: int = 0) -> TopLevel:
    if len(text) < _LARGE:
        return TopLevel(text, _decode_last(text), nonfinite_numbers)
    found = _all_members(text, most)
    return TopLevel(text, dict(found), nonfinite_numbers, found)


def _all_members(text: bytes | memoryview, most: int | None = None) -> list[tuple[str, msgspec.Raw]]:
    """Raises `Costly` at the first member above `most`, before the rest is decoded."""
    met = 0

    def occurrence(_type: type, name: str) -> _Occurrence:
        nonlocal met
        met += 1
        if most is not None and met > most:
            raise Costly
        return _Occurrence(name)

    decoder = msgspec.json.Decoder(dict[_Occurrence, msgspec.Raw], dec_hook=occurrence)
    return [(each.name, raw) for each, raw in decoder.decode(text).items()]


def _scan_slowly(text: memoryview, offset: int, scratch: Scratch, most: int | None) -> TopLevel:
    if not text:
        raise CallLogError(Fault.NOT_JSON, "The body is empty.", "Send the call log as a JSON object.", offset)
    finite, replaced = replace_by_null(text, scratch)
    if replaced:
        try:
            return _decode(finite, most, replaced)
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
