"""Bodies under construction: each takes glue and stored frames in order and writes a bounded buffer.

They are synchronous and share nothing, so a thread may run them. A body is used once.
"""

import base64
import json
import threading
from typing import Protocol

import zstandard

from spool.errors import CorruptPayload
from spool.records import FreshFrame
from uploaders.deflate import Compressor
from uploaders.spilling import BodyRoom, SpillingBuffer

FRAME_RAW_LIMIT = 4 * 1024 * 1024
"""A stored frame holds at most 1 MiB; one that claims to hold far more is broken, and not worth the memory."""

BASE64_GROUP = 3
"""Bytes that base64 turns into 4 characters without padding."""


class _Own(threading.local):
    """What each thread keeps: making a decompressor costs half as much as decompressing 2 KB with it."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()


_own = _Own()


class TooLarge(Exception):
    """The body would become longer than `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the body is longer than {max_bytes} bytes")
        self.max_bytes = max_bytes


class Body(Protocol):
    """Takes pieces in order; after `finish`, `buffer` holds the body."""

    buffer: SpillingBuffer
    content_encoding: str | None

    def add_literal(self, data: bytes) -> None:
        """Append JSON text. Raises `TooLarge`."""
        ...

    def is_quick(self, frame: bytes) -> bool:
        """Whether adding this frame takes the event loop no time that matters."""
        ...

    def add_frame(self, frame: bytes) -> None:
        """Append the JSON text that a stored zstd frame holds. Raises `TooLarge` and `CorruptPayload`."""
        ...

    def finish(self) -> None:
        """Write what is left: less than half a millisecond. Raises `TooLarge`."""
        ...


def decompress(frame: bytes) -> bytes:
    """The raw bytes of one stored frame. Raises `CorruptPayload` when it is not a complete, sane zstd frame."""
    if isinstance(frame, FreshFrame):
        return frame.raw
    try:
        if zstandard.frame_content_size(frame) > FRAME_RAW_LIMIT:
            raise CorruptPayload(f"a stored frame claims to hold more than {FRAME_RAW_LIMIT} bytes")
        return _own.decompressor.decompress(frame, max_output_size=FRAME_RAW_LIMIT)
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"a stored frame cannot be decompressed: {error}") from error


def compress(data: bytes) -> bytes:
    """One zstd frame that holds `data`, fit to stand between stored frames."""
    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data)


class _BoundedBody:
    """What all bodies share: a buffer that refuses to become longer than `max_bytes`."""

    content_encoding: str | None = None

    def __init__(self, room: BodyRoom) -> None:
        self.buffer = SpillingBuffer(room.directory)
        self._max_bytes = room.max_bytes

    def _write(self, data: bytes) -> None:
        """Append encoded bytes. Raises `TooLarge`."""
        if self.buffer.size + len(data) > self._max_bytes:
            raise TooLarge(self._max_bytes)
        self.buffer.write(data)

    def is_quick(self, frame: bytes) -> bool:  # noqa: ARG002  # of zstd it depends on the frame
        """It is not: what the frame holds is made anew."""
        return False

    def finish(self) -> None:
        """Nothing is left to write."""


class IdentityBody(_BoundedBody):
    """The document itself."""

    def add_literal(self, data: bytes) -> None:
        """Append it."""
        self._write(data)

    def add_frame(self, frame: bytes) -> None:
        """Append what it holds."""
        self._write(decompress(frame))


class ZstdBody(_BoundedBody):
    """Frames one after the other are valid zstd: stored ones go in as they are, only the glue is compressed."""

    content_encoding: str | None = "zstd"

    def add_literal(self, data: bytes) -> None:
        """Append a frame of its own."""
        self._write(compress(data))

    def is_quick(self, frame: bytes) -> bool:
        """A copy in memory is."""
        return self.buffer.stays_in_memory(len(frame))

    def add_frame(self, frame: bytes) -> None:
        """Append it as it is."""
        self._write(frame)


class GzipBody(_BoundedBody):
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
        self.add_literal(decompress(frame))

    def finish(self) -> None:
        """End the gzip member."""
        self._write(self._compressor.flush())
        super().finish()


class EnvelopeBody(_BoundedBody):
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
        self.add_literal(decompress(frame))

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
        super().finish()

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
