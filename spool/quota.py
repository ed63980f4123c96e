"""The quota: how many bytes the spool may take, and what is promised to posts that are on their way in."""

import shutil
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
        self._promised = 0

    def promise(self, byte_count: int, used_bytes: int) -> None:
        """Set `byte_count` aside for a post on its way in, or raise `SpoolFull`."""
        would_use = used_bytes + self._promised + byte_count
        if would_use > self.limit_bytes:
            raise SpoolFull(
                f"the spool is full: {used_bytes} of {self.limit_bytes} bytes are used and {byte_count} more are "
                "needed; it empties as deliveries succeed (see the status page for what holds them up), "
                "or raise CALLSPOOL_SPOOL_MAX_BYTES",
                used_bytes=used_bytes,
                limit_bytes=self.limit_bytes,
            )
        self._promised += byte_count

    def settle(self, byte_count: int) -> None:
        """The post is in, or came to nothing: what it uses is measured from now on."""
        self._promised -= byte_count
