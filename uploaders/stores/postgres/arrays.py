"""Columns of a batch as arrays in PostgreSQL's binary format, so that one statement takes all rows: `unnest`.

psycopg makes such arrays of lists, value by value; a document, which is bytes already, would be decoded and encoded for
it and three times as long on its way.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER: Final = struct.Struct(">5i")
_LENGTH: Final = struct.Struct(">i")
_NULL: Final = _LENGTH.pack(-1)


class Element(IntEnum):
    """The types of elements, by their numbers in the catalogue of every PostgreSQL."""

    BYTEA = 17
    BIGINT = 20
    TEXT = 25
    JSON = 114


class Array:
    """Values of one type as they go over the wire, for a parameter that is cast to its array: `%(name)b::text[]`."""

    def __init__(self, element: Element, values: Iterable[bytes | None]) -> None:
        self.element = element
        self.values = list(values)

    def encoded(self) -> bytes:
        """One dimension that begins at 1, then each value behind its length."""
        pack, pieces = _LENGTH.pack, [_HEADER.pack(1, 1, self.element, len(self.values), 1)]
        for value in self.values:
            pieces += (_NULL,) if value is None else (pack(len(value)), value)
        return b"".join(pieces)


class _ArrayDumper(Dumper):
    """Leaves the type to the cast."""

    format = Format.BINARY

    def dump(self, obj: Array) -> bytes:
        """See `Dumper.dump`."""
        return obj.encoded()


psycopg.adapters.register_dumper(Array, _ArrayDumper)
