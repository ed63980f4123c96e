"""Reading a database that may be damaged anywhere: what cannot be read is stepped over, and told.

Tables are walked by ranges of ids. A range that cannot be read is halved, until what is bad is alone.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from zlib import crc32

from spool import statements as spool_statements
from spool.database import log_of, newest_version, schema_faults
from spool.directory import DATABASE_NAME
from spool.errors import CorruptDatabase, SchemaTooNew
from spool.fsck.inspection import reading
from spool.fsck.structure import DAMAGE
from spool.log_frames import lost_commits
from spool.opening import VERSIONS_AHEAD
from spool.records import DeliveryState, Form, Fragment, Lane
from spool.rows import RECORD_WIDTH, Row, record_of
from spool.salvage import statements
from spool.salvage.found import Found, FoundDelivery, Unreadable
from spool.salvage.mending import write_log_with_schema, write_mended_log
from spool.tokens import hash_of

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
        self._records = statements.RECORDS if version >= 3 else statements.OLD_RECORDS
        spool_id = self._value("SELECT value FROM meta WHERE name = 'spool_id'")
        # Its own id is lost: keys are new ones then, and the same in every attempt to salvage it.
        self.spool_id = str(spool_id or sha256(directory.name.encode()).hexdigest()[:8])
        self.destinations: dict[int, str] = {row[0]: row[1] for row in self._all(spool_statements.ALL_DESTINATIONS)}
        self.last_record = max((int(self._value(each) or 0) for each in statements.LARGEST), default=0)
        self._open_deliveries = self._from_index()

    def records(self) -> Iterator[Found | Unreadable]:
        """All records in commit order, receipts included, and those that cannot be read."""
        calls: dict[int, str] = {row[0]: row[1] for row in self._all(statements.CALLS)}
        for first in range(1, self.last_record + 1, RECORDS_PER_READ):
            last = min(first + RECORDS_PER_READ - 1, self.last_record)
            for piece in self._halved((first, last)):
                if isinstance(piece, Unreadable):
                    known = piece.record_id in calls or piece.record_id in self._open_deliveries
                    if known:
                        yield Unreadable(piece.record_id, calls.get(piece.record_id), piece.reason)
                else:
                    yield self._found(piece)

    def chunks(self, wanted: range) -> Iterator[tuple[int, int, bytes]]:
        """Place, checksum and frame of those chunks that are there and whole."""
        for place, chunk_id in enumerate(wanted):
            try:
                row = self._connection.execute(statements.CHUNK, (chunk_id,)).fetchone()
                if row is not None and crc32(row[1]) == row[0]:
                    yield place, row[0], row[1]
            except DAMAGE:
                continue

    def _halved(self, ids: Range) -> Iterator[Row | Unreadable]:
        """The rows of a range of records; what is bad in it is found by halving."""
        try:
            rows = self._connection.execute(self._records, ids).fetchall()
        except DAMAGE as error:
            first, last = ids
            if first == last:
                yield Unreadable(first, None, str(error))
                return
            middle = (first + last) // 2
            yield from self._halved((first, middle))
            yield from self._halved((middle + 1, last))
        else:
            yield from rows

    def _found(self, row: Row) -> Found | Unreadable:
        try:
            record = record_of(row, self.spool_id)
            if record.damaged:
                return Unreadable(
                    record.record_id, record.call_id, "what is stored about it does not match its checksum"
                )
            if row[RECORD_WIDTH] is not None:
                return Found(record, (), None)
            return Found(record, self._deliveries(record.record_id, record.fragments), self._token(record.token_id))
        except DAMAGE as error:
            return Unreadable(int(row[0]), None, f"what is stored about it was never written: {error}")

    def _deliveries(self, record_id: int, fragments: Mapping[Fragment, object]) -> tuple[FoundDelivery, ...]:
        """As they are; else as far as the index of open ones tells; else dead letters of all that might be owed."""
        try:
            rows = self._connection.execute(statements.DELIVERIES, (record_id,)).fetchall()
            known = [self._delivery(row) for row in rows]
        except DAMAGE:
            known = [self._delivery(row) for row in self._open_deliveries.get(record_id, ())]
        return tuple(known) or self._guessed(fragments)

    def _delivery(self, row: Row) -> FoundDelivery:
        destination_id, form, lane, state, *rest = row
        after = rest[1] if len(rest) > 1 else None
        return FoundDelivery(
            self.destinations[destination_id],
            Form(form),
            Lane(lane),
            DeliveryState(state),
            *((bool(rest[0]), None if after is None else self.destinations[after], *rest[2:]) if rest else ()),
        )

    def _guessed(self, fragments: Mapping[Fragment, object]) -> tuple[FoundDelivery, ...]:
        """Nothing is known of what was delivered: an operator has to decide."""
        forms = (
            {Form.WHOLE: Lane.CORE} if Fragment.BODY in fragments else {Form.CORE: Lane.CORE, Form.DETAIL: Lane.DETAIL}
        )
        error = "corrupt: whether it was delivered before could not be read; send it again if it was not"
        return tuple(
            FoundDelivery(name, form, lane, DeliveryState.DEAD, settled_at=0, error=error)
            for name in self.destinations.values()
            for form, lane in forms.items()
        )

    def _token(self, token_id: int | None) -> str | None:
        """The agent's own token; None where there is none, or what is stored does not match its hash."""
        if token_id is None:
            return None
        try:
            row = self._connection.execute(statements.TOKEN, (token_id,)).fetchone()
            return str(row[0]) if row is not None and hash_of(row[0]) == row[1] else None
        except DAMAGE:
            return None

    def _from_index(self) -> dict[int, list[Row]]:
        found: dict[int, list[Row]] = {}
        for record_id, *rest in self._all(statements.OPEN_DELIVERIES):
            found.setdefault(record_id, []).append(rest)
        return found

    def _all(self, statement: str) -> list[Row]:
        """The rows of a statement, up to where it cannot be read on."""
        rows: list[Row] = []
        try:
            rows.extend(self._connection.execute(statement))
        except DAMAGE:
            return rows
        return rows

    def _value(self, statement: str) -> int | str | None:
        """The one value of a statement; None where there is none, or it cannot be read."""
        rows = self._all(statement)
        return rows[0][0] if rows else None


@contextmanager
def opened_source(directory: Path, tell: Callable[[str, int, int], None]) -> Iterator[Source]:
    """Open the database in `directory`, which nobody else uses. Raises `CorruptDatabase` where nothing can be read.

    Where commits lie in its log behind damage, or its schema is damaged, a copy of the log is mended first, in a
    directory that is removed again.
    """
    database = directory / DATABASE_NAME
    with ExitStack() as stack:
        try:
            if _loses_commits(database):
                tell("mending the log", 0, 0)
                database = _beside(database, write_mended_log, stack)
            sound = _has_its_schema(database)
            if not sound:
                tell("mending the schema", 0, 0)
                database = _beside(database, write_log_with_schema, stack)
            source = Source(stack.enter_context(reading(database, live=False)), directory)
        except DAMAGE as error:
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
    except DAMAGE:
        return False


def _loses_commits(database: Path) -> bool:
    try:
        return lost_commits(database) > 0
    except (*DAMAGE, OSError):
        return False


def _linked(database: Path, beside: Path) -> Path:
    """The database once more, beside another log; a link, for it may be large, and nothing is written to it."""
    try:
        os.link(database, beside)
    except OSError:
        shutil.copyfile(database, beside)
    return beside
