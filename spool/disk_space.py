"""Whether the disk has room, as far as writing to it has shown: what `/readyz` must know and a figure cannot tell."""

import shutil
import time
from pathlib import Path

ROOM_BYTES = 16 << 20
"""With so much free again, a call log of usual size fits."""
PATIENCE_SECONDS = 10.0
"""A quota of the user's or a lack of inodes shows as free space all the same: so long the failure is believed."""


class DiskSpace:
    """Remembers that a write found no room, until one succeeds or there is room again. For any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._shortage: str | None = None
        self._seen_at = 0.0

    def ran_out(self, reason: str) -> None:
        """A write found no room."""
        self._seen_at = time.monotonic()
        self._shortage = reason

    def sufficed(self) -> None:
        """A write was durable."""
        self._shortage = None

    @property
    def shortage(self) -> str | None:
        """Why nothing can be written, if so."""
        waited = time.monotonic() - self._seen_at >= PATIENCE_SECONDS
        if self._shortage and waited and shutil.disk_usage(self._directory).free >= ROOM_BYTES:
            self._shortage = None
        return self._shortage
