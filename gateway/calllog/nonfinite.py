"""Replaces NaN, Infinity and -Infinity by null: Python's `json.dumps` writes them, JSON does not know them."""

import re
from collections.abc import Callable
from mmap import mmap

Scratch = Callable[[int], bytearray | mmap]
"""Gives a writable buffer of exactly so many bytes; for giants one that is mapped to a file."""

_UNINTERESTING = re.compile(rb'(?:[^"NI]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Everything up to the next N or I outside of strings, in one step that never goes back."""
_LITERAL = re.compile(rb"NaN|Infinity")
_NULL = b"null"


def find_nonfinite(text: memoryview) -> list[tuple[int, int]]:
    """Where non-finite numbers stand outside of strings, as (start, end), the minus sign included.

    Stops at the first thing that cannot be JSON; whoever reads the text afterwards finds that fault again.
    """
    found: list[tuple[int, int]] = []
    position = 0
    while (skipped := _UNINTERESTING.match(text, position)) and (literal := _LITERAL.match(text, skipped.end())):
        start, position = literal.span()
        signed = literal[0] != b"NaN" and start > 0 and text[start - 1] == ord("-")
        found.append((start - signed, position))
    return found


def replace_by_null(text: memoryview, found: list[tuple[int, int]], scratch: Scratch) -> memoryview:
    """A copy of `text` in a buffer of `scratch`, with each range of `found` (in order) replaced by `null`."""
    size = len(text) + sum(len(_NULL) - (end - start) for start, end in found)
    copy = memoryview(scratch(size))
    read = written = 0
    for start, end in [*found, (len(text), len(text))]:
        kept = start - read
        copy[written : written + kept] = text[read:start]
        written += kept
        if start < len(text):
            copy[written : written + len(_NULL)] = _NULL
            written += len(_NULL)
        read = end
    return copy
