"""The sole writer: one thread owns the one writing connection, and many requests share one durable commit.

Whoever wants something written submits an operation, a function of the transaction, and awaits its result. The
thread takes all that wait (light ones first, then heavy ones up to a bound, so that a large payload never holds
small posts up for long), runs them in one transaction, commits with an fsync, and only then resolves the results.
An operation that fails takes nobody with it: the group is rolled back and each of its operations runs alone.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spool.accounting import CounterBook
from spool.checkpoints import CAP_BYTES
from spool.commit_observer import CommitObserver
from spool.damage import Damage
from spool.database import SQLITE_ERRORS, SqliteError, concerns_everyone, distrusts_disk, translate
from spool.disk_space import DiskSpace
from spool.errors import SpoolFull, SpoolUnavailable
from spool.line import HEAVY_BYTES, RequestLine
from spool.open_database import OpenDatabase
from spool.packing import Press, Small
from spool.requests import Commitment, Group, Request, Setback, fail, resolve
from spool.transaction import Operation, Result
from spool.write_points import WritePoint, reach

LOOK_SECONDS = 1.0
"""How often a full disk is looked at while nobody posts."""
WRITING = "writing to the spool"
ENDED = "the spool's writer has ended"


class Writer:
    """Owns the writing connection in a thread. Opens it at once; `close` ends it."""

    def __init__(
        self,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        observer: CommitObserver,
        disk: DiskSpace,
        damage: Damage,
        compression_level: int = 1,
        log_cap_bytes: int = CAP_BYTES,
    ) -> None:
        self._loop = loop
        self._observer = observer
        self._line = RequestLine()
        self._press = Press(compression_level)
        self._damage = damage
        self._in_hand: Group = []
        self._closed: str | None = None
        """Why nothing is taken any more."""
        self.disk = disk
        self.database = OpenDatabase(path, disk, damage, log_cap_bytes)
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        """Why nothing can be written at the moment, if so."""
        return self.database.failure

    @property
    def counters(self) -> CounterBook:
        """The books, as of the last commit."""
        return self.database.transaction.counters

    @property
    def total_bytes(self) -> int:
        """Pages in use, write-ahead log, and headroom."""
        sizes = self.database.sizes
        return sizes.used_bytes + sizes.log_bytes + self.disk.taken_bytes(sizes.unmoved_bytes)

    def submit(
        self,
        operation: Operation[Result],
        byte_count: int = 0,
        *,
        call_id: str | None = None,
        record_id: int | None = None,
        payload: Small | None = None,
    ) -> Commitment[Result]:
        """Have `operation` run in a transaction; what is returned resolves once that is durable.

        `byte_count` says how many bytes it adds to the spool: what adds any is refused while the disk is full.
        `call_id` or `record_id` says which call or record it is about, `payload` what it will want compressed: this is
        done for all operations of a group together. Raises `SpoolUnavailable` after `close`.
        """
        if self._closed is not None:
            raise SpoolUnavailable(self._closed)
        commitment: Commitment[Result] = Commitment(loop=self._loop)
        self._line.put(Request(operation, byte_count, commitment, call_id, record_id, payload))  # type: ignore[arg-type]  # a queue of any results
        return commitment

    async def close(self) -> None:
        """Write what was submitted, finish the log, and end the thread."""
        if self._closed is None:
            self._closed = "the spool is closed"
            self._line.end()
        await asyncio.to_thread(self._thread.join)

    # The thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._abandon()

    def _work(self) -> None:
        stopping = False
        while not stopping or self._line:
            stopping = self._line.sort(0.0 if stopping or self._line else self._patience) or stopping
            if self.disk.shortage is not None:
                self.disk.recover()
            self._in_hand = self._line.take_group()
            if self._in_hand:
                self._write(self._in_hand)
                self._tell(resolve, self._in_hand)
                self._in_hand = []
            self.database.reset_long_log()
        self.database.finish()

    @property
    def _patience(self) -> float | None:
        """How long to wait for requests: on a full disk there is something to look at."""
        return None if self.disk.shortage is None else LOOK_SECONDS

    def _write(self, group: Group) -> None:
        if self._damage.reason is not None:
            fail(group, self._damage.error())
            return
        if self.failure is not None and not self.database.reopen():
            fail(group, SpoolUnavailable(f"the spool cannot write: {self.failure}"))
            return
        group = self._admitted(group)
        setback = self._transact(group) if group else None
        if setback is not None and isinstance(setback.error, SpoolFull):
            setback = self._make_do(group, setback)
        if setback is None:
            return
        if len(group) == 1 or setback.shared:
            fail(group, setback.error)
            return
        for request in group:
            self._write([request])

    def _admitted(self, group: Group) -> Group:
        """What of a group may be written: on a full disk nothing that adds to the spool."""
        adds = sum(request.byte_count for request in group)
        if adds:
            self.disk.keep(self.database.sizes.unmoved_bytes + adds)
        if self.disk.shortage is None:
            return group
        refused = [one for one in group if one.byte_count and self.disk.refuses(large=one.byte_count >= HEAVY_BYTES)]
        fail(refused, SpoolFull(self.disk.shortage, used_bytes=self.total_bytes, limit_bytes=None))
        return [one for one in group if one.error is None]

    def _make_do(self, group: Group, setback: Setback) -> Setback | None:
        """After a group found no room: what adds nothing has the headroom now, and the log from its start."""
        reason = str(setback.error)
        if any(request.byte_count for request in group):
            if len(group) == 1:  # which of several it was shows when each runs alone
                self.disk.ran_out(reason, large=group[0].byte_count >= HEAVY_BYTES)
            return setback
        self.disk.give_up(reason)
        self.database.reset_log()
        return self._transact(group)

    def _transact(self, group: Group) -> Setback | None:
        """Run a group in one transaction. Returns what made it come to nothing."""
        started = time.perf_counter()
        transaction = self.database.transaction
        try:
            self._press.compress([request.payload for request in group if request.payload is not None])
            transaction.begin(
                [request.call_id for request in group if request.call_id is not None],
                [request.record_id for request in group if request.record_id is not None],
            )
            reach(WritePoint.BEGUN, group)
            for request in group:
                request.result = request.operation(transaction)
            reach(WritePoint.WRITTEN, group)
            transaction.commit()
            reach(WritePoint.COMMITTED, group)
        except SQLITE_ERRORS as error:
            return self._set_back(error)
        except Exception as error:  # noqa: BLE001  # whatever an operation raises belongs to whoever submitted it
            self.database.roll_back()
            unstorable = isinstance(error, UnicodeEncodeError | OverflowError)
            return Setback(translate(error, WRITING) if unstorable else error, shared=False)
        reason = self.database.measure()
        if reason is not None:
            self.database.failure = reason
            return Setback(SpoolUnavailable(f"the spool cannot write: {reason}"), shared=True)
        if transaction.changed_something:
            self.database.written(sum(request.byte_count for request in group))
            self._tell(self._observer.committed, time.perf_counter() - started, len(group))
        return None

    def _set_back(self, cause: SqliteError) -> Setback:
        """After an I/O error nothing that the connection believes can be trusted: it is reopened before the next."""
        self.database.roll_back()
        error = translate(cause, WRITING)
        if distrusts_disk(cause):
            self.database.failure = str(error)
        self._damage.look_at(error)
        if isinstance(error, SpoolFull):
            error.used_bytes = self.total_bytes
        return Setback(error, shared=concerns_everyone(cause))

    def _abandon(self) -> None:
        """Nobody waits for ever for a thread that ended: there is nobody left, unless it ended by a mistake of ours."""
        self._closed = self._closed or ENDED
        left = [*self._in_hand, *self._line.take_all()]
        fail(left, SpoolUnavailable(ENDED))
        self._tell(resolve, left)

    def _tell(self, callback: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the event loop is closed, and everyone who waited on it is gone
            self._loop.call_soon_threadsafe(callback, *arguments)
