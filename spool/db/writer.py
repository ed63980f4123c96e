"""The sole writer, with group commit: one thread owns the writing connection, many requests share a durable commit.

Whoever wants something written submits an operation, a function of the transaction, and awaits its result. The
thread takes all that wait (light ones first, then heavy ones up to a bound, so that a large payload never holds
small posts up for long), runs them in one transaction, commits with an fsync, and only then resolves the results.
An operation that fails harms no other: the group is rolled back and each of its operations runs alone.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Generic, Protocol

from msgspec import Struct

from spool.db.connection import SQLITE_ERRORS, SqliteError, concerns_everyone, distrusts_disk, translate
from spool.db.tokens import TokenStore
from spool.db.transaction import DeliveryCounters, Operation, Result
from spool.db.write_connection import CAP_BYTES, OpenDatabase, WritePoint, reach
from spool.errors import SpoolFull, SpoolUnavailable
from spool.keys import SpoolKeys
from spool.ownership import CorruptionLatch
from spool.payload.frames import BatchCompressor, SmallPayload
from spool.space import DiskSpace

# What waits for the writer: an operation, and the future of its result.


class CommitFuture(asyncio.Future[Result]):
    """The result of an operation, which runs whether anybody waits for it or not, and may use the caller's buffers.

    So a task that awaits it is cancelled only when it is done: a future that refuses to be cancelled keeps its task
    waiting, which is then cancelled where it awaited.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  # asyncio's signature
        """Refuse."""
        return False


class Request(Struct, Generic[Result], eq=False):
    """One operation on its way: made on the event loop, run in the writer's thread, resolved on the event loop."""

    operation: Operation[Result]
    byte_count: int
    future: CommitFuture[Result]
    call_id: str | None
    record_id: int | None
    payload: SmallPayload | None
    result: Result | None = None
    error: Exception | None = None

    def resolve(self) -> None:
        """Give its future the result or the error."""
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]  # None only where Result allows it


Group = list[Request[object]]
"""Requests that share a transaction."""


@dataclass(frozen=True, slots=True)
class TransactionFailure:
    """Why a group's transaction failed; with `shared`, each of its operations would fail alone as well."""

    error: Exception
    shared: bool


def fail(group: Group, error: Exception) -> None:
    """Let all of them fail with this error."""
    for request in group:
        request.error = error


def resolve(group: Group) -> None:
    """Resolve all futures of a group. For the event loop."""
    for request in group:
        request.resolve()


# The write queue: light requests first, heavy ones a bounded amount at a time.

GROUP_LIGHT_OPERATIONS = 512
GROUP_HEAVY_BYTES = 4 << 20
"""At 250 MB/s this much holds a small post up for 16 ms."""
HEAVY_BYTES = 256 << 10
"""A request that writes so much is heavy."""


class WriteQueue:
    """Requests that wait. `put` and `end` may be called by any thread, the rest only by the writer's."""

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
        """The requests that share the next transaction: the group of a group commit."""
        group = [self._light.popleft() for _ in range(min(len(self._light), GROUP_LIGHT_OPERATIONS))]
        heavy_bytes = 0
        while self._heavy and (not heavy_bytes or heavy_bytes + self._heavy[0].byte_count <= GROUP_HEAVY_BYTES):
            heavy_bytes += self._heavy[0].byte_count
            group.append(self._heavy.popleft())
        return group

    def take_all(self) -> Group:
        """Everything that waits, when nobody will write it any more."""
        while not self._inbox.empty():
            self.sort()
        left = [*self._light, *self._heavy]
        self._light.clear()
        self._heavy.clear()
        return left


# The observer of commits, for metrics.


class CommitObserver(Protocol):
    """Hears of every durable commit that changed something, on the event loop."""

    def committed(self, seconds: float, batch: int) -> None:
        """A transaction with `batch` operations took `seconds` from BEGIN to the end of its fsync."""


LOOK_SECONDS = 1.0
"""How often a full disk is looked at while nobody posts."""
WRITING = "writing to the spool"
ENDED = "the spool's writer has ended by a defect; start callspool again"


