"""One outbox file, as its reader process sees it: proven, claimed from as the SDK does, and deleted from.

Everything here blocks, for at most `LOCK_SECONDS` on other processes. No transaction is held between two calls, so that
an SDK beside us never waits longer than for its own kind. The gateway calls this through `gateway.sdk_outbox.reader`,
never directly: whoever may write to the file decides what SQLite does with it.
"""

import fcntl
import os
import sqlite3
import stat
import struct
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gateway.sdk_outbox.model import (
    Batch,
    OutboxBusy,
    OutboxError,
    OutboxUnusable,
    RefusedRow,
    Row,
    Survey,
    beside,
    require_file,
    require_trusted_owner,
)
from spool import sandbox

LOCK_SECONDS = 5
"""For another process to end its transaction: as long as the SDK waits."""
ABANDONED_SECONDS: Final = 300
"""A claim this old belongs to nobody any more: the SDK's own rule."""
BATCH_ROWS = 32
SURVEYED_ROWS = 10_000
"""Rows that a survey names: 1 MB of its answer."""
BATCH_BYTES = 1 << 20
"""Payloads that are held in memory at once; a row that is larger comes alone, and is copied piece by piece."""
COPY_BYTES = 1 << 20
CLAIM_BYTES = 16 << 20
"""SQLite rewrites a whole row in memory, twice, in order to claim it. A larger one is not claimed."""
_VALUE_BYTES = CLAIM_BYTES + (1 << 20)
"""The longest value or row that SQLite loads. A longer payload is still read, through a blob handle."""
CHECK_ALWAYS_BYTES = 64 << 20
"""A file up to this size is checked page by page at each opening, a larger one when it is new or was replaced."""
_SCAN_ROWS = 256
_REFUSED_AT_ONCE = 100


# The file as SQLite opens it.
#
# No rollback journal is ever read: it could name any file as its super-journal, which SQLite then deletes. SQLite
# rolls a journal back only while nobody holds the RESERVED lock. A lock of this process on that byte, of the kind that
# belongs to the open file and not to the process, makes it believe that somebody does. A write in WAL mode never asks
# for that byte, and a file that is not in WAL mode, as the SDK's is, cannot be written to.

_RESERVED_BYTE = 0x40000001
"""https://www.sqlite.org/src/file/src/os.h: PENDING_BYTE + 1."""
_HEADER_BYTES = 100
_WAL_MODE = b"\x02\x02"
"""Bytes 18 and 19 of the file."""
_TICK_NS = 20_000_000
"""Two writes within so much may have one time: a tick of Linux is up to 10 ms, and may come late."""


