"""What a kill would leave at a write point: the spool's files as they are while the writer stands still there."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spool.write_points import EVENT, WritePoint


class Camera:
    """Copies a spool's directory whenever the writer reaches a point; the last copy counts.

    The copying is another process's work: this one must not open and close a database that SQLite has open.
    """

    def __init__(self) -> None:
        self._point: WritePoint | None = None
        self._source = self._target = Path()
        self.pictures = 0
        sys.addaudithook(self._heard)  # for good: Python has no way to take one back

    @contextmanager
    def armed(self, point: WritePoint, source: Path, target: Path) -> Iterator[None]:
        """Within the block, keep in `target` how `source` looked at `point`."""
        self._source, self._target, self.pictures = source, target, 0
        self._point = point
        try:
            yield
        finally:
            self._point = None

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == EVENT and arguments[0] is self._point:
            copy = ["cp", "-r", "--no-target-directory", str(self._source), str(self._target)]
            subprocess.run(copy, check=True)
            self.pictures += 1
