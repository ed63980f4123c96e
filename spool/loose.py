"""Loose chunks: payloads that belong to no record, deleted in bounded steps between which posts are committed."""

from dataclasses import dataclass

from spool import statements
from spool.transaction import Transaction

CHUNKS_PER_STEP = 4
"""Up to 4 MiB of payload: some 15 ms at 250 MB/s, were all of it incompressible."""
RANGES_PER_STEP = 64


@dataclass(frozen=True, slots=True)
class DeleteLooseChunks:
    """Delete up to `limit` loose chunks, those with the smallest ids first; returns whether any are left.

    `incoming` are the first chunks of payloads that are still coming in.
    """

    incoming: frozenset[int]
    limit: int = CHUNKS_PER_STEP

    def __call__(self, transaction: Transaction) -> bool:
        """One bounded transaction."""
        most = RANGES_PER_STEP + len(self.incoming)
        found = transaction.execute(statements.LOOSE_CHUNKS, (most,)).fetchall()
        idle = [(first, last) for first, last in found if first not in self.incoming]
        left = self.limit
        for first, last in idle:
            if left <= 0:
                return True
            stop = min(last, first + left - 1)
            transaction.execute(statements.DELETE_CHUNKS, (first, stop))
            transaction.execute(statements.FORGET_LOOSE_CHUNKS, (first,))
            if stop < last:
                transaction.execute(statements.ADD_LOOSE_CHUNKS, (stop + 1, last))
                return True
            left -= stop - first + 1
        return len(found) == most