class OutboxFile:
    """An outbox of the SDK. `open` before the first of the other calls, `close` after the last."""

    def __init__(self, path: Path, owners: Collection[int]) -> None:
        self.path = path
        self._owners = owners
        self._descriptor: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._found: os.stat_result | None = None
        self._looked_at = 0
        self._had_log: bool | None = None
        """None before it is read, and while it may be written to: with all locks."""
        self._after = -(1 << 63)

    def open(self, *, to_change: bool = True, check: bool = True) -> bool:
        """Make sure that it is an outbox, and connect to it; False where it has no table yet. Raises `OutboxError`.

        `check`: look at all its pages, whatever its size.
        """
        self._looked_at = time.time_ns()
        header, self._found = self._lock(to_change)
        if not header:
            return False
        with self._translated():
            return self._prove(header, self._found.st_size, to_change=to_change, check=check)

    def _prove(self, header: bytes, size: int, *, to_change: bool, check: bool) -> bool:
        with closing(self._connect_to_read()) as connection:
            tables = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema LIMIT 100").fetchall()
            if not tables:
                return False
            _require_schema(connection, tables)
            if check or size <= CHECK_ALWAYS_BYTES:
                _require_sound(connection)
        if to_change and header[18:20] != _WAL_MODE:
            raise OutboxUnusable("it is not in SQLite's WAL mode, in which the SDK keeps its outbox")
        self._connection = self._connect_to_change() if to_change else self._connect_to_read()
        self._connection.set_authorizer(_authorized)
        return True

    def close(self) -> None:
        """Let go of the file; harmless when repeated."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def claim(self, now: float, left_out: Collection[int]) -> Batch:
        """Claim the next rows that nobody works on, at most one of each call, but those of `left_out`.

        `now` is in seconds since the epoch, as the SDK counts. Where nothing is returned, none is free. Raises
        `OutboxError`; what is wrong with one row is that row's.
        """
        with self._translated():
            rows: list[Row] = []
            refused: list[RefusedRow] = []
            with self._snapshot():
                wanted = self._next_free(now, left_out, refused)
            if wanted:
                with self._transaction() as connection:
                    for row_id in wanted:
                        with suppress(RowFault):  # it was changed a moment ago, and is looked at again later
                            row = self._free_row(row_id, now)
                            rows += [row] if row is not None else []
                    connection.executemany(_CLAIM, [(now, row.row_id) for row in rows if row.claimed])
                self._after = wanted[-1]
            return Batch(tuple(rows), tuple(refused))

    def copy(self, row_id: int) -> Iterator[bytes]:
        """The payload of a row, piece by piece. Raises `OutboxError`."""
        with self._translated(), self._open.blobopen("outbox", "payload", row_id, readonly=True) as blob:
            while piece := blob.read(COPY_BYTES):
                yield piece

    def settle(self, claimed_at: float, done: Sequence[Row], not_done: Sequence[Row]) -> None:
        """Delete the rows that are durable elsewhere, and give the others back as they were."""
        with self._translated(), self._transaction() as connection:
            connection.executemany(_DELETE_CLAIMED, [(row.row_id, claimed_at) for row in done if row.claimed])
            unclaimed = [(row.row_id, row.status, row.claimed_at) for row in done if not row.claimed]
            connection.executemany(_DELETE_UNCHANGED, unclaimed)
            back = [(row.status, row.claimed_at, row.row_id, claimed_at) for row in not_done if row.claimed]
            connection.executemany(_GIVE_BACK, back)

    def remains(self, left_out: Collection[int]) -> tuple[int, float | None]:
        """How many rows it holds, and when the next can be taken that cannot be now, in seconds since the epoch."""
        with self._translated(), self._snapshot():
            free_from: float | None = None
            for row_id in self._ids(-(1 << 63)):
                if row_id in left_out:
                    continue
                when = self._value(_FREE_FROM, row_id)
                if isinstance(when, int | float) and (free_from is None or when < free_from):
                    free_from = float(when)
            return int(self._open.execute(_COUNT).fetchone()[0]), free_from

    def survey(self, now: float) -> Survey:
        """What lies in it; nothing is changed."""
        with self._translated(), self._snapshot():
            kinds: Counter[tuple[str, str]] = Counter()
            free: list[Row] = []
            ready = size = in_use = unreadable = 0
            for row_id in self._ids(-(1 << 63)):
                try:
                    status, event = self._open.execute(_KIND, {"id": row_id}).fetchone()
                    kinds[status, event] += 1
                    row = self._free_row(row_id, now, with_payload=False)
                except (RowFault, *_ROW_ERRORS):
                    unreadable += 1
                    continue
                ready += row is not None
                in_use += row is None
                size += row.size if row is not None else 0
                free += [row] if row is not None and len(free) < SURVEYED_ROWS else []
            by_kind = tuple((status, event, count) for (status, event), count in sorted(kinds.items()))
            return Survey(ready, size, in_use, by_kind, unreadable, tuple(free))

    # Rows are looked at one by one, by their ids, so that one that cannot be read keeps no other from being taken.

    def _ids(self, after: int) -> Iterator[int]:
        """The ids of all rows in order; no other value of a row is read."""
        while ids := self._open.execute(_NEXT_IDS, (after, _SCAN_ROWS)).fetchall():
            yield from (row_id for (row_id,) in ids)
            after = ids[-1][0]

    def _next_free(self, now: float, left_out: Collection[int], refused: list[RefusedRow]) -> list[int]:
        """The ids of the rows of a batch; begins where the last one ended."""
        wanted: list[int] = []
        calls: set[str] = set()
        total = 0
        for row_id in self._ids(self._after):
            if row_id in left_out:
                continue
            try:
                row = self._free_row(row_id, now, with_payload=False)
            except RowFault as fault:
                refused.append(RefusedRow(row_id, str(fault)))
                if len(refused) >= _REFUSED_AT_ONCE:
                    break
                continue
            if row is None:
                continue
            if row.call_id in calls or (calls and total + row.size > BATCH_BYTES) or len(wanted) == BATCH_ROWS:
                break
            wanted.append(row_id)
            calls.add(row.call_id)
            total += row.size
        return wanted

    def _free_row(self, row_id: int, now: float, *, with_payload: bool = True) -> Row | None:
        """The row, if nobody works on it. Raises `RowFault` where it holds no call log or cannot be read."""
        try:
            found = self._open.execute(_FREE_ROW, {"id": row_id, "now": now}).fetchone()
            if found is None:
                return None
            kind, call_id, status, claimed_at = found
            if kind not in {"text", "blob"}:
                raise RowFault(f"its payload is {kind}, and no text")
            if not isinstance(claimed_at, int | float | None):
                raise RowFault("its claimed_at is no time")
            with self._open.blobopen("outbox", "payload", row_id, readonly=True) as blob:
                size = len(blob)
                payload = blob.read() if with_payload and size <= BATCH_BYTES else None
        except _ROW_ERRORS as error:
            if isinstance(error, sqlite3.Error) and _primary(error) not in _ROW_CODES:
                raise
            raise RowFault(f"it cannot be read: {error or 'it needs too much memory'}") from error
        return Row(
            row_id=row_id,
            call_id=call_id,
            status=status,
            claimed_at=None if claimed_at is None else float(claimed_at),
            size=size,
            claimed=size <= CLAIM_BYTES,
            payload=payload,
        )

    def _value(self, statement: str, row_id: int) -> object:
        """The one value of a statement about a row; None where it cannot be read."""
        try:
            return self._open.execute(statement, {"id": row_id}).fetchone()[0]
        except _ROW_ERRORS as error:
            if isinstance(error, sqlite3.Error) and _primary(error) not in _ROW_CODES:
                raise
            return None

    # The connection.

    def _lock(self, to_change: bool) -> tuple[bytes, os.stat_result]:
        """The header of the file, after it was locked against a roll-back; empty for a file without one."""
        flags = os.O_RDWR if to_change else os.O_RDONLY
        try:
            self._descriptor = os.open(self.path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise OutboxBusy("it was removed a moment ago") from None
        except OSError as error:
            if self.path.is_symlink() or not self.path.is_file():
                require_file(self.path.lstat())
            raise OutboxUnusable(
                f"it cannot be opened ({error.strerror}): "
                "give this user read and write access to the file and its folder"
            ) from error
        found = os.fstat(self._descriptor)
        require_file(found)
        require_trusted_owner(self.path, found, self._owners)
        self._require_no_journal()
        if found.st_size == 0:
            return b"", found
        _hold_reserved_byte(self._descriptor)
        return os.pread(self._descriptor, _HEADER_BYTES, 0), found

    def _require_no_journal(self) -> None:
        """Raise `OutboxUnusable` for files beside it that no outbox of the SDK has."""
        for kind in ("journal", "wal", "shm"):
            path = beside(self.path, kind)
            try:
                found = path.lstat()
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise OutboxUnusable(f"{path.name} beside it is no file of its own: remove it")
            if kind == "journal" and found.st_size:
                raise OutboxUnusable(
                    f"beside it lies a rollback journal, {path.name}, which an outbox of the SDK never has: it is not "
                    "opened, since a journal can make SQLite delete other files. Move the journal away"
                )

    def _has_log(self) -> bool:
        try:
            return beside(self.path, "wal").lstat().st_size > 0
        except OSError:
            return False

    def _connect_to_change(self) -> sqlite3.Connection:
        self._had_log = None
        return self._connect("rw")

    def _connect_to_read(self) -> sqlite3.Connection:
        """With the locks of its log, or, where there is none, as if nobody could write to it."""
        self._had_log = self._has_log()
        return self._connect("ro" if self._had_log else "ro&immutable=1")

    def _was_written(self) -> bool:
        """Whether somebody wrote while it was read, who may have left pages that do not belong together.

        Their log came or went, or, where there was none, the file changed; one that was written a tick of the file
        system's clock ago may have been written again in that tick.
        """
        before = self._found
        if self._had_log is None or before is None or self._descriptor is None:
            return False
        has_log = self._has_log()
        if self._had_log or has_log:
            return self._had_log != has_log
        now = os.fstat(self._descriptor)
        changed = (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)
        return changed or self._looked_at - _TICK_NS < before.st_mtime_ns < time.time_ns() + _TICK_NS

    def _connect(self, mode: str) -> sqlite3.Connection:
        """A connection in autocommit mode that makes no file, and runs as little as can be of what the file says."""
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}", uri=True, timeout=LOCK_SECONDS, isolation_level=None
        )
        connection.text_factory = _text
        for kind, most in _SQLITE_LIMITS.items():
            connection.setlimit(kind, most)
        if sys.version_info >= (3, 12):
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW, False)
        connection.executescript(_PRAGMAS)
        return connection

    @property
    def _open(self) -> sqlite3.Connection:
        """The connection, which must be there."""
        assert self._connection is not None, "it is not open"
        return self._connection

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """What is read within it is of one moment: no row goes between two looks at it. It keeps no writer waiting."""
        self._open.execute("BEGIN")
        try:
            yield
        finally:
            if self._open.in_transaction:
                self._open.execute("ROLLBACK")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Immediate, as the SDK's: who reads rows in order to claim them must not be overtaken."""
        connection = self._open
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError, MemoryError, OutboxUnusable) as error:
            if self._was_written():
                raise OutboxBusy("another process writes to it") from error
            raise error if isinstance(error, OutboxUnusable) else translated(error) from error


