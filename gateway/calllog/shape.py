"""The shape of a document, estimated before anything of it is built: what limits of bytes do not see.

16 MB of `"a":1,` are 2.6 million members, and 1.3 GB as objects. Every member and element but the first of its
container has a comma before it, so commas bound them. They are counted in samples, because counting all of 15 MB would
cost a twelfth of a post: a flood that fills a tenth of a document escapes 128 samples once in 700,000 times. What is
costly is left to the parse worker, which can be killed.
"""

import random
from collections.abc import Callable
from mmap import mmap
from typing import Final

from spool.records import Buffer

SEPARATORS_MAX: Final = 200_000
"""Members and elements together; a call of 60 turns has 98,000 in 8.9 MB. As top-level members they take 100 MB."""
_SMALL_BYTES: Final = 256 << 10
"""So much holds 131,000 elements at most."""
_SAMPLES: Final = 128
_SAMPLE_BYTES: Final = 512


class Costly(Exception):
    """The document may cost more memory or time than a thread of the gateway should spend on it."""


def separators(text: Buffer | mmap, place: Callable[[int], int] = random.randrange) -> int:
    """About how many commas there are. `place` chooses a number below its argument."""
    view = memoryview(text)
    if len(view) <= _SAMPLES * _SAMPLE_BYTES:
        return bytes(view).count(b",")
    stratum = len(view) // _SAMPLES
    found = 0
    for start in range(0, stratum * _SAMPLES, stratum):
        at = start + place(stratum - _SAMPLE_BYTES + 1)
        found += bytes(view[at : at + _SAMPLE_BYTES]).count(b",")
    return found * len(view) // (_SAMPLES * _SAMPLE_BYTES)


def check_shape(text: Buffer | mmap) -> None:
    """Return if the document may be parsed in the gateway; raises `Costly` otherwise."""
    if len(text) > _SMALL_BYTES and separators(text) > SEPARATORS_MAX:
        raise Costly
