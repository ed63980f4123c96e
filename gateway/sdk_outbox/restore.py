"""From a row of the SDK's outbox to the call log as the SDK posts it, byte for byte.

The SDK writes a row before it prepares the call log for its post. What it changes then (`send_log.py` of 4.2.11) is
done here in the same way, because only equal bytes have an equal digest, by which a row whose post was accepted is
recognised: a missing `call_ended_reason` is appended, and times that are numbers become naive local ISO texts.
"""

import json
import mmap
import sys
from collections.abc import Iterator
from datetime import datetime

import msgspec

from gateway.calllog.document import text_of
from gateway.calllog.errors import CallLogError
from gateway.calllog.toplevel import Member, Piece, Scratch, Slice, TopLevel, scan
from gateway.live_calls import ENDED, STARTED
from gateway.sdk_outbox.model import RowRefused
from spool import sandbox
from spool.records import Buffer

_TIMES = frozenset({"call_started_at", "call_ended_at"})
_NUMBER = b"-0123456789"
_REASON = b'"call_ended_reason": "completed"'


class Restored(msgspec.Struct, frozen=True, tag=True):
    """A call log as the SDK would have posted it."""

    pieces: tuple[Piece, ...]
    """Slices of the row's payload and what is put between them; their concatenation is the call log."""
    copied: bool
    """Whether the slices are those of a changed copy, in the buffer that `scratch` gave."""
    key: str | None
    """The agent's key; None where the SDK would have taken it from its environment."""
    partial: bool
    """Whether it is an end without telemetry, as the SDK writes at the exit of its process."""
    nonfinite_numbers: int
    """How many NaN and Infinity of the row are null now."""

    def views(self, text: Buffer) -> list[Buffer]:
        """The pieces, of the text that they are slices of."""
        view = memoryview(text)
        return [view[piece.start : piece.end] if isinstance(piece, Slice) else piece for piece in self.pieces]

    def __repr__(self) -> str:  # never a key in a log
        return f"Restored({len(self.pieces)} pieces)"


def restore(payload: Buffer, scratch: Scratch) -> Restored:
    """The call log in the payload of a row: `{"whispey_data": {...}, "apikey": ..., "api_url": ...}`.

    `scratch` gives the buffer for the copy of a payload with non-finite numbers. Raises `RowRefused`.
    """
    copied = False

    def copy(size: int) -> bytearray | mmap.mmap:
        nonlocal copied
        copied = True
        return scratch(size)

    try:
        row = scan(payload, copy)
        if "whispey_data" not in row.values:
            raise RowRefused("its payload has no whispey_data")
        call_log = scan(memoryview(row.values["whispey_data"]))
    except CallLogError as error:
        raise RowRefused(f"its payload is not what the SDK writes: {error.message}") from error
    member = [member for member in row.members() if member.name == "whispey_data"][-1]
    start = member.value_start + (0 if copied else len(memoryview(payload)) - len(row.text))
    event = text_of(call_log.values.get("wcall_event"))
    return Restored(
        pieces=tuple(_moved(piece, start) for piece in _as_posted(call_log, event)),
        copied=copied,
        key=text_of(row.values.get("apikey")) or None,
        partial=event == ENDED and "telemetry_data" not in call_log.values,
        nonfinite_numbers=row.nonfinite_numbers,
    )


def _moved(piece: Piece, start: int) -> Piece:
    return Slice(start + piece.start, start + piece.end) if isinstance(piece, Slice) else piece


def _as_posted(call_log: TopLevel, event: str | None) -> Iterator[Piece]:
    """The pieces of the call log, with what the SDK changes before it posts."""
    size = len(call_log.text)
    members = call_log.members()
    kept_until = 0
    for member in members:
        if member.name in _TIMES and (written := _iso(member)) is not None:
            yield Slice(kept_until, member.value_start)
            yield written
            kept_until = member.end
    if event == STARTED or "call_ended_reason" in call_log.values:
        yield Slice(kept_until, size)
        return
    end = members[-1].end if members else size - 1
    yield Slice(kept_until, end)
    yield b", " + _REASON if members else _REASON
    yield Slice(end, size)


def _iso(member: Member) -> bytes | None:
    """The time as the SDK posts it; None for what it posts as it is, or fails on."""
    if member.value[0] not in _NUMBER:
        return None
    number: int | float = json.loads(bytes(member.value))
    try:
        return json.dumps(datetime.fromtimestamp(number).isoformat()).encode()  # noqa: DTZ006  # naive, as the SDK's
    except (ValueError, OSError):
        return json.dumps(str(number)).encode()
    except OverflowError:
        return None


# `python -m gateway.sdk_outbox.restore`: a process of its own for one large row, since whoever wrote it decides what
# restoring takes.
#
# It is given open files: that of the payload and, where a changed copy is needed, one for that; its arguments are their
# numbers. It writes one message.

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


def answer_for(payload: int, scratch: int | None) -> Answer:
    """What the payload holds: files by their numbers."""

    def copy(size: int) -> mmap.mmap:
        if scratch is None:
            raise _NoScratch(size)
        return mmap.mmap(scratch, 0, access=mmap.ACCESS_WRITE)

    try:
        return restore(memoryview(mmap.mmap(payload, 0, access=mmap.ACCESS_READ)), copy)
    except _NoScratch as wanted:
        return ScratchWanted(wanted.args[0])
    except RowRefused as error:
        return Refused(str(error))
    except MemoryError:
        return Refused("its call log has too many members to be examined in the memory that there is for it")


def main(payload: str, scratch: str = "") -> None:
    """Answer, and end."""
    sandbox.confine(LIMITS)
    _, output = sandbox.pipes()
    data = memoryview(encode(answer_for(int(payload), int(scratch) if scratch else None)))
    while data:
        data = data[output.write(data) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
