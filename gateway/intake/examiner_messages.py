"""What the gateway and its examiner, a process of its own, say to each other: msgpack messages behind their length."""

from collections.abc import Callable

import msgspec

from gateway.calllog.pieces import Slice
from gateway.intake.examining import Finding, SizeRule

LENGTH_BYTES = 4
"""Of the number that stands before each message, little-endian."""


class Job(msgspec.Struct, frozen=True, tag=True):
    """To the examiner: look at this staged body."""

    path: str
    rule: SizeRule


class ScratchGiven(msgspec.Struct, frozen=True, tag=True):
    """To the examiner: here is the file that you asked for, of the size that you asked for."""

    path: str


class ScratchWanted(msgspec.Struct, frozen=True, tag=True):
    """From the examiner: I need a file of so many bytes, for a changed copy of the body."""

    size: int


class Found(msgspec.Struct, frozen=True, tag=True):
    """From the examiner: what the body is."""

    finding: Finding
    text: Slice | None
    """Which part of the body its slices are slices of; None: of all of the scratch file."""


class Faulty(msgspec.Struct, frozen=True, tag=True):
    """From the examiner: the body is nothing of use. The fields of a `CallLogError`."""

    code: str
    message: str
    hint: str
    position: int | None


class TooComplex(msgspec.Struct, frozen=True, tag=True):
    """From the examiner: its memory does not suffice for this body."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """From the examiner: something happened that nobody foresaw."""

    traceback: str


ToExaminer = Job | ScratchGiven
FromExaminer = ScratchWanted | Found | Faulty | TooComplex | Failed

_encode = msgspec.msgpack.Encoder().encode
decode_to_examiner: Callable[[bytes], ToExaminer] = msgspec.msgpack.Decoder(ToExaminer).decode
decode_from_examiner: Callable[[bytes], FromExaminer] = msgspec.msgpack.Decoder(FromExaminer).decode


def framed(message: ToExaminer | FromExaminer) -> bytes:
    """The message as it goes over a pipe."""
    data = _encode(message)
    return len(data).to_bytes(LENGTH_BYTES, "little") + data
