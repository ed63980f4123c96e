"""Reading a database that may be damaged anywhere: what cannot be read is passed over and reported.

Tables are walked by ranges of ids. A range that cannot be read is halved, until what is bad is alone.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from msgspec import structs

from spool.db import sql
from spool.db.connection import (
    CORRUPT_ROW_ERRORS,
    PAGE_SIZE,
    VERSIONS_AHEAD,
    connect_writer,
    log_of,
    migrate,
    newest_version,
    reading,
    schema_faults,
)
from spool.db.sql import RECORD_WIDTH, Row, record_of
from spool.db.tokens import hash_of
from spool.db.wal import FRAME, HEADER, add_checksum, frames, lost_commits, page_size_of
from spool.directory import DATABASE_NAME
from spool.errors import CorruptDatabase, SchemaTooNew
from spool.keys import WrappedKey
from spool.records import DeliveryState, Form, Fragment, Lane, principal_of
from spool.salvage import model
from spool.salvage.model import (
    SealedToken,
    SourceDelivery,
    SourceRecord,
    SourceSpans,
    SourceTurn,
    UnreadableRecord,
    UnreadableSpans,
)

RECORDS_PER_READ = 256

Range = tuple[int, int]


class Source:
    """Another database, opened for reading. For one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, directory: Path) -> None:
        self._connection = connection
        version = int(self._value("PRAGMA user_version") or 0)
        if newest_version() < version <= newest_version() + VERSIONS_AHEAD:
            raise SchemaTooNew(
                f"the spool in {directory} has version {version}, this callspool knows up to {newest_version()}; "
                "use the callspool that wrote it or a newer one"
            )
        self._version = version
        self._statement = _records_statement(version)
        spool_id = self._value("SELECT value FROM meta WHERE name = 'spool_id'")
        # Its own id is lost: keys are new ones then, and the same in every attempt to salvage it.
        self.spool_id = str(spool_id or sha256(directory.name.encode()).hexdigest()[:8])
        self.destinations: dict[int, str] = {row[0]: row[1] for row in self._all(sql.ALL_DESTINATIONS)}
        self.last_record = max((int(self._value(each) or 0) for each in model.LARGEST), default=0)
        self._open_deliveries = self._from_index()

    def records(self) -> Iterator[SourceRecord | UnreadableRecord]:
        """All records in commit order, receipts included, and those that cannot be read."""
        calls: dict[int, str] = {row[0]: row[1] for row in self._all(model.CALLS)}
        for first in range(1, self.last_record + 1, RECORDS_PER_READ):
            last = min(first + RECORDS_PER_READ - 1, self.last_record)
            for piece in self._halved((first, last)):
                if isinstance(piece, UnreadableRecord):
                    known = piece.record_id in calls or piece.record_id in self._open_deliveries
                    if known:
                        yield UnreadableRecord(piece.record_id, calls.get(piece.record_id), piece.reason)
                else:
                    yield self._found(piece)

    def chunks(self, wanted: range) -> Iterator[tuple[int, int, bytes]]:
        """Place, checksum and frame of those chunks that are there and whole."""
        for place, chunk_id in enumerate(wanted):
            try:
                row = self._connection.execute(model.CHUNK, (chunk_id,)).fetchone()
                if row is not None and crc32(row[1]) == row[0]:
                    yield place, row[0], row[1]
            except CORRUPT_ROW_ERRORS:
                continue

    def spans(self) -> Iterator[SourceSpans | UnreadableSpans]:
        """The spans of calls that had not ended, in the order in which they came."""
        if self._version < model.FIRST_WITH_TRACES:
            return
        traces = {(row[0], row[1]): row[2:] for row in self._all(model.TRACES)}
        principals = dict(traces.keys())
        before = {13: model.SPANS_BEFORE_13, 11: model.SPANS_BEFORE_11}
        statement = next((before[newer] for newer in sorted(before) if self._version < newer), model.SPANS)
        for row_id in sorted({int(row[0]) for each in model.SPAN_ROWS for row in self._all(each)}):
            try:
                row = self._connection.execute(statement, (row_id,)).fetchone()
                if row is None or crc32(row[4]) != row[3]:
                    yield UnreadableSpans(row_id)
                    continue
                trace_id, principal, count, checksum, frame, epoch, key = row
                principal = principals.get(trace_id, "") if principal is None else principal
                known = traces.get((trace_id, principal), (None, None, None, None, 0))
                call_id, agent_id, token_id, root_at, closed = known
                token, sealed_token = self._token(token_id)
                yield SourceSpans(
                    row_id, trace_id, principal, count, checksum, frame, call_id, agent_id,
                    root_at is not None, closed, token, _wrapped(epoch, key), sealed_token,
                )  # fmt: skip
            except CORRUPT_ROW_ERRORS:
                yield UnreadableSpans(row_id)

    def turns(self) -> Iterator[SourceTurn | UnreadableSpans]:
        """The calls that were live, and then what was said in them, in the order in which it came."""
        if self._version < model.FIRST_WITH_LIVE_CALLS:
            return
        calls: dict[tuple[str, str], SourceTurn] = {}
        for number, (call_id, principal, *known, is_open, token_id) in enumerate(self._all(model.LIVE_CALLS), 1):
            token, sealed_token = self._token(token_id)
            agent_id, started_at, first_at, last_at = known
            call = calls[call_id, principal] = SourceTurn(
                number, call_id, principal, None, agent_id=agent_id, started_at=started_at, first_at=first_at,
                last_at=last_at, open=bool(is_open), token=token, sealed_token=sealed_token,
            )  # fmt: skip
            yield call
        for row_id in sorted({int(row[0]) for each in model.TURN_ROWS for row in self._all(each)}):
            try:
                row = self._connection.execute(model.TURN, (row_id,)).fetchone()
                if row is None or crc32(row[6]) != row[5]:
                    yield UnreadableSpans(row_id)
                    continue
                call_id, principal, turn, place, raw_bytes, checksum, frame, epoch, key = row
                call = calls.get((call_id, principal)) or SourceTurn(0, call_id, principal, None)
                yield replace(
                    call, number=len(calls) + row_id, turn=turn, place=place, raw_bytes=raw_bytes, crc32=checksum,
                    frame=frame, key=_wrapped(epoch, key),
                )  # fmt: skip
            except CORRUPT_ROW_ERRORS:
                yield UnreadableSpans(row_id)

    def _halved(self, ids: Range) -> Iterator[Row | UnreadableRecord]:
        """The rows of a range of records; what is bad in it is found by halving."""
        try:
            rows = self._connection.execute(self._statement, ids).fetchall()
        except CORRUPT_ROW_ERRORS as error:
            first, last = ids
            if first == last:
                yield UnreadableRecord(first, None, str(error))
                return
            middle = (first + last) // 2
            yield from self._halved((first, middle))
            yield from self._halved((middle + 1, last))
        else:
            yield from rows

    def _found(self, row: Row) -> SourceRecord | UnreadableRecord:
        try:
            record = record_of(row, self.spool_id)
            if record.damaged:
                return UnreadableRecord(
                    record.record_id, record.call_id, "what is stored about it does not match its checksum"
                )
            settled_at, happened_at, post_key, epoch, key = row[RECORD_WIDTH:]
            if settled_at is not None:
                return SourceRecord(record, (), None)
            token, sealed_token = self._token(record.token_id)
            if record.principal is None and (token is not None or record.token_id is None):
                record = structs.replace(record, principal=principal_of(None, token))  # accepted before version 6
            deliveries = self._deliveries(record.record_id, record.fragments)
            wrapped = _wrapped(epoch, key)
            return SourceRecord(record, deliveries, token, happened_at, post_key, wrapped, sealed_token)
        except CORRUPT_ROW_ERRORS as error:
            return UnreadableRecord(int(row[0]), None, f"what is stored about it was never written: {error}")

    def _deliveries(self, record_id: int, fragments: Mapping[Fragment, object]) -> tuple[SourceDelivery, ...]:
        """As they are; else as far as the index of open ones tells; else dead letters of all that might be owed."""
        try:
            rows = self._connection.execute(model.DELIVERIES, (record_id,)).fetchall()
            known = [self._delivery(row) for row in rows]
        except CORRUPT_ROW_ERRORS:
            known = [self._delivery(row) for row in self._open_deliveries.get(record_id, ())]
        return tuple(known) or self._guessed(fragments)

    def _delivery(self, row: Row) -> SourceDelivery:
        destination_id, form, lane, state, *rest = row
        after = rest[1] if len(rest) > 1 else None
        return SourceDelivery(
            self.destinations[destination_id],
            Form(form),
            Lane(lane),
            DeliveryState(state),
            *((bool(rest[0]), None if after is None else self.destinations[after], *rest[2:]) if rest else ()),
        )

    def _guessed(self, fragments: Mapping[Fragment, object]) -> tuple[SourceDelivery, ...]:
        """Nothing is known of what was delivered: an operator has to decide."""
        forms = (
            {Form.WHOLE: Lane.CORE} if Fragment.BODY in fragments else {Form.CORE: Lane.CORE, Form.DETAIL: Lane.DETAIL}
        )
        error = "corrupt: whether it was delivered before could not be read; send it again if it was not"
        return tuple(
            SourceDelivery(name, form, lane, DeliveryState.DEAD, settled_at=0, error=error)
            for name in self.destinations.values()
            for form, lane in forms.items()
        )

    def _token(self, token_id: int | None) -> tuple[str, None] | tuple[None, SealedToken | None]:
        """The agent's own token, plain or encrypted; neither where there is none, or it does not match its hash."""
        if token_id is None:
            return None, None
        try:
            statement = model.TOKEN_BEFORE_13 if self._version < 13 else model.TOKEN
            row = self._connection.execute(statement, (token_id,)).fetchone()
            if row is not None and row[2] is not None:
                return None, SealedToken(*row)
            return (str(row[0]), None) if row is not None and hash_of(row[0]) == row[1] else (None, None)
        except CORRUPT_ROW_ERRORS:
            return None, None

    def _from_index(self) -> dict[int, list[Row]]:
        found: dict[int, list[Row]] = {}
        for record_id, *rest in self._all(model.OPEN_DELIVERIES):
            found.setdefault(record_id, []).append(rest)
        return found

    def _all(self, statement: str) -> list[Row]:
        """The rows of a statement, up to where it cannot be read on."""
        rows: list[Row] = []
        try:
            rows.extend(self._connection.execute(statement))
        except CORRUPT_ROW_ERRORS:
            return rows
        return rows

    def _value(self, statement: str) -> int | str | None:
        """The one value of a statement; None where there is none, or it cannot be read."""
        rows = self._all(statement)
        return rows[0][0] if rows else None


