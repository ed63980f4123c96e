"""The shape of a document: what limits of bytes do not see, and how much of it may be parsed where.

16 MB of `"a":1,` are 2.6 million members, and 1.3 GB as objects. Every member and element but the first of its
container has a comma before it, so commas bound them. They are counted in samples before anything is built, because
counting all of 15 MB would cost a twelfth of a post: a flood that fills a tenth of a document escapes 128 samples once
in 700,000 times. What is built of a document is counted exactly, while it is built: top-level members by the decoder,
objects and elements of a list before it is read. What is costly is left to the parse worker, which can be killed.
"""

import random
from collections.abc import Callable
from mmap import mmap
from typing import Final, NamedTuple

from spool.records import Buffer

SEPARATORS_MAX: Final = 200_000
"""Members and elements together; a call of 60 turns has 98,000 in 8.9 MB. As top-level members they take 100 MB."""
_SMALL_BYTES: Final = 256 << 10
"""So much holds 131,000 elements at most."""
_SAMPLES: Final = 128
_SAMPLE_BYTES: Final = 512
_SHORTEST_SAMPLE_BYTES: Final = 64


class Costly(Exception):
    """The document may cost more memory or time than may be spent on it here."""


class Bounds(NamedTuple):
    """What may be spent on a document where it is parsed."""

    members: int
    """Top-level members; one takes some 400 bytes."""
    separators: int | None
    """Commas of a document of up to 16 MiB, by an estimate; None: any number."""
    slow_bytes: int | None
    """A longer document that the fast decoder refuses is not parsed: the slow ways take up to 4 us a container."""


ON_THE_LOOP: Final = Bounds(members=16_384, separators=None, slow_bytes=2 << 10)
"""For at most 64 KiB: 0.1 ms, and up to 3 ms where the fast decoder refuses it."""
IN_A_THREAD: Final = Bounds(members=10_000, separators=SEPARATORS_MAX, slow_bytes=256 << 10)
IN_THE_WORKER: Final = Bounds(members=200_000, separators=None, slow_bytes=None)


def separators(text: Buffer | mmap, place: Callable[[], float] = random.random) -> int:
    """About how many commas there are. `place` says where a sample lies in its part of the text, from 0 to below 1.

    Below 4 MB samples are shorter, a 64th of the text together: in 500 KB the bound is two bytes in five.
    """
    view = memoryview(text)
    size = min(max(len(view) // (64 * _SAMPLES), _SHORTEST_SAMPLE_BYTES), _SAMPLE_BYTES)
    if len(view) <= _SAMPLES * size:
        return bytes(view).count(b",")
    stratum = len(view) // _SAMPLES
    room = stratum - size + 1
    starts = [start + int(place() * room) for start in range(0, stratum * _SAMPLES, stratum)]
    found = sum([view[at : at + size].tobytes().count(b",") for at in starts])
    return found * len(view) // (_SAMPLES * size)


def is_dense(text: Buffer | mmap) -> bool:
    """Whether there are so many commas that another process should parse it; a giant may have more of them.

    A call of 60 turns has one in 90 bytes, a list of numbers one in two.
    """
    return len(text) > _SMALL_BYTES and separators(text) > max(SEPARATORS_MAX, len(text) // 48)


def check_shape(text: Buffer | mmap, bounds: Bounds) -> None:
    """Return if the document may be parsed within the bounds, as far as can be seen; raises `Costly` otherwise."""
    if bounds.separators is not None and len(text) > _SMALL_BYTES and separators(text) > bounds.separators:
        raise Costly
