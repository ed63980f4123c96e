"""What a kill would leave at a write point: the spool's files as they are while the writer stands still there."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from spool.db import write_connection
from spool.db.write_connection import WritePoint


class Camera:
    """Copies a spool's directory whenever the writer reaches a point; the last copy counts.

    The copying is another process's work: this one must not open and close a database that SQLite has open.
    """

    def __init__(self) -> None:
        self.pictures = 0

    @contextmanager
    def armed(self, point: WritePoint, source: Path, target: Path) -> Iterator[None]:
        """Within the block, keep in `target` how `source` looked at `point`."""
        self.pictures = 0

        def picture(reached: WritePoint, _group: Sequence[object]) -> None:
            if reached is point:
                subprocess.run(["cp", "-r", "--no-target-directory", str(source), str(target)], check=True)
                self.pictures += 1

        write_connection.hook = picture
        try:
            yield
        finally:
            write_connection.hook = None
