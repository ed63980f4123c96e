"""A file that only the process that writes it can read: what must lie on a disk for a moment, where a key is set.

Each file has a key of its own, drawn at random, that is nowhere but in this process's memory, so that a kill leaves
nothing to be read. What is written is sealed block by block with AES-256-GCM. The nonce of a block is its number in the
file, which only grows: a key seals one file, and no block of it twice. Where blocks begin, and their tags, are in
memory alone, so that none can be changed, exchanged or left out without its being noticed. The file is as long as what
was written: its blocks stay where pages begin, since copies that straddle pages take half as long again.
"""

import os
from array import array

from spool.errors import SpoolUnavailable
from spool.keys import cipher, new_key
from spool.payload.frames import cut
from spool.records import Buffer

BLOCK_BYTES = 1 << 20
"""At most; a shorter write is a block of its own."""
_TAG_BYTES = 16


class SealedFile:
    """Writes through a descriptor, which its owner opened empty, and closes. For one thread at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._cipher = cipher(new_key())
        self._ends = array("Q")
        """Where each block ends."""
        self._tags = bytearray()
        self._opened = False

    def write(self, data: Buffer) -> None:
        """Append `data`. Raises `OSError`."""
        if self._opened:
            raise ValueError("the file was opened: nothing can be added to it")
        for block in cut((data,), BLOCK_BYTES):
            sealed = self._cipher.encrypt(_nonce(len(self._ends)), block, None)
            view = memoryview(sealed)[: len(block)]
            while view:
                view = view[os.write(self._descriptor, view) :]
            self._tags += sealed[-_TAG_BYTES:]
            self._ends.append((self._ends[-1] if self._ends else 0) + len(block))

    def open_into(self, descriptor: int) -> None:
        """Decrypt all of it into another file; nothing of this one can be read again.

        The last block comes first, and is cut off, so that both files take the room of one. Raises `OSError`, and
        `SpoolUnavailable` where somebody changed the file.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # an extra

        self._opened = True
        most = min(self._ends[-1], BLOCK_BYTES) if self._ends else 0
        sealed, plain = memoryview(bytearray(most + _TAG_BYTES)), memoryview(bytearray(most))
        for number in range(len(self._ends) - 1, -1, -1):
            begin = self._ends[number - 1] if number else 0
            size = self._ends[number] - begin
            os.preadv(self._descriptor, [sealed[:size]], begin)
            sealed[size : size + _TAG_BYTES] = self._tags[number * _TAG_BYTES : (number + 1) * _TAG_BYTES]
            try:
                self._cipher.decrypt_into(_nonce(number), sealed[: size + _TAG_BYTES], None, plain[:size])
            except InvalidTag:
                raise SpoolUnavailable("a staging file was changed by somebody else while a post came in") from None
            at, view = begin, plain[:size]
            while view:
                written = os.pwrite(descriptor, view, at)
                at, view = at + written, view[written:]
            os.ftruncate(self._descriptor, begin)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
