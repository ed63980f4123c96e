"""From rows of the database to plain data, in the order of `statements.RECORD_COLUMNS` and `DELIVERY_COLUMNS`."""

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import msgspec

from spool.records import Delivery, Form, Fragment, Lane, Record, StoredFragment

Row = Sequence[Any]
"""A row as SQLite gives it: its columns have the types of the schema."""

RECORD_WIDTH = 14

_decode_fragments = msgspec.json.Decoder(dict[Fragment, tuple[int, int, int]]).decode


def decode_fragments(text: str) -> dict[Fragment, StoredFragment]:
    """What the `fragments` column says. Raises `msgspec.DecodeError` for what this spool would not have written."""
    return {name: StoredFragment(*sizes) for name, sizes in _decode_fragments(text).items()}


def encode_fragments(fragments: Mapping[Fragment, StoredFragment]) -> str:
    """As the `fragments` column holds them: chunks, raw bytes and stored bytes of each, in the order of chunks."""
    return ",".join(
        f'"{name}":[{stored.chunks},{stored.raw_bytes},{stored.stored_bytes}]' for name, stored in fragments.items()
    ).join("{}")


def checksum_of(row: Row) -> int:
    """Of a record's columns up to `origin`; without its token, which is taken away when the record ends."""
    return crc32(repr((*row[:9], *row[10:13])).encode("utf-8", "surrogatepass"))


def record_of(row: Row, spool_id: str) -> Record:
    """The record in the first `RECORD_WIDTH` columns; what does not match its checksum is told as damaged."""
    record_id, damaged = row[0], row[13] is not None and row[13] != checksum_of(row)
    try:
        fragments = decode_fragments(row[11])
    except (msgspec.DecodeError, TypeError):
        fragments, damaged = {}, True
    return Record(
        record_id, row[12] or uid_of(spool_id, record_id), row[1], row[2], row[3], row[4], row[5], row[6], row[7],
        row[8], row[9], row[10], fragments, damaged,
    )  # fmt: skip


def uid_of(spool_id: str, record_id: int) -> str:
    """What names a record outside its spool."""
    return f"{spool_id}-{record_id}"


def number_in(uid: str, spool_id: str) -> int | None:
    """The number of a record in the spool that gave it this name; None for a name that another spool gave."""
    spool, _, number = uid.rpartition("-")
    return int(number) if spool == spool_id and number.isascii() and number.isdigit() and len(number) < 19 else None


def delivery_of(row: Row, spool_id: str, destinations: Mapping[int, str]) -> Delivery:
    """The delivery in the columns behind the record's."""
    destination_id, form, lane, attempts, due_at, first_failed_at, location = row[RECORD_WIDTH:]
    return Delivery(
        record_of(row, spool_id),
        destinations[destination_id],
        Form(form),
        Lane(lane),
        attempts,
        due_at,
        first_failed_at,
        location,
    )
