"""The quota: how many bytes the spool may take, and what is promised to posts that are on their way in.

A part of it is kept for records that owe nothing to the detail lane, so that a spool full of details still takes what
a dashboard needs at once.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from spool.errors import SpoolFull

DEFAULT_LIMIT = 10 << 30
SHARE_OF_FREE_SPACE = 0.8
DEFAULT_RESERVE_SHARE = 20
"""A twentieth of the quota: of 10 GiB that is room for more than 1,000 call logs of 500 KB, or 250,000 of 2 KB."""


def default_limit(directory: Path) -> int:
    """The smaller of 10 GiB and 80 % of what is free now; worked out once, at the first start."""
    return min(DEFAULT_LIMIT, int(shutil.disk_usage(directory).free * SHARE_OF_FREE_SPACE))


def reserve_of(limit_bytes: int, wanted_bytes: int | None) -> int:
    """What of the quota is kept for cores: at most half of it, whatever is wanted."""
    reserve = limit_bytes // DEFAULT_RESERVE_SHARE if wanted_bytes is None else wanted_bytes
    return min(reserve, limit_bytes // 2)


class Promise:
    """So many bytes of the quota, for as long as a block lasts."""

    __slots__ = ("_byte_count", "_quota")

    def __init__(self, quota: "Quota", byte_count: int) -> None:
        self._quota = quota
        self._byte_count = byte_count

    def __enter__(self) -> None:
        """Nothing more: it was promised when this was made."""

    def __exit__(self, *_: object) -> None:
        """It was kept."""
        self._quota.release(self._byte_count)


class Quota:
    """Bytes used, promised and allowed. For the event loop only.

    `waited` says for how many milliseconds the oldest record that is still owed has waited, if there is one.
    """

    def __init__(
        self, limit_bytes: int, reserve_bytes: int = 0, waited: Callable[[], int | None] = lambda: None
    ) -> None:
        self.limit_bytes = limit_bytes
        self.reserve_bytes = reserve_bytes
        """The last part of the limit, which only records without details may use."""
        self.staged_bytes = 0
        """What lies in staging files, by what `stage` and `unstage` were told."""
        self._waited = waited
        self._promised = 0

    def promised(self, byte_count: int, used_bytes: int, *, reserve: bool = False) -> "Promise":
        """Set `byte_count` aside for a post on its way in, or raise `SpoolFull`; afterwards its use is measured.

        To be used in a `with` statement at once. With `reserve` the part that is kept for cores may be used.
        """
        self._check(byte_count, used_bytes, reserve=reserve)
        self._promised += byte_count
        return Promise(self, byte_count)

    def release(self, byte_count: int) -> None:
        """So much less is promised: it was used, or will not be."""
        self._promised -= byte_count

    def fits(self, byte_count: int, used_bytes: int, *, reserve: bool = False) -> bool:
        """Whether so much could be promised now."""
        limit = self.limit_bytes if reserve else self.limit_bytes - self.reserve_bytes
        return self._taken(used_bytes) + byte_count <= limit

    def stage(self, byte_count: int, used_bytes: int) -> None:
        """Count so many bytes of a staging file, or raise `SpoolFull`; what is staged is large, and never a core."""
        self._check(byte_count, used_bytes, reserve=False)
        self.staged_bytes += byte_count

    def unstage(self, byte_count: int) -> None:
        """So many bytes of staging files are gone."""
        self.staged_bytes -= byte_count

    def _taken(self, used_bytes: int) -> int:
        """What is used, staged and promised."""
        return used_bytes + self.staged_bytes + self._promised

    def _check(self, byte_count: int, used_bytes: int, *, reserve: bool) -> None:
        """Raise `SpoolFull` where so much does not fit."""
        if self.fits(byte_count, used_bytes, reserve=reserve):
            return
        taken, waited = self._taken(used_bytes), self._waited()
        kept = f" ({self.reserve_bytes} of them kept for cores)" if self.reserve_bytes and not reserve else ""
        oldest = "" if waited is None else f"; what is owed the longest has waited for {waited / 1000:.0f} s"
        raise SpoolFull(
            f"the spool is full: {taken} of {self.limit_bytes} bytes are taken{kept} and {byte_count} more are "
            f"needed{oldest}; it empties as deliveries succeed (see the status page for what holds them up), "
            "or raise CALLSPOOL_SPOOL_MAX_BYTES where the disk has room for more",
            used_bytes=taken,
            limit_bytes=self.limit_bytes,
        )
