"""A buffer for a request body: in memory while it is of the usual size, in a file without a name beyond that.

An endpoint that is configured to take hundreds of MB in one request would otherwise cost that in memory, times the
requests under way.
"""

import io
import mmap
import tempfile
from dataclasses import dataclass
from pathlib import Path

IN_MEMORY_BYTES = 8 << 20
"""Larger bodies are for endpoints that take more than the usual 6 MB."""


@dataclass(frozen=True, slots=True)
class BodyRoom:
    """How long a request body may become, and where there is room for a long one."""

    max_bytes: int
    directory: Path | None = None
    """Holds the file, which has no name, while it is needed; None: the system's directory for temporary files."""


class SpillingBuffer:
    """Bytes that are appended, then read. In any one thread at a time."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._buffer: io.BytesIO | io.BufferedRandom = io.BytesIO()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append `data`. Raises `OSError` when the file cannot be written."""
        if not self.stays_in_memory(len(data)) and isinstance(self._buffer, io.BytesIO):
            file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  # it lives as long as its map
            file.write(self._buffer.getbuffer())
            self._buffer = file
        self._buffer.write(data)
        self.size += len(data)

    def stays_in_memory(self, byte_count: int) -> bool:
        """Whether so many bytes more will not be written to a file."""
        return self.size + byte_count <= IN_MEMORY_BYTES

    def close(self) -> None:
        """Close the file, if there is one; views of it stay valid."""
        if not isinstance(self._buffer, io.BytesIO):
            self._buffer.close()

    def view(self) -> memoryview:
        """All of it; mapped if it is in a file, which is there for as long as somebody holds the view."""
        if isinstance(self._buffer, io.BytesIO):
            return self._buffer.getbuffer()
        self._buffer.flush()
        return memoryview(mmap.mmap(self._buffer.fileno(), self.size, access=mmap.ACCESS_READ))
