"""The settings of erasing calls."""

from enum import StrEnum
from typing import Annotated

from config.types import Choice, Duration, Table
from config.values import DAY


class LaterPosts(StrEnum):
    """What becomes of a post of a call that was erased."""

    REFUSE = "refuse"
    """It is answered 410."""
    ACCEPT = "accept"
    """It is accepted like any other."""


class ErasureSettings(Table):
    """What `callspool erase` leaves behind: that a call was erased."""

    later_posts: Annotated[LaterPosts, Choice] = LaterPosts.REFUSE
    """Posts of a call that was erased: `refuse` (410) or `accept`."""
    keep: Duration = 30 * DAY
    """How long posts of an erased call are refused; a keyed hash of its id is kept for so long."""
