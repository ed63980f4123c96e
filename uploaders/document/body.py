"""Builders of request bodies: each takes literal JSON and stored frames in order and writes a bounded buffer.

They are synchronous and share nothing, so a thread may run them. A body is used once.
"""

import base64
import io
import json
import mmap
import tempfile
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from isal import isal_zlib

from spool.payload.frames import PASSTHROUGH, decode, encode

# The two gzip compressors: a fast one for every body, a small one for what the fast one left too large.
#
# Both leave the time in the header zero, so that the same input gives the same bytes.

GZIP_WINDOW_BITS = 31
"""15 bits of window, and 16 to ask for a gzip header and trailer."""

FAST_LEVEL = 2
SMALL_LEVEL = 9


class Compressor(Protocol):
    """What `zlib.compressobj` returns."""

    def compress(self, data: bytes, /) -> bytes:
        """Take some input; return what output that gave."""

    def flush(self) -> bytes:
        """End the stream; return the rest of the output."""


def fast_gzip() -> Compressor:
    """ISA-L level 2: 290 MB/s of varied call log text to 41 % of its size."""
    return isal_zlib.compressobj(FAST_LEVEL, isal_zlib.DEFLATED, GZIP_WINDOW_BITS)


def small_gzip() -> Compressor:
    """Zlib level 9: a tenth of that speed, and 6 to 40 % smaller."""
    return zlib.compressobj(SMALL_LEVEL, zlib.DEFLATED, GZIP_WINDOW_BITS)


# A buffer for a request body: in memory while it is of the usual size, in a file without a name beyond that.
#
# An endpoint that is configured to take hundreds of MB in one request would otherwise cost that in memory, times the
# requests under way.

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
        # No BytesIO: where the garbage collector frees one before a view of it, Python 3.12.1 crashes.
        self._memory = bytearray()
        self._file: io.BufferedRandom | None = None
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append `data`. Raises `OSError` when the file cannot be written."""
        if not self.stays_in_memory(len(data)) and self._file is None:
            file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  # it lives as long as its map
            file.write(self._memory)
            self._file, self._memory = file, bytearray()
        if self._file is None:
            self._memory += data
        else:
            self._file.write(data)
        self.size += len(data)

    def stays_in_memory(self, byte_count: int) -> bool:
        """Whether `byte_count` bytes more still fit into memory."""
        return self.size + byte_count <= IN_MEMORY_BYTES

    def close(self) -> None:
        """Close the file, if there is one; views of it stay valid."""
        if self._file is not None:
            self._file.close()

    def view(self) -> memoryview:
        """All of it; mapped if it is in a file, which is there for as long as somebody holds the view."""
        if self._file is None:
            return memoryview(self._memory)
        self._file.flush()
        return memoryview(mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_READ))


BASE64_GROUP = 3
"""Bytes that base64 turns into 4 characters without padding."""


class TooLarge(Exception):
    """The body would become longer than `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the body is longer than {max_bytes} bytes")
        self.max_bytes = max_bytes


class Body(ABC):
    """Takes pieces in order into a buffer of at most `room.max_bytes`; after `finish`, `buffer` holds the body.

    What appends raises `TooLarge`.
    """

    content_encoding: str | None = None

    def __init__(self, room: BodyRoom) -> None:
        self.buffer = SpillingBuffer(room.directory)
        self._max_bytes = room.max_bytes

    @abstractmethod
    def add_literal(self, data: bytes) -> None:
        """Append JSON text."""

    @abstractmethod
    def add_frame(self, frame: bytes) -> None:
        """Append the JSON text that a stored zstd frame holds. Raises `CorruptPayload`."""

    def is_quick(self, frame: bytes) -> bool:  # noqa: ARG002  # of zstd it depends on the frame
        """Whether adding this frame takes the event loop no time that matters."""
        return False

    def finish(self) -> None:  # noqa: B027  # most bodies have nothing left to write
        """Write what is left: less than half a millisecond."""

    def _write(self, data: bytes) -> None:
        if self.buffer.size + len(data) > self._max_bytes:
            raise TooLarge(self._max_bytes)
        self.buffer.write(data)


class IdentityBody(Body):
    """The document itself."""

    def add_literal(self, data: bytes) -> None:
        """Append it."""
        self._write(data)

    def add_frame(self, frame: bytes) -> None:
        """Append what it holds."""
        self._write(decode(frame))


class ZstdBody(Body):
    """Frames one after the other are valid zstd: stored ones go in as they are, only the glue is compressed."""

    content_encoding: str | None = PASSTHROUGH

    def add_literal(self, data: bytes) -> None:
        """Append a frame of its own."""
        self._write(encode(data))

    def is_quick(self, frame: bytes) -> bool:
        """A copy in memory is."""
        return self.buffer.stays_in_memory(len(frame))

    def add_frame(self, frame: bytes) -> None:
        """Append it as it is."""
        self._write(frame)


class GzipBody(Body):
    """One gzip member."""

    content_encoding: str | None = "gzip"

    def __init__(self, room: BodyRoom, compressor: Compressor) -> None:
        super().__init__(room)
        self._compressor = compressor

    def add_literal(self, data: bytes) -> None:
        """Compress and append it."""
        self._write(self._compressor.compress(data))

    def add_frame(self, frame: bytes) -> None:
        """Compress and append what it holds."""
        self.add_literal(decode(frame))

    def finish(self) -> None:
        """End the gzip member."""
        self._write(self._compressor.flush())


class EnvelopeBody(Body):
    """The Whispey envelope: `{"compressed": true, "data": <base64 of gzip>, ...sizes}`, encoded as it streams."""

    def __init__(self, room: BodyRoom, compressor: Compressor) -> None:
        super().__init__(room)
        self._compressor = compressor
        self._carry = b""
        self._original_size = 0
        self._compressed_size = 0
        self._write(b'{"compressed": true, "data": "')

    def add_literal(self, data: bytes) -> None:
        """Compress it, and append the base64 of what comes out."""
        self._original_size += len(data)
        self._write_base64(self._compressor.compress(data))

    def add_frame(self, frame: bytes) -> None:
        """Do so with what it holds."""
        self.add_literal(decode(frame))

    def finish(self) -> None:
        """End the gzip member and close the envelope with the sizes, which are known only now."""
        self._write_base64(self._compressor.flush())
        self._append(base64.b64encode(self._carry))
        sizes = {
            "original_size": self._original_size,
            "compressed_size": self._compressed_size,
            "compression_ratio": _percent_saved(self._original_size, self._compressed_size),
        }
        self._write(b'", ' + json.dumps(sizes).encode()[1:])

    def _write_base64(self, data: bytes) -> None:
        data = self._carry + data
        whole = len(data) - len(data) % BASE64_GROUP
        self._carry = data[whole:]
        self._append(base64.b64encode(data[:whole]))

    def _append(self, encoded: bytes) -> None:
        self._compressed_size += len(encoded)
        self._write(encoded)


def _percent_saved(original_size: int, compressed_size: int) -> float:
    """The envelope's `compression_ratio` as the SDK fills it in: by how many percent its text is the smaller one."""
    return round((1 - compressed_size / max(original_size, 1)) * 100, 4)
