"""Where a process may die between two steps of a durable write, each with a name.

Nothing in callspool sets `hook`: tests do, and kill the process there, or look at what lies on the disk.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum


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


hook: Callable[[WritePoint, Sequence[object]], None] | None = None
"""Called at each point with the requests of the transaction."""


def reach(point: WritePoint, group: Sequence[object] = ()) -> None:
    """Tell the hook, if there is one."""
    if hook is not None:
        hook(point, group)
