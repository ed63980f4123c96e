"""The reader: a process that opens one outbox file for the gateway, which never opens one itself.

Its arguments are the path and the ids of the users to whom the file may belong, separated by commas. It is started by
`gateway.sdk_outbox.reader` for each look at a file that changed. It reads requests from its standard input and answers
each on its standard output, in msgpack behind a length; `spool.sandbox` says what confines it.
"""

import sys
import traceback
from pathlib import Path
from typing import BinaryIO

import msgspec

from gateway.sdk_outbox.file import OutboxFile
from gateway.sdk_outbox.model import Batch, OutboxBusy, OutboxError, Row, Survey
from spool import sandbox

LARGEST_MESSAGE = 8 << 20
"""An answer holds at most a batch of payloads, or a piece of one."""
LIMITS = sandbox.Limits(memory_bytes=256 << 20, cpu_seconds=600)


class Open(msgspec.Struct, frozen=True, tag=True):
    """Prove the file and connect to it; answered by `Opened`."""

    to_change: bool
    check: bool


class Claim(msgspec.Struct, frozen=True, tag=True):
    """Claim the next rows; answered by `Claimed`."""

    now: float
    left_out: frozenset[int]


class Copy(msgspec.Struct, frozen=True, tag=True):
    """Give the payload of a row; answered by one `Piece` after the other, the last of which is empty."""

    row_id: int


class Settle(msgspec.Struct, frozen=True, tag=True):
    """Delete what is done and give the rest back; answered by `Settled`."""

    claimed_at: float
    done: tuple[Row, ...]
    not_done: tuple[Row, ...]


class Remain(msgspec.Struct, frozen=True, tag=True):
    """Count what is left; answered by `Remaining`."""

    left_out: frozenset[int]


class Look(msgspec.Struct, frozen=True, tag=True):
    """Look at what lies there; answered by `Surveyed`."""

    now: float


class Opened(msgspec.Struct, frozen=True, tag=True):
    """Whether there is a table, and whether the kernel keeps this process away from all other files."""

    found: bool
    confined: bool


class Claimed(msgspec.Struct, frozen=True, tag=True):
    """See `OutboxFile.claim`."""

    batch: Batch


class Piece(msgspec.Struct, frozen=True, tag=True):
    """A piece of a payload; an empty one ends it."""

    data: bytes


class Settled(msgspec.Struct, frozen=True, tag=True):
    """It is done."""


class Remaining(msgspec.Struct, frozen=True, tag=True):
    """See `OutboxFile.remains`."""

    rows: int
    free_from: float | None


class Surveyed(msgspec.Struct, frozen=True, tag=True):
    """See `OutboxFile.survey`."""

    survey: Survey


class Failed(msgspec.Struct, frozen=True, tag=True):
    """What is wrong with the file; `busy` where it may be gone in a moment."""

    reason: str
    busy: bool = False
    traceback: str = ""


Request = Open | Claim | Copy | Settle | Remain | Look
Answer = Opened | Claimed | Piece | Settled | Remaining | Surveyed | Failed

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Request).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


def framed(message: Request | Answer) -> bytes:
    """The message as it goes over a pipe."""
    return sandbox.framed(_encode(message))


class _Reader:
    """Answers the requests about one file."""

    def __init__(self, file: OutboxFile, output: BinaryIO, *, confined: bool) -> None:
        self._file = file
        self._output = output
        self._confined = confined

    def answer(self, request: Request) -> None:
        """Answer one request; an error of the file is an answer, too."""
        try:
            self._send(self._answer_to(request))
        except OutboxError as error:
            self._send(Failed(str(error), busy=isinstance(error, OutboxBusy)))
        except MemoryError:
            self._send(Failed("it needs more memory than there is for an outbox: no outbox of the SDK does"))
        except Exception:  # noqa: BLE001  # the gateway is told, and logs it
            self._send(Failed("an unexpected error; the log has the details", traceback=traceback.format_exc()))

    def _answer_to(self, request: Request) -> Answer:
        match request:
            case Open(to_change, check):
                return Opened(self._file.open(to_change=to_change, check=check), confined=self._confined)
            case Claim(now, left_out):
                return Claimed(self._file.claim(now, left_out))
            case Copy(row_id):
                for piece in self._file.copy(row_id):
                    self._send(Piece(piece))
                return Piece(b"")
            case Settle(claimed_at, done, not_done):
                self._file.settle(claimed_at, done, not_done)
                return Settled()
            case Remain(left_out):
                return Remaining(*self._file.remains(left_out))
            case Look(now):
                return Surveyed(self._file.survey(now))

    def _send(self, answer: Answer) -> None:
        data = memoryview(framed(answer))
        while data:
            data = data[self._output.write(data) :]


def main(path: str, owners: str) -> None:
    """Work until the gateway closes the pipe, or ends."""
    file = OutboxFile(Path(path), frozenset(int(owner) for owner in owners.split(",")))
    confined = sandbox.confine(LIMITS, file.path.parent)
    requests, output = sandbox.pipes()
    reader = _Reader(file, output, confined=confined)
    while (request := sandbox.read_message(requests)) is not None:
        reader.answer(_decode(request))
    file.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
