"""The sole writer: one thread owns the one writing connection, and many requests share one durable commit.

Whoever wants something written submits an operation, a function of the transaction, and awaits its result. The
thread takes all that wait (light ones first, then heavy ones up to a bound, so that a large payload never holds
small posts up for long), runs them in one transaction, commits with an fsync, and only then resolves the results.
An operation that fails takes nobody with it: the group is rolled back and each of its operations runs alone.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Generic, Protocol

from spool.db.checkpointer import CAP_BYTES
from spool.db.connection import SQLITE_ERRORS, SqliteError, concerns_everyone, distrusts_disk, translate
from spool.db.counters import CounterBook
from spool.db.transaction import Operation, Result
from spool.db.write_connection import OpenDatabase, WritePoint, reach
from spool.directory import Damage
from spool.errors import SpoolFull, SpoolUnavailable
from spool.payload.frames import Press, Small
from spool.space import DiskSpace

# What waits for the writer: an operation, and whoever awaits its result.


class Commitment(asyncio.Future[Result]):
    """What an operation comes to. It runs whether anybody waits for it or not, and may use the caller's buffers.

    So whoever awaits it is cancelled only when it is done: a task that is told that its future cannot be cancelled
    goes on waiting, and is cancelled where it awaited.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  # asyncio's signature
        """Refuse."""
        return False


@dataclass(slots=True)
class Request(Generic[Result]):
    """One operation on its way: made on the event loop, run in the writer's thread, resolved on the event loop."""

    operation: Operation[Result]
    byte_count: int
    commitment: Commitment[Result]
    call_id: str | None
    record_id: int | None
    payload: Small | None
    result: Result | None = None
    error: Exception | None = None

    def resolve(self) -> None:
        """Tell what came of it."""
        if self.error is not None:
            self.commitment.set_exception(self.error)
        else:
            self.commitment.set_result(self.result)  # type: ignore[arg-type]  # None only where Result allows it


Group = list[Request[object]]
"""Requests that share a transaction."""


@dataclass(frozen=True, slots=True)
class Setback:
    """What made a group's transaction come to nothing; with `shared` it would be no better for any of them alone."""

    error: Exception
    shared: bool


def fail(group: Group, error: Exception) -> None:
    """None of them came to anything."""
    for request in group:
        request.error = error


def resolve(group: Group) -> None:
    """Tell everyone of a group. For the event loop."""
    for request in group:
        request.resolve()


# The line of requests before the writer: light ones first, heavy ones a bounded amount at a time.

GROUP_LIGHT_OPERATIONS = 512
GROUP_HEAVY_BYTES = 4 << 20
"""At 250 MB/s this much holds a small post up for 16 ms."""
HEAVY_BYTES = 256 << 10
"""A request that writes so much is heavy."""


class RequestLine:
    """Where requests wait. `put` and `end` may be called by any thread, the rest only by the writer's."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[Request[object] | None] = SimpleQueue()
        self._light: deque[Request[object]] = deque()
        self._heavy: deque[Request[object]] = deque()

    def __bool__(self) -> bool:
        """Whether anything sorted waits."""
        return bool(self._light or self._heavy)

    def put(self, request: Request[object]) -> None:
        """Add a request at the end."""
        self._inbox.put(request)

    def end(self) -> None:
        """Nothing comes after what is there now."""
        self._inbox.put(None)

    def sort(self, timeout: float | None = 0.0) -> bool:
        """Sort what has come into light and heavy; returns whether the end has come.

        Waits up to `timeout` seconds for the first, for ever with None.
        """
        try:
            request = self._inbox.get(timeout != 0, timeout)
            while request is not None:
                (self._heavy if request.byte_count >= HEAVY_BYTES else self._light).append(request)
                request = self._inbox.get(block=False)
        except Empty:
            return False
        return True

    def take_group(self) -> Group:
        """What shares the next transaction."""
        group = [self._light.popleft() for _ in range(min(len(self._light), GROUP_LIGHT_OPERATIONS))]
        heavy_bytes = 0
        while self._heavy and (not heavy_bytes or heavy_bytes + self._heavy[0].byte_count <= GROUP_HEAVY_BYTES):
            heavy_bytes += self._heavy[0].byte_count
            group.append(self._heavy.popleft())
        return group

    def take_all(self) -> Group:
        """Everything that waits, for nobody will write it any more."""
        while not self._inbox.empty():
            self.sort()
        left = [*self._light, *self._heavy]
        self._light.clear()
        self._heavy.clear()
        return left


# Who hears of commits, for metrics.


class CommitObserver(Protocol):
    """Hears of every durable commit that changed something, on the event loop."""

    def committed(self, seconds: float, batch: int) -> None:
        """A transaction with `batch` operations took `seconds` from BEGIN to the end of its fsync."""
        ...


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
