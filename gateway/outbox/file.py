"""One outbox file: claiming rows as the SDK does, reading them, and deleting them when they are durable elsewhere.

Everything here blocks, for at most `LOCK_SECONDS` on other processes: call it in a worker thread, one call at a time.
No transaction is held between two calls, so that an SDK beside us never waits longer than for its own kind.
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gateway.outbox.errors import OutboxUnusable, translated
from gateway.outbox.proving import Stamp, connect, prove, reading_mode, stamp_of
from gateway.outbox.rows import (
    ANY_FREE_ROW,
    CLAIM,
    COUNT,
    DELETE_CLAIMED,
    FREE_FROM,
    FREE_IDS,
    FREE_ROWS,
    GIVE_BACK,
    KINDS,
    Row,
    Survey,
)

BATCH_ROWS = 32
BATCH_BYTES = 1 << 20
"""Payloads that are held in memory at once; a row that is larger comes alone, and is copied piece by piece."""
_COPY_BYTES = 1 << 20


class OutboxFile:
    """An outbox of the SDK. `open` before the first of the other calls, `close` after the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._proven: Stamp | None = None
        self._connection: sqlite3.Connection | None = None

    def stamp(self) -> Stamp | None:
        """See `stamp_of`: cheap enough to be asked every second."""
        return stamp_of(self.path)

    def open(self, stamp: Stamp, *, to_change: bool = True) -> bool:
        """Make sure that it is an outbox, and connect to it; False where it has no table yet.

        A file that was proven once is trusted until it is replaced, or fails. Raises `OutboxError`.
        """
        if (self._proven is None or stamp.replaces(self._proven)) and not prove(self.path, stamp):
            return False
        self._proven = stamp
        with self._translated():
            self._connection = connect(self.path, "rw" if to_change else reading_mode(stamp))
        return True

    def close(self) -> None:
        """Let go of the file; harmless when repeated."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def claim(self, now: float, left_out: Collection[int]) -> tuple[Row, ...]:
        """Claim the next rows that nobody works on, at most one of each call, but those of `left_out`.

        `now` is in seconds since the epoch, as the SDK counts. Where none is returned, none is free. Raises
        `OutboxError`.
        """
        wanted: dict[str, object] = {"now": now, "left_out": json.dumps(list(left_out)), "limit": BATCH_ROWS}
        with self._translated():
            if not self._open.execute(ANY_FREE_ROW, wanted).fetchone()[0]:
                return ()
            with self._transaction() as connection:
                rows = tuple(self._batch(connection.execute(FREE_ROWS, wanted).fetchall()))
                connection.executemany(CLAIM, [(now, row.row_id) for row in rows])
            return rows

    def copy(self, row: Row, write: Callable[[bytes], object]) -> None:
        """Give the payload of a row to `write`, piece by piece. Raises `OutboxError`, and what `write` raises."""
        with self._translated(), self._open.blobopen("outbox", "payload", row.row_id, readonly=True) as blob:
            while piece := blob.read(_COPY_BYTES):
                write(piece)

    def settle(self, claimed_at: float, done: Sequence[Row], not_done: Sequence[Row]) -> None:
        """Delete the claimed rows that are durable elsewhere, and give the others back as they were."""
        with self._translated(), self._transaction() as connection:
            connection.executemany(DELETE_CLAIMED, [(row.row_id, claimed_at) for row in done])
            connection.executemany(
                GIVE_BACK, [(row.status, row.claimed_at, row.row_id, claimed_at) for row in not_done]
            )

    def free_from(self, left_out: Collection[int]) -> float | None:
        """When the next row can be taken that cannot be now, in seconds since the epoch; None without one."""
        with self._translated():
            found: float | None = self._open.execute(FREE_FROM, {"left_out": json.dumps(list(left_out))}).fetchone()[0]
            return found

    def count(self) -> int:
        """How many rows it holds, of whatever status."""
        with self._translated():
            return int(self._open.execute(COUNT).fetchone()[0])

    def survey(self, now: float) -> Survey:
        """What lies in it; nothing is changed."""
        with self._translated():
            free = [row_id for (row_id,) in self._open.execute(FREE_IDS, {"now": now})]
            kinds = tuple(self._open.execute(KINDS))
            size = sum(self._size(row_id) for row_id in free)
            return Survey(len(free), size, self.count() - len(free), kinds)

    def _batch(self, free: Sequence[tuple[int, str, str, float | None]]) -> Iterator[Row]:
        """The rows of one batch; the first in any case."""
        calls: set[str] = set()
        total = 0
        for row_id, call_id, status, claimed_at in free:
            size = self._size(row_id)
            if call_id in calls or (calls and total + size > BATCH_BYTES):
                return
            payload = self._read(row_id) if size <= BATCH_BYTES else None
            yield Row(row_id, call_id, status, claimed_at, size, payload)
            calls.add(call_id)
            total += size

    def _size(self, row_id: int) -> int:
        """Bytes of a payload. SQL's length() would read all of it into memory."""
        with self._open.blobopen("outbox", "payload", row_id, readonly=True) as blob:
            return len(blob)

    def _read(self, row_id: int) -> bytes:
        """A payload in one piece."""
        with self._open.blobopen("outbox", "payload", row_id, readonly=True) as blob:
            return blob.read()

    @property
    def _open(self) -> sqlite3.Connection:
        """The connection, which must be there."""
        assert self._connection is not None, "it is not open"
        return self._connection

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
        """A file that failed is examined again before its next use."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            told = translated(error)
            if isinstance(told, OutboxUnusable):
                self._proven = None
            raise told from error