class RowFault(Exception):
    """What is wrong with one row."""


def _hold_reserved_byte(descriptor: int) -> None:
    """Keep SQLite from rolling a journal back for as long as the descriptor is open. Raises `OutboxBusy`."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        if sandbox.sqlite_is_safe():
            return
        safe = ".".join(map(str, sandbox.SAFE_SQLITE))
        raise OutboxUnusable(f"on this system callspool opens an outbox only with SQLite {safe} or newer")
    lock = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, _RESERVED_BYTE, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
    except OSError as error:
        raise OutboxBusy("another process keeps it locked") from error


def _text(stored: bytes) -> str:
    """A text of the file; one that is not UTF-8 must not keep the other rows from being read."""
    return stored.decode(errors="replace")


_PRAGMAS = """
    PRAGMA trusted_schema = OFF;
    PRAGMA cell_size_check = ON;
    PRAGMA ignore_check_constraints = ON;
    PRAGMA mmap_size = 0;
    PRAGMA temp_store = MEMORY;
"""
_SQLITE_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: _VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 64 << 10,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 5,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}


# Whether a file is an outbox of the SDK in good order, found out without changing a byte of it.
#
# A damaged or foreign file must not be touched, and merely opening an SQLite file to write may move its log into it. So
# it is looked at as immutable first, or, where a log lies beside it, read-only. Nothing that would be evaluated is
# accepted in its schema: triggers, views, CHECK constraints, generated columns, indexes of expressions.

COLUMNS: Final = frozenset(
    {"id", "call_id", "event_type", "payload", "status", "created_at", "next_attempt_at", "claimed_at"}
)
_SQLITE_TABLES = frozenset({"sqlite_sequence", "sqlite_stat1", "sqlite_stat4"})
_EVALUATED = frozenset({"CHECK", "GENERATED", "AS", "REFERENCES", "VIRTUAL", "WITHOUT", "WHERE"})


def _require_schema(connection: sqlite3.Connection, tables: Sequence[tuple[str, str, str, str | None]]) -> None:
    """Raises `OutboxUnusable` unless the tables are those of the SDK's outbox."""
    if not any((kind, name) == ("table", "outbox") for kind, name, _, _ in tables):
        raise OutboxUnusable("it is an SQLite file of another program: it has no table named outbox")
    for kind, name, table, sql in tables:
        if kind == "trigger":
            raise OutboxUnusable("it has triggers, which no outbox of the SDK has")
        known = (kind == "table" and name in _SQLITE_TABLES) or (kind in {"table", "index"} and table == "outbox")
        evaluated = sorted(_EVALUATED & set(_words(sql or "")))
        if not known or evaluated:
            what = f"with {evaluated[0]}" if known else f"named {name[:100]!r}"
            raise OutboxUnusable(f"it has a {kind} {what}, which no outbox of the SDK has")
        if kind == "index" and connection.execute(_INDEXED_EXPRESSIONS, (name,)).fetchone()[0]:
            raise OutboxUnusable("it has an index of expressions, which no outbox of the SDK has")
    columns = {str(row[1]): (str(row[2]).upper(), row[5], row[6]) for row in connection.execute(_TABLE_INFO)}
    missing = sorted(COLUMNS - columns.keys())
    if missing or columns["id"][:2] != ("INTEGER", 1) or any(hidden for _, _, hidden in columns.values()):
        lacking = ", ".join(missing) or "an integer primary key"
        raise OutboxUnusable(f"its table outbox is not the SDK's: it lacks {lacking}")


