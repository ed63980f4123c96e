"""The counters: how every destination's deliveries stand, kept in the transactions that move them.

The committed counts are held in memory, and the changes of the transaction under way beside them; these are
written with the transaction and become part of the image when it is durable.
"""

import sqlite3
from collections.abc import Mapping

from spool.db import sql
from spool.records import DeliveryState, Lane
from spool.stats import LaneCounts

_OWED = 0
_STATE_COLUMN = {state: 1 + int(state) for state in DeliveryState}
_QUEUED_BYTES = 8
_COLUMNS = 9

LaneKey = tuple[int, Lane]
"""A destination's id and a lane."""


class DeliveryCounters:
    """Counts per destination and lane. Written by the writer's thread only; `image` may be read by any."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.image: Mapping[LaneKey, LaneCounts] = {}
        self._changes: dict[LaneKey, list[int]] = {}
        self.reload(connection)

    def reload(self, connection: sqlite3.Connection) -> None:
        """Read the committed counts and forget changes that were not."""
        self._changes.clear()
        self.image = {
            (destination_id, Lane(lane)): LaneCounts(*counts)
            for destination_id, lane, *counts in connection.execute(sql.ALL_COUNTERS)
        }

    def enqueue(self, destination_id: int, lane: Lane, state: DeliveryState, raw_bytes: int) -> None:
        """A new delivery begins in `state`."""
        changes = self._of(destination_id, lane)
        changes[_OWED] += 1
        changes[_STATE_COLUMN[state]] += 1
        if state.queued:
            changes[_QUEUED_BYTES] += raw_bytes

    def dequeue(self, destination_id: int, lane: Lane, state: DeliveryState, raw_bytes: int) -> None:
        """A delivery in `state` is owed no more: others took its place."""
        changes = self._of(destination_id, lane)
        changes[_OWED] -= 1
        changes[_STATE_COLUMN[state]] -= 1
        if state.queued:
            changes[_QUEUED_BYTES] -= raw_bytes

    def move(self, destination_id: int, lane: Lane, old: DeliveryState, new: DeliveryState, raw_bytes: int) -> None:
        """A delivery goes from one state to another."""
        changes = self._of(destination_id, lane)
        changes[_STATE_COLUMN[old]] -= 1
        changes[_STATE_COLUMN[new]] += 1
        changes[_QUEUED_BYTES] += (new.queued - old.queued) * raw_bytes

    def waiting_or_held(self, destination_id: int) -> bool:
        """Whether any delivery for this destination waits for another one's end, this transaction's included."""
        for lane in Lane:
            committed = self.image.get((destination_id, lane))
            changes = self._changes.get((destination_id, lane))
            waiting = committed.waiting + committed.held if committed else 0
            if changes:
                waiting += changes[_STATE_COLUMN[DeliveryState.WAITING]] + changes[_STATE_COLUMN[DeliveryState.HELD]]
            if waiting:
                return True
        return False

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write this transaction's changes, as its last statements."""
        for (destination_id, lane), changes in self._changes.items():
            connection.execute(sql.ADD_TO_COUNTERS, (destination_id, lane, *changes))

    def committed(self) -> None:
        """The transaction is durable: its changes become part of the image, at once for every reader."""
        if not self._changes:
            return
        image = dict(self.image)
        for key, changes in self._changes.items():
            image[key] = _sum(image.get(key, LaneCounts()), changes)
        self._changes.clear()
        self.image = image

    def rolled_back(self) -> None:
        """The transaction was rolled back, and its changes with it."""
        self._changes.clear()

    def _of(self, destination_id: int, lane: Lane) -> list[int]:
        return self._changes.setdefault((destination_id, lane), [0] * _COLUMNS)


def _sum(counts: LaneCounts, changes: list[int]) -> LaneCounts:
    return LaneCounts(
        counts.owed + changes[0],
        counts.ready + changes[1],
        counts.waiting + changes[2],
        counts.held + changes[3],
        counts.dead + changes[4],
        counts.delivered + changes[5],
        counts.expired + changes[6],
        counts.discarded + changes[7],
        counts.queued_bytes + changes[8],
    )
