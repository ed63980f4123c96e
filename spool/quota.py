"""The quota: how many bytes the spool may take, and what is promised to posts that are on their way in."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spool.errors import SpoolFull

DEFAULT_LIMIT = 10 << 30
SHARE_OF_FREE_SPACE = 0.8


def default_limit(directory: Path) -> int:
    """The smaller of 10 GiB and 80 % of what is free now; worked out once, at the first start."""
    return min(DEFAULT_LIMIT, int(shutil.disk_usage(directory).free * SHARE_OF_FREE_SPACE))


class Quota:
    """Bytes used, promised and allowed. For the event loop only."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.staged_bytes = 0
        """What lies in staging files, by what `stage` and `unstage` were told."""
        self._promised = 0

    @contextmanager
    def promised(self, byte_count: int, used_bytes: int) -> Iterator[None]:
        """Set `byte_count` aside for a post on its way in, or raise `SpoolFull`; afterwards its use is measured."""
        self._check(byte_count, used_bytes)
        self._promised += byte_count
        try:
            yield
        finally:
            self._promised -= byte_count

    def stage(self, byte_count: int, used_bytes: int) -> None:
        """Count so many bytes of a staging file, or raise `SpoolFull`."""
        self._check(byte_count, used_bytes)
        self.staged_bytes += byte_count

    def unstage(self, byte_count: int) -> None:
        """So many bytes of staging files are gone."""
        self.staged_bytes -= byte_count

    def _check(self, byte_count: int, used_bytes: int) -> None:
        taken = used_bytes + self.staged_bytes + self._promised
        if taken + byte_count > self.limit_bytes:
            raise SpoolFull(
                f"the spool is full: {taken} of {self.limit_bytes} bytes are taken and {byte_count} more are "
                "needed; it empties as deliveries succeed (see the status page for what holds them up), "
                "or raise CALLSPOOL_SPOOL_MAX_BYTES",
                used_bytes=taken,
                limit_bytes=self.limit_bytes,
            )