def _wrapped(epoch: int | None, key: bytes | None) -> WrappedKey | None:
    return None if epoch is None or key is None else WrappedKey(epoch, key)


def _records_statement(version: int) -> str:
    """The statement that reads records of a database of this version."""
    before = {
        16: model.RECORDS_BEFORE_16,
        13: model.RECORDS_BEFORE_13,
        7: model.RECORDS_BEFORE_7,
        6: model.RECORDS_BEFORE_6,
        3: model.RECORDS_BEFORE_3,
    }
    return next((before[newer] for newer in sorted(before) if version < newer), model.RECORDS)


@contextmanager
def opened_source(directory: Path) -> Iterator[Source]:
    """Open the database in `directory`, which nobody else uses. Raises `CorruptDatabase` where nothing can be read.

    Where commits lie in its log behind damage, or its schema is damaged, a copy of the log is mended first, in a
    directory that is removed again.
    """
    database = directory / DATABASE_NAME
    with ExitStack() as stack:
        try:
            if _loses_commits(database):
                database = _beside(database, write_mended_log, stack)
            sound = _has_its_schema(database)
            if not sound:
                database = _beside(database, write_log_with_schema, stack)
            source = Source(stack.enter_context(reading(database, live=False)), directory)
        except CORRUPT_ROW_ERRORS as error:
            raise CorruptDatabase(f"nothing can be read of {directory / DATABASE_NAME}: {error}") from error
        if not sound and not source.last_record:
            raise CorruptDatabase(f"nothing can be read of {directory / DATABASE_NAME}: it holds no records")
        yield source


