"""A file that only the process that writes it can read: what must lie on a disk for a moment, where a key is set.

Each file has a key of its own, drawn at random, that is nowhere but in this process's memory, so that a kill leaves
nothing to be read. What is written is sealed block by block with AES-256-GCM. The nonce of a block is its number in the
file, which only grows: a key seals one file, and no block of it twice. Where blocks begin is known in memory alone, so
that none can change places, be left out or be exchanged without its being noticed.
"""

import os
from array import array
from mmap import mmap

from spool.errors import CorruptPayload, SpoolUnavailable
from spool.keys import cipher, decrypted, new_key
from spool.payload.frames import cut
from spool.records import Buffer

BLOCK_BYTES = 1 << 20
"""At most; a shorter write is a block of its own."""
TAG_BYTES = 16


class SealedFile:
    """Writes through a descriptor, which its owner opened empty, and closes. For one thread at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._cipher = cipher(new_key())
        self._ends = array("Q")
        """Where each block ends in the file."""
        self._opened = False

    def write(self, data: Buffer) -> None:
        """Append `data`. Raises `OSError`."""
        if self._opened:
            raise ValueError("the file was opened: nothing can be added to it")
        for block in cut((data,), BLOCK_BYTES):
            sealed = memoryview(self._cipher.encrypt(_nonce(len(self._ends)), bytes(block), None))
            end = (self._ends[-1] if self._ends else 0) + len(sealed)
            while sealed:
                sealed = sealed[os.write(self._descriptor, sealed) :]
            self._ends.append(end)

    def open_into(self, target: mmap) -> None:
        """Decrypt all of it into `target`, which is as long as what was written; nothing of it can be read again.

        The last block comes first, and is cut off the file, so that both take the room of one. Raises `OSError`, and
        `SpoolUnavailable` where somebody changed the file.
        """
        self._opened = True
        at = len(target)
        for number in range(len(self._ends) - 1, -1, -1):
            begin = self._ends[number - 1] if number else 0
            data = os.pread(self._descriptor, self._ends[number] - begin, begin)
            try:
                block = decrypted(self._cipher, _nonce(number), data, b"", "it was changed")
            except CorruptPayload:
                raise SpoolUnavailable("a staging file was changed by somebody else while a post came in") from None
            target[at - len(block) : at] = block
            at -= len(block)
            os.ftruncate(self._descriptor, begin)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