class Writer:
    """Owns the writing connection in a thread. Opens it at once; `close` ends it."""

    def __init__(
        self,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        observer: CommitObserver,
        disk: DiskSpace,
        corruption: CorruptionLatch,
        compression_level: int = 1,
        log_cap_bytes: int = CAP_BYTES,
        keys: SpoolKeys | None = None,
        *,
        erase_freed: bool = False,
        counts_tenants: bool = False,
    ) -> None:
        """`counts_tenants`: whether `tenant_bytes` is kept, for which a start reads every open record."""
        self.keys = keys or SpoolKeys()
        """What data keys are wrapped by; only whether it is enabled is for others than this thread to ask."""
        self._loop = loop
        self._observer = observer
        self._queue = WriteQueue()
        self._compressor = BatchCompressor(compression_level, sealing=self.keys.enabled)
        self._corruption = corruption
        self._in_hand: Group = []
        self._commits: list[tuple[float, int]] = []
        """What the observer is told of the group in hand."""
        self._closed: str | None = None
        """Why no request is accepted any more."""
        self.disk = disk
        self.database = OpenDatabase(
            path,
            disk,
            corruption,
            log_cap_bytes,
            self.keys,
            erase_freed=erase_freed,
            counts_tenants=counts_tenants,
        )
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        """Why nothing can be written at the moment, if so."""
        return ENDED if self._closed == ENDED else self.database.failure

    @property
    def counters(self) -> DeliveryCounters:
        """The counters, as of the last commit."""
        return self.database.transaction.counters

    @property
    def tenant_bytes(self) -> Mapping[str, int]:
        """Stored bytes of open records by tenant, as of the last commit."""
        return self.database.transaction.tenants.image

    @property
    def tokens(self) -> TokenStore:
        """The tokens; another thread may ask for the value of one."""
        return self.database.transaction.tokens

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
        payload: SmallPayload | None = None,
    ) -> CommitFuture[Result]:
        """Have `operation` run in a transaction; what is returned resolves once that is durable.

        `byte_count` says how many bytes it adds to the spool: what adds any is refused while the disk is full.
        `call_id` or `record_id` says which call or record it is about, `payload` what it will want compressed: this is
        done for all operations of a group together. Raises `SpoolUnavailable` after `close`.
        """
        if self._closed is not None:
            raise SpoolUnavailable(self._closed)
        future: CommitFuture[Result] = CommitFuture(loop=self._loop)
        self._queue.put(Request(operation, byte_count, future, call_id, record_id, payload))  # type: ignore[arg-type]  # a queue of any results
        return future

    def empty_log(self, seconds: float) -> bool:
        """Leave nothing in the write-ahead log that is there now; False where that was not possible for so long.

        It waits for the disk: not for the event loop.
        """
        return self.database.empty_log(seconds)

    async def close(self) -> None:
        """Write what was submitted, finish the log, and end the thread."""
        if self._closed is None:
            self._closed = "the spool is closed"
            self._queue.end()
        await asyncio.to_thread(self._thread.join)

    # The thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._abandon()

    def _work(self) -> None:
        stopping = False
        while not stopping or self._queue:
            stopping = self._queue.sort(0.0 if stopping or self._queue else self._patience) or stopping
            if self.disk.shortage is not None:
                self.disk.recover()
            self._in_hand = self._queue.take_group()
            if self._in_hand:
                self._write(self._in_hand)
                self._call_on_loop(self._report, self._in_hand, self._commits)
                self._in_hand, self._commits = [], []
            self.database.reset_long_log()
        self.database.finish()

    @property
    def _patience(self) -> float | None:
        """How long to wait for requests: a full disk is looked at again every second."""
        return None if self.disk.shortage is None else LOOK_SECONDS

    def _write(self, group: Group) -> None:
        if self._corruption.reason is not None:
            fail(group, self._corruption.error())
            return
        if self.failure is not None and not self.database.reopen():
            fail(group, SpoolUnavailable(f"the spool cannot write: {self.failure}"))
            return
        group = self._admitted(group)
        failed = self._transact(group) if group else None
        if failed is not None and isinstance(failed.error, SpoolFull):
            failed = self._retry_without_headroom(group, failed)
        if failed is None:
            return
        if len(group) == 1 or failed.shared:
            fail(group, failed.error)
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

    def _retry_without_headroom(self, group: Group, failed: TransactionFailure) -> TransactionFailure | None:
        """After a group found no room on the disk: what adds nothing may use the headroom, and a reset log."""
        reason = str(failed.error)
        if any(request.byte_count for request in group):
            if len(group) == 1:  # which of several it was shows when each runs alone
                self.disk.ran_out(reason, large=group[0].byte_count >= HEAVY_BYTES)
            return failed
        self.disk.give_up(reason)
        self.database.reset_log()
        return self._transact(group)

    def _transact(self, group: Group) -> TransactionFailure | None:
        """Run a group in one transaction. Returns why it failed; None when it is durable."""
        started = time.perf_counter()
        transaction = self.database.transaction
        try:
            self._compressor.compress([request.payload for request in group if request.payload is not None])
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
            return self._fail(error)
        except Exception as error:  # noqa: BLE001  # whatever an operation raises belongs to whoever submitted it
            self.database.roll_back()
            unstorable = isinstance(error, UnicodeEncodeError | OverflowError)
            return TransactionFailure(translate(error, WRITING) if unstorable else error, shared=False)
        reason = self.database.measure()
        if reason is not None:
            self.database.failure = reason
            if not self.database.rescue():
                return TransactionFailure(SpoolUnavailable(f"the spool cannot write: {reason}"), shared=True)
        if transaction.changed_something:
            self.database.written(sum(request.byte_count for request in group))
            self._commits.append((time.perf_counter() - started, len(group)))
        return None

    def _fail(self, cause: SqliteError) -> TransactionFailure:
        """After an I/O error nothing that the connection believes can be trusted: it is reopened before the next."""
        self.database.roll_back()
        error = translate(cause, WRITING)
        if distrusts_disk(cause):
            self.database.failure = str(error)
        self._corruption.observe(error)
        if isinstance(error, SpoolFull):
            error.used_bytes = self.total_bytes
        return TransactionFailure(error, shared=concerns_everyone(cause))

    def _abandon(self) -> None:
        """Fail what is left, so that nobody waits for a thread that ended: nothing, unless it ended by a defect."""
        self._closed = self._closed or ENDED
        left = [*self._in_hand, *self._queue.take_all()]
        fail(left, SpoolUnavailable(ENDED))
        self._call_on_loop(resolve, left)

    def _report(self, group: Group, commits: list[tuple[float, int]]) -> None:
        """On the event loop, in one call: waking it for each of both took a system call more."""
        resolve(group)
        for seconds, batch in commits:
            self._observer.committed(seconds, batch)

    def _call_on_loop(self, callback: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the event loop is closed, and everyone who waited on it is gone
            self._loop.call_soon_threadsafe(callback, *arguments)
