"""Open circuit breakers, kept through restarts: one row for each destination that takes no deliveries."""

from collections.abc import Mapping
from dataclasses import dataclass

from spool import statements
from spool.open_breaker import OpenBreaker
from spool.transaction import Transaction
from spool.writer import Writer


class BreakerBook:
    """What is known of open breakers (uploaders.uploader.BreakerMemory)."""

    def __init__(self, writer: Writer, destination_ids: Mapping[str, int]) -> None:
        self._writer = writer
        self._ids = destination_ids

    async def read(self, destination: str) -> OpenBreaker | None:
        """What was kept last; None for a destination whose breaker is closed."""
        return await self._writer.submit(_Read(self._ids[destination]))

    async def keep(self, destination: str, breaker: OpenBreaker | None) -> None:
        """Remember it, or that it is closed; durable when this returns."""
        await self._writer.submit(_Keep(self._ids[destination], breaker))


@dataclass(frozen=True, slots=True)
class _Read:
    """Reads through the writer, so that what is read is what was written last."""

    destination_id: int

    def __call__(self, transaction: Transaction) -> OpenBreaker | None:
        """The row, if there is one."""
        row = transaction.execute(statements.READ_BREAKER, (self.destination_id,)).fetchone()
        return None if row is None else OpenBreaker(*row)


@dataclass(frozen=True, slots=True)
class _Keep:
    """Writes the row of a destination, or removes it."""

    destination_id: int
    breaker: OpenBreaker | None

    def __call__(self, transaction: Transaction) -> None:
        """One statement."""
        one = self.breaker
        if one is None:
            transaction.execute(statements.FORGET_BREAKER, (self.destination_id,))
        else:
            values = (self.destination_id, one.cause, one.reason, one.since, one.retry_at, one.probes)
            transaction.execute(statements.KEEP_BREAKER, values)