def _beside(database: Path, write_log: Callable[[Path, Path], None], stack: ExitStack) -> Path:
    """The database beside a log that `write_log` makes for it, in a directory that is there for a while."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mended-", dir=database.parent)))
    write_log(database, log_of(folder / DATABASE_NAME))
    return _linked(database, folder / DATABASE_NAME)


def _has_its_schema(database: Path) -> bool:
    try:
        with reading(database, live=False) as connection:
            return not schema_faults(connection)
    except CORRUPT_ROW_ERRORS:
        return False


def _loses_commits(database: Path) -> bool:
    try:
        return lost_commits(database) > 0
    except (*CORRUPT_ROW_ERRORS, OSError):
        return False


def _linked(database: Path, beside: Path) -> Path:
    """The database once more, beside another log; a link, for it may be large, and nothing is written to it."""
    try:
        os.link(database, beside)
    except OSError:
        shutil.copyfile(database, beside)
    return beside


# Mending a copy of a write-ahead log: sums are made anew, so that SQLite reads on behind the damage.
#
# A frame that was damaged comes along as it is. What is wrong in it shows where it is read: by the checksum of a
# payload or a record, or as a malformed page. A log can also give the database another first page than it has, the one
# that holds the schema: that of an empty spool fits, for tables are made in one order, and so lie at the same pages in
# every spool.

_MAGIC, _VERSION, _ORDER = 0x377F0682, 3007000, "<"
"""Of a log whose sums are made of little-endian words."""
_SUMMED_HEADER = 24
_SUMMED_FRAME = 8
_PAGES_AT = 28
"""Where the first page says how many pages the database has."""


def write_mended_log(database: Path, to: Path) -> None:
    """Write the commits in the log of `database` to `to`, as far as its frames follow each other, with right sums."""
    log = log_of(database)
    with to.open("wb") as target:
        mended = _MendedLog(target, _page_size(log))
        for number, size_after, page in _committed(log):
            mended.add(number, size_after, page)


def write_log_with_schema(database: Path, to: Path) -> None:
    """The same, where there is a log, and behind it a commit of a sound first page."""
    log = log_of(database)
    with to.open("wb") as target:
        mended, pages = _MendedLog(target, PAGE_SIZE), database.stat().st_size // PAGE_SIZE
        for number, size_after, page in _committed(log) if _page_size(log) == PAGE_SIZE else ():
            mended.add(number, size_after, page)
            pages = size_after or pages
        mended.add(1, pages, _empty_first_page(pages, to.parent))


class _MendedLog:
    """A log that is being written."""

    def __init__(self, target: BinaryIO, page_size: int) -> None:
        self._target = target
        plain = HEADER.pack(_MAGIC, _VERSION, page_size, 0, 1, 1, 0, 0)[:_SUMMED_HEADER]
        self._sums = add_checksum(plain, _ORDER, (0, 0))
        target.write(HEADER.pack(_MAGIC, _VERSION, page_size, 0, 1, 1, *self._sums))

    def add(self, number: int, size_after: int, page: bytes) -> None:
        """One page; with it a commit ends after which the database has `size_after` pages, if that is not 0."""
        frame = FRAME.pack(number, size_after, 1, 1, 0, 0)
        self._sums = add_checksum(page, _ORDER, add_checksum(frame[:_SUMMED_FRAME], _ORDER, self._sums))
        self._target.write(FRAME.pack(number, size_after, 1, 1, *self._sums) + page)


def _committed(log: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number, size of the database after it, and content of each page in the log, up to the last commit."""
    last = max((frame.number for frame in frames(log) if frame.commits), default=0)
    page_size = _page_size(log)
    with log.open("rb") as file:
        file.seek(HEADER.size)
        for _ in range(last):
            number, size_after, *_ = FRAME.unpack(file.read(FRAME.size))
            page = file.read(page_size)
            if len(page) < page_size:
                return
            yield number, size_after, page


def _page_size(log: Path) -> int:
    """The page size that the log's header names; 0 where there is none."""
    try:
        with log.open("rb") as file:
            return page_size_of(file.read(HEADER.size)) or 0
    except FileNotFoundError:
        return 0


def _empty_first_page(pages: int, directory: Path) -> bytes:
    """That of a spool that holds nothing, and has so many pages; it is made in a directory below `directory`."""
    with tempfile.TemporaryDirectory(prefix="empty-", dir=directory) as folder:
        path = Path(folder) / "empty.db"
        path.touch()
        with closing(connect_writer(path)) as connection:
            migrate(connection)
        first = bytearray(path.read_bytes()[:PAGE_SIZE])
    first[_PAGES_AT : _PAGES_AT + 4] = pages.to_bytes(4, "big")
    return bytes(first)
