"""Replaces NaN, Infinity and -Infinity by null: Python's `json.dumps` writes them, JSON does not know them."""

import re
from collections.abc import Callable, Iterator
from mmap import mmap

Scratch = Callable[[int], bytearray | mmap]
"""Gives a writable buffer of exactly so many bytes; for giants one that is mapped to a file."""

_UNINTERESTING = re.compile(rb'(?:[^"NI]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Everything up to the next N or I outside of strings, in one step that never goes back."""
_LITERAL = re.compile(rb"NaN|Infinity")
_NULL = b"null"


def find_nonfinite(text: memoryview) -> Iterator[tuple[int, int]]:
    """Where non-finite numbers stand outside of strings, as (start, end), the minus sign included.

    Stops at the first thing that cannot be JSON; whoever reads the text afterwards finds that fault again.
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
