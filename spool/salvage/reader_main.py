"""The process that reads another spool's database for a salvage, since that may be damaged, or made to do harm.

Its argument is the directory. It is started by `spool.salvage.reader`, reads requests from its standard input and
answers them on its standard output, in msgpack behind a length; `spool.sandbox` says what confines it.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec

import spool
from spool import sandbox
from spool.errors import SchemaTooNew, SpoolError
from spool.salvage.model import SourceRecord, SourceSpans, SourceTurn, UnreadableRecord, UnreadableSpans
from spool.salvage.source import Source, opened_source

LIMITS = sandbox.Limits(memory_bytes=1 << 30, cpu_seconds=24 * 3600)
"""A spool with a million open deliveries needs some 500 MB, for what its indexes say of them."""
CHUNKS_AT_ONCE = 8


class NextRecord(msgspec.Struct, frozen=True, tag=True):
    """Read on; answered by `Following`."""


class ReadChunks(msgspec.Struct, frozen=True, tag=True):
    """Read these chunks of a record, at most `CHUNKS_AT_ONCE`; answered by `Chunks`."""

    first: int
    count: int


class NextSpans(msgspec.Struct, frozen=True, tag=True):
    """Read on among the spans; answered by `FollowingSpans`."""


class NextTurn(msgspec.Struct, frozen=True, tag=True):
    """Read on among live calls and their turns; answered by `FollowingTurn`."""


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The first answer, to nothing."""

    spool_id: str
    destinations: dict[int, str]
    last_record: int


class Following(msgspec.Struct, frozen=True, tag=True):
    """The next record, or what cannot be read of it; neither after the last."""

    record: SourceRecord | None = None
    unreadable: UnreadableRecord | None = None

    @property
    def found(self) -> SourceRecord | UnreadableRecord | None:
        """The one of them that is there."""
        return self.record or self.unreadable


class FollowingSpans(msgspec.Struct, frozen=True, tag=True):
    """The next row of spans, or that it cannot be read; neither after the last."""

    spans: SourceSpans | None = None
    unreadable: UnreadableSpans | None = None

    @property
    def found(self) -> SourceSpans | UnreadableSpans | None:
        """The one of them that is there."""
        return self.spans or self.unreadable


class FollowingTurn(msgspec.Struct, frozen=True, tag=True):
    """The next live call or turn, or that it cannot be read; neither after the last."""

    turn: SourceTurn | None = None
    unreadable: UnreadableSpans | None = None

    @property
    def found(self) -> SourceTurn | UnreadableSpans | None:
        """The one of them that is there."""
        return self.turn or self.unreadable


class Chunks(msgspec.Struct, frozen=True, tag=True):
    """Place among those that were asked for, checksum and frame of each that is whole."""

    chunks: tuple[tuple[int, int, bytes], ...]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Nothing can be read, or no more."""

    reason: str
    too_new: bool = False
    traceback: str = ""


Request = NextRecord | NextSpans | NextTurn | ReadChunks
Answer = Opened | Following | FollowingSpans | FollowingTurn | Chunks | Failed

encode = msgspec.msgpack.Encoder().encode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
_decode = msgspec.msgpack.Decoder(Request).decode


class _Reader:
    """Answers the requests about one database."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._records = source.records()
        self._spans = source.spans()
        self._turns = source.turns()

    def answer_to(self, request: Request) -> Answer:
        match request:
            case NextRecord():
                return _checked(next(self._records, None))
            case NextSpans():
                return _checked_spans(next(self._spans, None))
            case NextTurn():
                return _checked_turn(next(self._turns, None))
            case ReadChunks(first, count):
                wanted = range(first, first + min(count, CHUNKS_AT_ONCE))
                return Chunks(tuple(self._source.chunks(wanted)))


def _checked(found: SourceRecord | UnreadableRecord | None) -> Following:
    """What was found, if each of its values is of the type that it should be: a damaged row may hold anything."""
    if found is None:
        return Following()
    answer = Following(found) if isinstance(found, SourceRecord) else Following(unreadable=found)
    try:
        decode_answer(encode(answer))
    except (msgspec.MsgspecError, TypeError, OverflowError) as error:
        record_id = found.record.record_id if isinstance(found, SourceRecord) else found.record_id
        reason = f"what is stored about it was never written: {error}"
        return Following(unreadable=UnreadableRecord(int(record_id), None, reason))
    return answer


def _checked_spans(found: SourceSpans | UnreadableSpans | None) -> FollowingSpans:
    """The same of spans."""
    if not isinstance(found, SourceSpans):
        return FollowingSpans(unreadable=found)
    answer = FollowingSpans(found)
    try:
        decode_answer(encode(answer))
    except (msgspec.MsgspecError, TypeError, OverflowError):
        return FollowingSpans(unreadable=UnreadableSpans(found.row_id))
    return answer


def _checked_turn(found: SourceTurn | UnreadableSpans | None) -> FollowingTurn:
    """The same of turns."""
    if not isinstance(found, SourceTurn):
        return FollowingTurn(unreadable=found)
    answer = FollowingTurn(found)
    try:
        decode_answer(encode(answer))
    except (msgspec.MsgspecError, TypeError, OverflowError):
        return FollowingTurn(unreadable=UnreadableSpans(found.number))
    return answer


def _answers(directory: Path, requests: Iterator[Request]) -> Iterator[Answer]:
    """First what the database is, then the answer to each request; an error ends them."""
    try:
        with ExitStack() as stack:
            source = stack.enter_context(opened_source(directory))
            yield Opened(source.spool_id, source.destinations, source.last_record)
            reader = _Reader(source)
            yield from map(reader.answer_to, requests)
    except SchemaTooNew as error:
        yield Failed(str(error), too_new=True)
    except (SpoolError, OSError) as error:
        yield Failed(str(error))
    except MemoryError:
        yield Failed(f"nothing more can be read of {directory}: it needs more memory than a salvage has")
    except Exception as error:  # noqa: BLE001  # told to the gateway, which logs it
        yield Failed(f"nothing more can be read of {directory}: {error!r}", traceback=traceback.format_exc())


def _requests(pipe: BinaryIO) -> Iterator[Request]:
    while (message := sandbox.read_message(pipe)) is not None:
        yield _decode(message)


def main(directory: str) -> None:
    """Answer until the salvage closes the pipe, or the gateway ends."""
    packages = Path(spool.__file__).parent
    sandbox.confine(LIMITS, Path(directory), readable=(packages, Path(sys.prefix), Path(sys.base_prefix)), scratch=True)
    pipe, output = sandbox.pipes()
    for answer in _answers(Path(directory), _requests(pipe)):
        data = memoryview(sandbox.framed(encode(answer)))
        while data:
            data = data[output.write(data) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
