"""Where a process may die between two steps of a durable write, each with a name.

A point is told to Python's audit hooks as the event `callspool.write_point`, with the point and the requests of the
transaction. Nothing sets such a hook but code inside the process: tests do, and kill the process there.
"""

import sys
from collections.abc import Sequence
from enum import StrEnum

EVENT = "callspool.write_point"


class WritePoint(StrEnum):
    """A moment in the writer's thread."""

    BEGUN = "begun"
    """The transaction is open and holds nothing yet."""
    WRITTEN = "written"
    """All of its operations ran, and nothing is durable."""
    COMMITTED = "committed"
    """All of it is durable, and nobody was told."""
    RESETTING = "resetting"
    """The write-ahead log is about to be moved into the database."""
    RESET = "reset"
    """The log was moved; the next commit begins it anew."""


def reach(point: WritePoint, group: Sequence[object] = ()) -> None:
    """Tell the audit hooks of `point`, with the requests of the transaction. Without hooks it costs next to nothing."""
    sys.audit(EVENT, point, group)
