"""The parse worker: a process that parses giant bodies, so that the gateway's interpreter is not held meanwhile.

It is started by `gateway.intake.parse_worker` with a socket, over which it is given the open files of the bodies, and
the names of modules that it loads before it confines itself (`spool.sandbox`): it opens no file. It reads jobs from its
standard input, one at a time, and ends when that is closed, in whatever way the gateway ended. Its memory, its CPU time
and the size of its answer are limited: a body that needs more is refused. Where the machine runs out of memory, it is
this process that goes first.

It imports little: all of its own takes some 10 MB of anonymous memory.
"""

import mmap
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module

import msgspec

from gateway.calllog.document import Envelope
from gateway.calllog.errors import CallLogError
from gateway.calllog.shape import IN_THE_WORKER, Costly
from gateway.calllog.toplevel import Slice
from gateway.intake.parse import Parsed, SizeRule, parse, text_of, with_text
from spool.sandbox import Limits, confine, start_no_more
from uploaders.redaction.options import Redaction

# What the gateway and its parse worker, a process of its own, say to each other: msgpack messages behind their length.

LENGTH_BYTES = 4
"""Of the number that stands before each message, little-endian."""


class Job(msgspec.Struct, frozen=True, tag=True):
    """To the parse worker: parse the body whose file goes with this."""

    rule: SizeRule
    cpu_seconds: float
    redaction: Redaction | None = None


class ScratchGiven(msgspec.Struct, frozen=True, tag=True):
    """To the parse worker: with this goes the file that you asked for, of the size that you asked for."""


class ScratchWanted(msgspec.Struct, frozen=True, tag=True):
    """From the parse worker: I need a file of so many bytes, for a changed copy of the body."""

    size: int


class Found(msgspec.Struct, frozen=True, tag=True):
    """From the parse worker: what the body is, without its text."""

    parsed: Parsed | Envelope
    text: Slice | None
    """Which part of the body its slices are slices of; None: of all of the last scratch file."""
    cpu_seconds: float
    """What parsing it took."""


class Faulty(msgspec.Struct, frozen=True, tag=True):
    """From the parse worker: the body is invalid. The fields of a `CallLogError`."""

    code: str
    message: str
    hint: str
    position: int | None


class TooComplex(msgspec.Struct, frozen=True, tag=True):
    """From the parse worker: its memory, or an answer of `ANSWER_BYTES`, does not suffice for this body."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """From the parse worker: an unexpected error."""

    traceback: str


ToWorker = Job | ScratchGiven
FromWorker = ScratchWanted | Found | Faulty | TooComplex | Failed

_encode = msgspec.msgpack.Encoder().encode
decode_to_worker: Callable[[bytes], ToWorker] = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker: Callable[[bytes], FromWorker] = msgspec.msgpack.Decoder(FromWorker).decode


def framed(message: ToWorker | FromWorker) -> bytes:
    """The message as it goes over a pipe."""
    data = _encode(message)
    return len(data).to_bytes(LENGTH_BYTES, "little") + data


ANSWER_BYTES = 8 << 20
"""Of many small members that lie apart, the answer holds copies, which the gateway has to hold, too."""
DATA_BYTES = 96 << 20
"""What the process may allocate in all; mapped files do not count."""
_STACK_BYTES = 256 << 10


class Parsing:
    """One job. Further messages about it come from `inbox`, which another thread fills."""

    def __init__(self, job: Job, inbox: "queue.SimpleQueue[ToWorker]", files: socket.socket, output: int) -> None:
        self._job = job
        self._inbox = inbox
        self._files = files
        self._output = output
        self._copied = False

    def do(self) -> None:
        """Do it and send the result, errors included, so that the next job can follow."""
        message = framed(self._answer())
        _write(self._output, message if len(message) <= ANSWER_BYTES else framed(TooComplex()))

    def _answer(self) -> FromWorker:
        """The final answer to the gateway."""
        try:
            body = _map(self._files, mmap.ACCESS_READ)
            # Where it does not suffice, SIGPROF ends the process, in the middle of a C function, too.
            signal.setitimer(signal.ITIMER_PROF, self._job.cpu_seconds)
            began = time.process_time()
            parsed = parse(body, self._scratch, self._job.rule, IN_THE_WORKER, self._job.redaction)
            # What is left out of a body that is not copied is its beginning, a byte order mark.
            text = None if self._copied else Slice(len(body) - len(text_of(parsed)), len(body))
            return Found(with_text(parsed, memoryview(b"")), text, time.process_time() - began)
        except CallLogError as error:
            return Faulty(error.code, error.message, error.hint, error.position)
        except (MemoryError, Costly):
            return TooComplex()
        except Exception:  # noqa: BLE001  # the gateway logs it
            return Failed(traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)

    def _scratch(self, size: int) -> mmap.mmap:
        """A writable file from the gateway, which keeps account of these."""
        _write(self._output, framed(ScratchWanted(size)))
        given = self._inbox.get()
        assert isinstance(given, ScratchGiven), "nothing else was asked for"
        self._copied = True
        return _map(self._files, mmap.ACCESS_WRITE)


def main() -> None:
    """Work until the gateway ends."""
    for module in sys.argv[2:]:
        import_module(module)
    files = socket.socket(fileno=int(sys.argv[1]))
    confine(Limits(data_bytes=DATA_BYTES), threads=True)
    threading.stack_size(_STACK_BYTES)
    inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
    output = os.dup(1)
    os.dup2(2, 1)  # a stray print must not break the messages
    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    start_no_more()
    while True:
        job = inbox.get()
        assert isinstance(job, Job), "nothing else was asked for"
        Parsing(job, inbox, files, output).do()


def _listen(inbox: "queue.SimpleQueue[ToWorker]") -> None:
    """Fill the inbox; at the end of the input the process ends, whatever it is doing."""
    with open(0, "rb", closefd=False) as pipe:  # a file by its number
        while head := pipe.read(LENGTH_BYTES):
            inbox.put(decode_to_worker(pipe.read(int.from_bytes(head, "little"))))
    os._exit(0)


def _map(files: socket.socket, access: int) -> mmap.mmap:
    """All of the next file, which is closed again: the map lives for as long as somebody holds it."""
    _, (descriptor,), _, _ = socket.recv_fds(files, 1, 1)
    try:
        return mmap.mmap(descriptor, 0, access=access)
    finally:
        os.close(descriptor)


def _write(output: int, message: bytes) -> None:
    """Write a message in full."""
    data = memoryview(message)
    while data:
        data = data[os.write(output, data) :]


if __name__ == "__main__":
    main()
