"""A strict JSON scanner for the documents that the fast decoder refuses: it goes any depth and keeps every byte.

It exists because the fast decoder stops at 1,000 levels of nesting (with Python 3.12 at 1,500, with 3.13 at 10,000), at
the halves of surrogate pairs that Python's `json.dumps` writes, and because it does not say where a cut-off document
ends. It builds no values: it only finds where the top-level members lie, in runs of scalars that one regular expression
swallows at a time.
"""

import re
from typing import NamedTuple

from gateway.calllog.errors import CallLogError, Fault

MAX_DEPTH = 10_000
"""Levels of nesting that are accepted. No known JSON reader of an endpoint goes deeper than that."""

# Up to Python 3.11.4 a possessive group may stay where it failed instead of going back to where it began; it depends on
# what stands in it. So these hold nothing but plain alternatives; what holds more is not possessive, and repeated only
# so often.
_BLANK = rb"[ \t\n\r]*+"
_HEX = rb"[0-9a-fA-F]"
_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u' + 4 * _HEX + rb')*+"'
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_SCALAR = rb"(?:" + _STRING + rb"|-?Infinity|NaN|" + _NUMBER + rb"|true|false|null)"
_RUN = rb"{0,1000}"

_skip_blank = re.compile(_BLANK).match
_skip_scalar = re.compile(_SCALAR).match
_skip_name = re.compile(_STRING).match
_skip_colon = re.compile(_BLANK + rb":" + _BLANK).match
_skip_elements = re.compile(rb"(?:" + _SCALAR + _BLANK + rb"," + _BLANK + rb")" + _RUN).match
_skip_members = re.compile(
    rb"(?:" + _STRING + _BLANK + rb":" + _BLANK + _SCALAR + _BLANK + rb"," + _BLANK + rb")" + _RUN
).match
_sound_part_of_string = re.compile(_STRING[:-1]).match

_OPEN_OBJECT, _CLOSE_OBJECT = b"{}"
_OPEN_ARRAY, _CLOSE_ARRAY = b"[]"
_COMMA, _QUOTE = b',"'


class Span(NamedTuple):
    """Where one top-level member lies: its key with the quotes, and its value."""

    key_start: int
    key_end: int
    value_start: int
    value_end: int


def scan_object(text: memoryview, *, offset: int = 0) -> list[Span]:
    """Check all of `text` and return the spans of its top-level members, in order, duplicates included.

    NaN and Infinity pass as numbers, and any `\\uXXXX` escape in strings. `offset` is where `text` begins in the
    posted body, for the positions in errors. Raises `CallLogError`: not_json, not_an_object, too_deep.
    """
    try:
        return _scan(text)
    except IndexError:
        raise _not_json("The JSON ends in the middle", len(text) + offset) from None
    except _TooDeep as fault:
        raise CallLogError(
            Fault.TOO_DEEP,
            f"Arrays and objects are nested more than {MAX_DEPTH} levels deep.",
            "Flatten the deepest part of the call log.",
            fault.position + offset,
        ) from None
    except _Unexpected as fault:
        raise _not_json("The JSON is broken", fault.position + offset) from None


class _Unexpected(Exception):
    """A byte that cannot stand where it stands."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class _TooDeep(_Unexpected):
    """The opening of a container below the deepest level that is accepted."""


def _not_json(what: str, position: int) -> CallLogError:
    return CallLogError(
        Fault.NOT_JSON,
        f"{what}, at byte {position} (counted from 0).",
        "Send one complete JSON object; check whether the body was cut off on its way.",
        position,
    )


def _scan(text: memoryview) -> list[Span]:
    position = _blank(text, 0)
    if text[position] != _OPEN_OBJECT:
        _end_at(text, _value(text, position))
        raise CallLogError(Fault.NOT_AN_OBJECT, "The body is not a JSON object.", "Send the call log as an object.")
    spans: list[Span] = []
    position = _blank(text, position + 1)
    while spans or text[position] != _CLOSE_OBJECT:
        value_start, key_end = _name(text, position)
        value_end = _value(text, value_start)
        spans.append(Span(position, key_end, value_start, value_end))
        position = _blank(text, value_end)
        if text[position] != _COMMA:
            break
        position = _blank(text, position + 1)
    if text[position] != _CLOSE_OBJECT:
        raise _Unexpected(position)
    _end_at(text, position + 1)
    return spans


def _end_at(text: memoryview, position: int) -> None:
    """Nothing but blanks may stand behind the document."""
    if (end := _blank(text, position)) != len(text):
        raise _Unexpected(end)


def _value(text: memoryview, position: int) -> int:
    """Where the value that begins at `position` ends. Keeps its own stack, so depth costs a byte a level."""
    closers = bytearray()
    while True:
        opener = text[position]
        if opener in {_OPEN_OBJECT, _OPEN_ARRAY}:
            closers.append(_CLOSE_OBJECT if opener == _OPEN_OBJECT else _CLOSE_ARRAY)
            if len(closers) >= MAX_DEPTH:
                raise _TooDeep(position)
            position = _blank(text, position + 1)
            if text[position] != closers[-1]:
                position = _next_value(text, position, closers[-1])
                continue
        else:
            position = _scalar(text, position)
        position = _leave(text, position, closers)
        if not closers:
            return position
        position = _next_value(text, _blank(text, position + 1), closers[-1])


def _leave(text: memoryview, position: int, closers: bytearray) -> int:
    """Close the containers that end here; the position of the next comma, or the end when none is open."""
    while closers:
        position = _blank(text, position)
        if text[position] != closers[-1]:
            if text[position] != _COMMA:
                raise _Unexpected(position)
            return position
        closers.pop()
        position += 1
    return position


def _next_value(text: memoryview, position: int, closer: int) -> int:
    """Swallow the scalars that come first and, in an object, the next key; where the next value begins."""
    if closer == _CLOSE_ARRAY:
        return _end(_skip_elements(text, position))
    return _name(text, _end(_skip_members(text, position)))[0]


def _name(text: memoryview, position: int) -> tuple[int, int]:
    """The end of the key at `position`, behind its colon, and before it."""
    if text[position] != _QUOTE:
        raise _Unexpected(position)
    if not (name := _skip_name(text, position)):
        raise _Unexpected(_inside(text, position))
    key_end = name.end()
    if not (colon := _skip_colon(text, key_end)):
        raise _Unexpected(_blank(text, key_end))
    return colon.end(), key_end


def _scalar(text: memoryview, position: int) -> int:
    if scalar := _skip_scalar(text, position):
        return scalar.end()
    raise _Unexpected(_inside(text, position) if text[position] == _QUOTE else position)


def _inside(text: memoryview, position: int) -> int:
    """Where the broken string that begins at `position` stops being sound. IndexError: it has no end."""
    stop = _end(_sound_part_of_string(text, position))
    text[stop]
    return stop


def _blank(text: memoryview, position: int) -> int:
    return _end(_skip_blank(text, position))


def _end(match: re.Match[bytes] | None) -> int:
    """The end of a match that cannot fail, because its expression matches nothing, too."""
    assert match is not None
    return match.end()
