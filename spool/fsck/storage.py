"""Payloads: open records have all their chunks, each for itself; every chunk is somebody's, every frame whole."""

import sqlite3
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import msgspec

from spool.db.connection import CORRUPT_ROW_ERRORS, newest_version
from spool.db.sql import decode_fragments
from spool.fsck import reader
from spool.fsck.reader import Inspection
from spool.fsck.report import Finding, Kind

FRAMES = "payloads"
CHUNKS_PER_READ = 8
"""Up to 8 MiB in memory, and no snapshot beyond one statement."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The range of chunks of an open record."""

    first: int
    last: int
    record_id: int
    call_id: str

    @property
    def where(self) -> str:
        """The record as people see it in findings."""
        return record_named(self.record_id, self.call_id)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the tables say about the chunks, in one snapshot."""

    owners: Sequence[Owner]
    orphans: Sequence[tuple[int, int]]
    present: "array[int]"
    """The ids of all chunks, in order."""
    quarantined: frozenset[int]
    """Records that are dead letters because of their damage: they keep what is left of them."""


def record_named(record_id: int, call_id: str | None) -> str:
    """A record as people see it in findings."""
    return f"record {record_id} (call {call_id})"


def read_layout(inspection: Inspection, faults: list[Finding]) -> Layout:
    """Read who owns which chunks; records that cannot be understood go to `faults`."""
    owners = []
    for record_id, call_id, first, fragments, stored_bytes in inspection.connection.execute(reader.OPEN_RECORDS):
        try:
            stored = decode_fragments(fragments)
        except msgspec.DecodeError as error:
            text = f"its fragments cannot be read: {error}"
            faults.append(Finding(Kind.UNREADABLE_RECORD, record_named(record_id, call_id), text, (record_id,)))
            continue
        if sum(each.stored_bytes for each in stored.values()) != stored_bytes:
            text = "the sizes of its fragments do not add up to its own"
            faults.append(Finding(Kind.UNREADABLE_RECORD, record_named(record_id, call_id), text, (record_id,)))
        count = sum(each.chunks for each in stored.values())
        owners.append(Owner(first, first + count - 1, record_id, call_id))
    orphans = inspection.connection.execute(reader.ORPHANS).fetchall()
    present = array("q", (chunk_id for (chunk_id,) in inspection.connection.execute(reader.CHUNK_IDS)))
    quarantined = frozenset(record_id for (record_id,) in inspection.connection.execute(reader.QUARANTINED))
    faults[:] = [each for each in faults if each.kind is not Kind.UNREADABLE_RECORD or each.key[0] not in quarantined]
    return Layout(owners, orphans, present, quarantined)


def check_layout(layout: Layout, *, live: bool) -> Iterator[Finding]:
    """Nothing is missing, shared or orphaned."""
    for owner in layout.owners:
        there = bisect_right(layout.present, owner.last) - bisect_left(layout.present, owner.first)
        missing = owner.last - owner.first + 1 - there
        if missing and owner.record_id not in layout.quarantined:
            text = f"{missing} of its {owner.last - owner.first + 1} chunks are not there"
            yield Finding(Kind.MISSING_CHUNKS, owner.where, text, (owner.record_id,))
    for one, next_one in zip(layout.owners, layout.owners[1:], strict=False):
        if next_one.first <= one.last and not {one.record_id, next_one.record_id} <= layout.quarantined:
            text = f"shares chunks with {next_one.where}"
            yield Finding(Kind.SHARED_CHUNKS, one.where, text, (one.record_id, next_one.record_id))
    for first, last in _unknown(layout):
        text = "belong to no record"
        yield Finding(Kind.UNKNOWN_CHUNKS, f"chunks {first} to {last}", text, (first, last))
    for first, last in layout.orphans if not live else ():
        text = "of a payload that was still coming in, or on its way out"
        yield Finding(Kind.ORPHAN_CHUNKS, f"chunks {first} to {last}", text, (first, last))


def _unknown(layout: Layout) -> Iterator[tuple[int, int]]:
    """Runs of chunks that nobody owns: those between the ranges that somebody does."""
    ranges = sorted([*layout.orphans, *((owner.first, owner.last) for owner in layout.owners)])
    at = 0
    for first, last in [*ranges, (1 << 62, 1 << 62)]:
        until = bisect_left(layout.present, first, at)
        if until > at:
            yield layout.present[at], layout.present[until - 1]
        at = max(until, bisect_right(layout.present, last, until))


def check_frames(inspection: Inspection, layout: Layout) -> Iterator[Finding]:
    """Every stored frame has its checksum; each is read on its own, so that a bad page hides no other."""
    firsts = [owner.first for owner in layout.owners]
    for start in range(0, len(layout.present), CHUNKS_PER_READ):
        inspection.tell(FRAMES, start, len(layout.present))
        for chunk_id, reason in _bad_among(inspection.connection, layout.present[start : start + CHUNKS_PER_READ]):
            owner = layout.owners[bisect_right(firsts, chunk_id) - 1] if firsts and chunk_id >= firsts[0] else None
            if owner is not None and chunk_id <= owner.last and owner.record_id not in layout.quarantined:
                yield Finding(Kind.BAD_FRAME, owner.where, f"chunk {chunk_id} {reason}", (owner.record_id,))
    inspection.tell(FRAMES, 1, 1)


def check_spans(inspection: Inspection) -> Iterator[Finding]:
    """Every row of an open trace has its checksum."""
    return _check_rows(
        inspection, reader.SPAN_ROWS, reader.SPANS, Kind.DAMAGED_SPANS, lambda name: f"trace {name.hex()}"
    )


def check_turns(inspection: Inspection) -> Iterator[Finding]:
    """Every turn of a live call has its checksum."""
    return _check_rows(inspection, reader.TURN_ROWS, reader.TURNS, Kind.DAMAGED_TURN, lambda name: f"live call {name}")


def _check_rows(
    inspection: Inspection, rows: str, frame: str, kind: Kind, named: Callable[[Any], str]
) -> Iterator[Finding]:
    """Rows that are a frame each, with whose they are and a checksum."""
    for (row_id,) in inspection.connection.execute(rows).fetchall():
        try:
            row = inspection.connection.execute(frame, (row_id,)).fetchone()
        except CORRUPT_ROW_ERRORS as error:
            yield Finding(kind, f"row {row_id}", f"cannot be read: {error}", (row_id,))
            continue
        if row is not None and crc32(row[2]) != row[1]:
            yield Finding(kind, named(row[0]), f"row {row_id} does not match its checksum", (row_id,))


def _bad_among(connection: sqlite3.Connection, chunk_ids: Iterable[int]) -> list[tuple[int, str]]:
    ids = list(chunk_ids)
    try:
        rows = connection.execute(reader.CHUNKS_BETWEEN, (ids[0], ids[-1])).fetchall()
    except CORRUPT_ROW_ERRORS as error:
        if len(ids) == 1:
            return [(ids[0], f"cannot be read: {error}")]
        return [bad for chunk_id in ids for bad in _bad_among(connection, [chunk_id])]
    return [(chunk_id, "does not match its checksum") for chunk_id, checksum, frame in rows if crc32(frame) != checksum]


def check_readable(inspection: Inspection, faults: list[Finding]) -> Layout | None:
    """The layout, or None where the tables that say it cannot be read."""
    try:
        return read_layout(inspection, faults)
    except CORRUPT_ROW_ERRORS as error:
        faults.append(unreadable("records and chunks", error))
        return None


# The database as SQLite sees it: its version, its pages and indexes, and the log behind it.

PAGES = "pages and indexes"
MOST_LINES = 100
"""SQLite stops after so many faults."""

VERSION = "PRAGMA user_version"
TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"


def check_version(inspection: Inspection) -> Finding | None:
    """Whether the schema is another one than this callspool's; then nothing more can be said."""
    found = int(inspection.connection.execute(VERSION).fetchone()[0])
    newest = newest_version()
    if found > newest:
        return Finding(Kind.NEWER_SCHEMA, "schema", f"has version {found}; this callspool knows up to {newest}")
    if found < newest:
        return Finding(Kind.OLDER_SCHEMA, "schema", f"has version {found}; this callspool writes {newest}")
    return None


def check_pages(inspection: Inspection) -> Iterator[Finding]:
    """SQLite's own check. Beside a running gateway table by table, so that no snapshot is held for long."""
    for done, statement in enumerate(statements := _statements(inspection)):
        inspection.tell(PAGES, done, len(statements))
        for (line,) in inspection.connection.execute(statement).fetchall():
            if line != "ok":
                yield Finding(Kind.MALFORMED, "database", str(line).replace("\n", "; "))
    inspection.tell(PAGES, 1, 1)


def _statements(inspection: Inspection) -> list[str]:
    if not inspection.live:
        return [f"PRAGMA integrity_check({MOST_LINES})"]
    return [f"PRAGMA integrity_check({name})" for (name,) in inspection.connection.execute(TABLES).fetchall()]


def unreadable(what: str, error: Exception) -> Finding:
    """That a check could not be made, for the database could not be read there."""
    return Finding(Kind.UNREADABLE, what, str(error))
