"""What a group of operations asks of the database, asked for all of them together when their transaction begins.

An operation announces the call or the record that it is about (`Writer.submit`); what was found is then known here, for
as long as nothing else of the transaction changed it. What is not known here has to be asked for.
"""

import sqlite3
from collections.abc import Iterable

from spool import together
from spool.records import DeliveryState

OpenDeliveries = dict[tuple[int, str], DeliveryState]
"""By destination id and form, what has not ended of a record, dead letters included."""


class LookUps:
    """What is known about the calls and records of one transaction. For the writer's thread only."""

    def __init__(self) -> None:
        self._new_calls: set[str] = set()
        self._open: dict[int, OpenDeliveries] = {}

    def begin(self, connection: sqlite3.Connection, calls: Iterable[str], records: Iterable[int]) -> None:
        """Look up the announced calls and records; what was known before is forgotten."""
        self._new_calls = set(calls)
        for statement, asked in together.padded(together.known_calls, [(call_id,) for call_id in self._new_calls]):
            self._new_calls.difference_update(call_id for (call_id,) in connection.execute(statement, asked).fetchall())
        self._open = {record_id: {} for record_id in records}
        for statement, asked in together.padded(together.open_of_records, [(record_id,) for record_id in self._open]):
            for record_id, destination_id, form, state in connection.execute(statement, asked).fetchall():
                self._open[record_id][destination_id, form] = DeliveryState(state)

    def begins_call(self, call_id: str) -> bool:
        """Whether no record of this call is known; true once for a call, for whoever asks adds one."""
        new = call_id in self._new_calls
        self._new_calls.discard(call_id)
        return new

    def open_of(self, record_id: int) -> OpenDeliveries | None:
        """What has not ended of a record; whoever ends one takes it out. None: not known, ask the database."""
        return self._open.get(record_id)

    def forget_open(self, record_id: int | None = None) -> None:
        """What is open of this record, or of any, may have changed."""
        if record_id is None:
            self._open.clear()
        else:
            self._open.pop(record_id, None)
