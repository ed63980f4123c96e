"""What came to its end in a transaction, written together: deliveries, their records, and payloads nobody needs.

Each delivery by itself took five statements; a group of them takes three.
"""

import sqlite3

from spool import statements, together


class Endings:
    """The ends that are still to be written. For the writer's thread only."""

    def __init__(self) -> None:
        self._delivered: list[tuple[object, ...]] = []
        self._receipts: list[tuple[int, int]] = []
        self._chunks: list[tuple[int]] = []
        self._loose: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._delivered) + len(self._receipts) + len(self._chunks) + len(self._loose)

    def delivered(self, record_id: int, destination_id: int, form: str, now: int, location: str | None) -> None:
        """A destination confirmed this delivery."""
        self._delivered.append((record_id, destination_id, form, now, location))

    def receipt(self, record_id: int, now: int) -> None:
        """Nothing of this record is open any more."""
        self._receipts.append((record_id, now))

    def chunks(self, first: int, last: int) -> None:
        """Nothing needs these chunks any more."""
        if first == last:
            self._chunks.append((first,))
        else:  # Large payloads are deleted in steps, between which posts are committed.
            self._loose.append((first, last))

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write them all."""
        for statement, values in (
            *together.padded(together.end_delivered, self._delivered),
            *together.padded(together.make_receipts, self._receipts),
            *together.padded(together.delete_chunks, self._chunks),
        ):
            connection.execute(statement, values)
        if self._loose:
            connection.executemany(statements.ADD_LOOSE_CHUNKS, self._loose)
        self.clear()

    def clear(self) -> None:
        """Forget them: they are written, or their transaction came to nothing."""
        for rows in (self._delivered, self._receipts, self._chunks, self._loose):
            rows.clear()
