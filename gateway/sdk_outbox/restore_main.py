"""The process that restores the call log of one large row, since whoever wrote the row decides what that takes.

Its arguments are the file of the payload and, where a changed copy is needed, a file for that. It writes one message.
"""

import mmap
import os
import sys
from pathlib import Path

import msgspec

from gateway.sdk_outbox.restore import Restored, restore
from gateway.sdk_outbox.rows import RowRefused
from spool import sandbox

LIMITS = sandbox.Limits(data_bytes=96 << 20, cpu_seconds=120)
"""Mapped files do not count: as much as the parse worker has for a call log."""


class ScratchWanted(msgspec.Struct, frozen=True, tag=True):
    """A changed copy needs a file of this size: start again with one."""

    size: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The row holds no call log."""

    reason: str


Answer = Restored | ScratchWanted | Refused
encode = msgspec.msgpack.Encoder().encode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


class _NoScratch(Exception):
    """There is no file for a changed copy."""


def answer_for(payload: Path, scratch: Path | None) -> Answer:
    """What the payload holds."""

    def copy(size: int) -> mmap.mmap:
        if scratch is None:
            raise _NoScratch(size)
        return _mapped(scratch, os.O_RDWR, mmap.ACCESS_WRITE)

    try:
        return restore(memoryview(_mapped(payload, os.O_RDONLY, mmap.ACCESS_READ)), copy)
    except _NoScratch as wanted:
        return ScratchWanted(wanted.args[0])
    except RowRefused as error:
        return Refused(str(error))
    except MemoryError:
        return Refused("its call log has too many members to be examined in the memory that there is for it")


def _mapped(path: Path, flags: int, access: int) -> mmap.mmap:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return mmap.mmap(descriptor, 0, access=access)
    finally:
        os.close(descriptor)


def main(payload: str, scratch: str = "") -> None:
    """Answer, and end."""
    sandbox.confine(LIMITS, Path(payload).parent)
    _, output = sandbox.pipes()
    data = memoryview(encode(answer_for(Path(payload), Path(scratch) if scratch else None)))
    while data:
        data = data[output.write(data) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
