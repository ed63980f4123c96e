"""Taking a row into the spool: the same examination and acceptance as a post, durable when it returns."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from gateway.calllog.nonfinite import Scratch
from gateway.intake.accepting import Acceptor
from gateway.intake.body import Body
from gateway.intake.budget import MemoryBudget
from gateway.intake.calls import ENDED
from gateway.intake.prepared import Prepared
from gateway.intake.refusals import translate
from gateway.intake.staging import Staged, StagedFile, StagingArea
from gateway.intake.tokens import IntakeToken
from gateway.intake.workers import Workers
from gateway.outbox.errors import OutboxError, RowRefused, TakingLater
from gateway.outbox.file import BATCH_BYTES
from gateway.outbox.restoring import Restored, restore
from gateway.outbox.rows import Outcome, Row
from gateway.outbox.threads import in_thread
from spool.records import Buffer

MEMORY_BYTES = 3 * BATCH_BYTES
"""For a batch: its payloads, its call logs, and what examining them takes."""
_log = structlog.get_logger("callspool.outbox")
_WRITE_BYTES = 1 << 20

Copy = Callable[[Row, Callable[[bytes], object]], None]
"""Gives the payload of a row to a writer, piece by piece; for worker threads."""


class Taker(Protocol):
    """Where rescued rows go."""

    async def take(self, row: Row, copy: Copy) -> Outcome:
        """Make a row's call log durable there; the outcome is one that allows the row to be deleted.

        Raises `RowRefused` for a row that is no call log, `TakingLater` where nothing can be taken at the moment, and
        `OutboxError` where the row cannot be read.
        """
        ...


class NonfiniteObserver(Protocol):
    """Hears of what was replaced."""

    def nonfinite_numbers(self, count: int) -> None:
        """A new record had so many NaN or Infinity, which are null now."""
        ...


@dataclass(frozen=True, slots=True)
class IntakeParts:
    """The parts of the intake that rows go through."""

    acceptor: Acceptor
    budget: MemoryBudget
    staging: StagingArea
    workers: Workers
    token: IntakeToken
    observer: NonfiniteObserver


class SpoolTaker:
    """Takes rows into the spool of this process. For the event loop."""

    def __init__(self, intake: IntakeParts, key: str | None) -> None:
        self._intake = intake
        self._key = key

    async def take(self, row: Row, copy: Copy) -> Outcome:
        """See `Taker`."""
        try:
            # A small row waits for memory like a post, so that posts are not the ones that wait.
            with await self._intake.budget.reserve(min(3 * row.size, MEMORY_BYTES, self._intake.budget.largest)):
                return await self._take(row, copy)
        except (OutboxError, RowRefused):
            raise
        except Exception as error:  # whatever it is, the row stays in the outbox, and the others go on
            refusal = translate(error)
            if refusal is None:
                _log.error("unexpected error with a row", row=row.row_id, call_id=row.call_id, exc_info=error)
                raise RowRefused("an unexpected error met it; the log has the details") from error
            if refusal.retry_after is not None:
                raise TakingLater(refusal.message) from error
            raise RowRefused(refusal.message) from error

    async def _take(self, row: Row, copy: Copy) -> Outcome:
        """Examine and accept one row."""
        body, restored = await self._load(row, copy)
        try:
            opened = await self._intake.acceptor.examine(body)
            if not isinstance(opened, Prepared):
                raise RowRefused("its whispey_data is not a call log")
            accepted = await self._intake.acceptor.accept(
                opened, self._key_for(restored), yields_to=ENDED if restored.partial else None
            )
        finally:
            body.release()
        if accepted.duplicate:
            return Outcome.DUPLICATE
        if restored.nonfinite_numbers:
            self._intake.observer.nonfinite_numbers(restored.nonfinite_numbers)
        return Outcome.SUPERSEDED if accepted.superseded else Outcome.RESCUED

    def _key_for(self, restored: Restored) -> str | None:
        """The agent's key of the row; else the one that the operator gave for rows without, as the SDK has it set."""
        return self._intake.token.foreign(restored.key) or self._key

    async def _load(self, row: Row, copy: Copy) -> tuple[Body, Restored]:
        """The call log as a body: in memory, or in staging files where the row is large."""
        run = self._intake.workers.run
        if row.payload is not None:
            restored = restore(row.payload) if row.size <= _WRITE_BYTES // 4 else await run(restore, row.payload)
            return Body(b"".join(restored.pieces), None, None), restored
        staged = self._intake.staging.begin()
        try:
            file, restored = await in_thread(_staged, staged, lambda write: copy(row, write))
            data = await run(file.map)
        except BaseException:
            staged.discard()
            raise
        return Body(data, None, staged, file), restored


def _staged(staged: Staged, copy: Callable[[Callable[[bytes], object]], None]) -> tuple[StagedFile, Restored]:
    """A large row through two files: its payload, and the call log as the SDK posts it. For worker threads."""
    payload = staged.file()
    copy(payload.write)
    scratch: Scratch = staged.scratch
    restored = restore(payload.map(), scratch)
    call_log = staged.file()
    for piece in _pieces_of(restored.pieces):
        call_log.write(piece)
    return call_log, restored


def _pieces_of(pieces: Iterable[Buffer]) -> Iterable[memoryview]:
    """So small that no more than one of them is copied at a time."""
    for piece in pieces:
        view = memoryview(piece)
        while view:
            yield view[:_WRITE_BYTES]
            view = view[_WRITE_BYTES:]
