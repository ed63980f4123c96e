"""New rows that are written together: they are gathered, and written when something is read, or at the end.

At 2 KB a post the hand-over of Python's lock at each statement, not SQLite, bounded how many were accepted.
"""

import sqlite3
from functools import cache
from itertools import chain

from spool.together import LARGEST_STEP, places

_WHOLE_STEP = 16


@cache
def statement_for(table: str, columns: tuple[str, ...], rows: int) -> str:
    """The statement that inserts so many rows at once."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {places(rows, len(columns))}"


class Inserts:
    """The rows that are still to be inserted into one table."""

    def __init__(self, table: str, columns: str) -> None:
        self._table = table
        self._columns = tuple(columns.split(", "))
        self._rows: list[tuple[object, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: tuple[object, ...]) -> None:
        """One more row, its values in the order of the columns."""
        self._rows.append(row)

    def flush(self, connection: sqlite3.Connection) -> None:
        """Insert all rows, in few statements of which few different ones have to be prepared.

        Up to `_WHOLE_STEP` rows are one statement; of more, multiples of it are one, and the rest another.
        """
        rows, self._rows = self._rows, []
        start = 0
        while start < len(rows):
            left = len(rows) - start
            step = left if left < _WHOLE_STEP else min(LARGEST_STEP, left - left % _WHOLE_STEP)
            batch = rows[start : start + step]
            connection.execute(statement_for(self._table, self._columns, step), tuple(chain.from_iterable(batch)))
            start += step

    def clear(self) -> None:
        """Forget the rows: their transaction came to nothing."""
        self._rows.clear()
