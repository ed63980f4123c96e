"""Statements that take many rows at once, of which only few different ones are ever prepared.

Each statement that the writer runs gives up Python's global lock and has to get it back from a busy event loop, so one
for many rows costs little more than one for a single row. The number of rows is rounded up to a power of two, at most
`LARGEST_STEP`; what is missing is filled up with the first row once more, which changes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain

from spool.records import DeliveryState
from spool.rows import Row

LARGEST_STEP = 64

ForRows = Callable[[int], str]
"""Makes the statement for so many rows."""


def padded(for_rows: ForRows, rows: Sequence[Row]) -> Iterator[tuple[str, tuple[object, ...]]]:
    """The statements that together take all `rows`, each with its parameters."""
    for start in range(0, len(rows), LARGEST_STEP):
        step = rows[start : start + LARGEST_STEP]
        count = 1 << (len(step) - 1).bit_length()
        yield for_rows(count), (*chain.from_iterable(step), *(tuple(step[0]) * (count - len(step))))


@cache
def places(rows: int, columns: int) -> str:
    """The places of so many rows of parameters: `(?,?),(?,?)`."""
    return ",".join([f"({','.join('?' * columns)})"] * rows)


@cache
def known_calls(count: int) -> str:
    """Which of `count` calls have a record: one look-up in the index for each, all in one statement."""
    return (
        f"SELECT column1 FROM (VALUES {places(count, 1)}) WHERE EXISTS (SELECT 1 FROM records WHERE call_id = column1)"
    )


@cache
def open_of_records(count: int) -> str:
    """What has not ended of `count` records."""
    return (
        "SELECT record_id, destination_id, form, state FROM deliveries "
        f"WHERE record_id IN ({','.join('?' * count)}) AND +state <= 3"
    )


@cache
def end_delivered(count: int) -> str:
    """Confirmed deliveries: record, destination, form, the time, and the location or NULL of each."""
    return (
        f"UPDATE deliveries SET state = {int(DeliveryState.DELIVERED)}, settled_at = ended.column4, held_for = NULL, "
        "error = NULL, location = coalesce(ended.column5, location) "
        f"FROM (VALUES {places(count, 5)}) AS ended "
        "WHERE record_id = ended.column1 AND destination_id = ended.column2 AND form = ended.column3"
    )


@cache
def make_receipts(count: int) -> str:
    """Records of which nothing is open any more: the record and the time of each."""
    return (
        "UPDATE records SET settled_at = ended.column2, token_id = NULL "
        f"FROM (VALUES {places(count, 2)}) AS ended WHERE record_id = ended.column1"
    )


@cache
def delete_chunks(count: int) -> str:
    """`count` chunks of as many payloads."""
    return f"DELETE FROM chunks WHERE chunk_id IN ({','.join('?' * count)})"