def _words(sql: str) -> list[str]:
    return "".join(each if each.isalnum() or each == "_" else " " for each in sql.upper()).split()


def _require_sound(connection: sqlite3.Connection) -> None:
    fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if fault != "ok":
        raise OutboxUnusable(f"it is damaged ({' '.join(str(fault).split())}): repair it, or move it away")


_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_TRANSACTION})
_CHANGED_COLUMNS = frozenset({"status", "claimed_at"})
_FUNCTIONS = frozenset({"coalesce", "count", "substr", "typeof"})


def _authorized(action: int, first: str | None, second: str | None, _database: str | None, source: str | None) -> int:
    """Allow our own statements and nothing that a schema could add to them, should it change while it is open."""
    allowed = source is None and (
        action in _ALLOWED
        or (action in {sqlite3.SQLITE_READ, sqlite3.SQLITE_DELETE} and first == "outbox")
        or (action == sqlite3.SQLITE_UPDATE and first == "outbox" and second in _CHANGED_COLUMNS)
        or (action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS)
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


# The conditions are those of `outbox.py` in the SDK 4.2.11, which stays free to claim, send and delete beside us.

_TABLE_INFO: Final = "PRAGMA table_xinfo(outbox)"
_INDEXED_EXPRESSIONS: Final = "SELECT count(*) FROM pragma_index_xinfo(?) WHERE cid = -2"
_FREE = f"""(
    status = 'dead'
    OR (status = 'pending' AND next_attempt_at <= :now)
    OR (status = 'in_progress' AND coalesce(claimed_at, created_at) <= :now - {ABANDONED_SECONDS})
)"""
_NEXT_IDS: Final = "SELECT id FROM outbox WHERE id > ? ORDER BY id LIMIT ?"
_FREE_ROW: Final = f"""
    SELECT typeof(payload), CAST(substr(call_id, 1, 512) AS TEXT), status, claimed_at
    FROM outbox WHERE id = :id AND {_FREE}
"""
_CLAIM: Final = "UPDATE outbox SET status = 'in_progress', claimed_at = ? WHERE id = ?"
# Whoever claimed the row since then (after a pause of ours of five minutes) keeps it.
_DELETE_CLAIMED: Final = "DELETE FROM outbox WHERE id = ? AND status = 'in_progress' AND claimed_at = ?"
_DELETE_UNCHANGED: Final = "DELETE FROM outbox WHERE id = ? AND status IS ? AND claimed_at IS ?"
_GIVE_BACK: Final = (
    "UPDATE outbox SET status = ?, claimed_at = ? WHERE id = ? AND status = 'in_progress' AND claimed_at = ?"
)
_FREE_FROM: Final = f"""
    SELECT CASE status WHEN 'pending' THEN next_attempt_at
           WHEN 'in_progress' THEN coalesce(claimed_at, created_at) + {ABANDONED_SECONDS} END
    FROM outbox WHERE id = :id
"""
_COUNT: Final = "SELECT count(*) FROM outbox"
_KIND: Final = """
    SELECT CAST(substr(status, 1, 32) AS TEXT), CAST(substr(event_type, 1, 64) AS TEXT) FROM outbox WHERE id = :id
"""


# What an error of SQLite means.

_ROW_ERRORS = (sqlite3.Error, MemoryError)
_ROW_CODES = {sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_NOMEM}
"""One of its values is too long to be read."""
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NOT_WRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}


def _primary(error: sqlite3.Error) -> int:
    """The result code without its extension; errors of the Python module itself have none."""
    return (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF


def translated(error: sqlite3.Error | UnicodeDecodeError | MemoryError) -> OutboxError:
    """What an error of SQLite means for the outbox."""
    code = _primary(error) if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_ERROR
    if code in _BUSY:
        return OutboxBusy("another process keeps it locked")
    if code in _DAMAGED:
        return OutboxUnusable(f"it is damaged, or no SQLite file ({error}): repair it, or move it away")
    if code in _NOT_WRITABLE:
        return OutboxUnusable(
            f"it cannot be written to ({error}): give this user read and write access to the file and its folder"
        )
    if isinstance(error, MemoryError) or code in {sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_TOOBIG}:
        return OutboxUnusable("it needs more memory than there is for an outbox: no outbox of the SDK does")
    if code == sqlite3.SQLITE_AUTH:
        return OutboxUnusable("its schema was changed while it was open, to what no outbox of the SDK has")
    return OutboxUnusable(f"SQLite cannot work with it: {error}")
