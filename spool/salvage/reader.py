"""The salvage's side of the process that reads another spool's database (`reader_main`).

That file may be damaged anywhere, and an adopted one is somebody else's: opened in the gateway, one huge value took
2.3 GB of its memory, and a view without an end would have kept it from ending.
"""

import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import msgspec
import structlog

from spool import sandbox
from spool.db.connection import translated
from spool.db.tokens import token_in
from spool.directory import DATABASE_NAME
from spool.errors import CorruptDatabase, CorruptPayload, KeyUnavailable, SchemaTooNew, UnsuitableDirectory
from spool.keys import KEYS_NAME, KeyRing, SpoolKeys, WrappedKey
from spool.payload.frames import (
    SPANS_PLACE,
    TURN_PLACE,
    Place,
    Seal,
    is_sealed,
    places_of,
    record_context,
    spans_context,
    turn_context,
)
from spool.salvage.model import SealedToken, SourceRecord, SourceSpans, SourceTurn, UnreadableRecord, UnreadableSpans
from spool.salvage.reader_main import (
    CHUNKS_AT_ONCE,
    Answer,
    Chunks,
    Failed,
    Following,
    FollowingSpans,
    FollowingTurn,
    NextRecord,
    NextSpans,
    NextTurn,
    Opened,
    ReadChunks,
    Request,
    decode_answer,
    encode,
)

ANSWER_SECONDS = 120.0
"""For an answer: a database with a million records is opened in some 10 s, a damaged range is halved in less."""
_LARGEST_MESSAGE = 64 << 20
_PIECE = 1 << 20

_log = structlog.get_logger("callspool.spool")
_Expected = TypeVar("_Expected", bound=Answer)


class SandboxedSource:
    """Another database, read in a process of its own: what `spool.salvage.source.Source` has. For one thread at a time.

    All of it may raise `CorruptDatabase`, when that process ends, hangs or can read no more.
    """

    def __init__(self, directory: Path, process: "subprocess.Popen[bytes]") -> None:
        self._directory = directory
        self._process = process
        opened = self._answer(Opened)
        self.spool_id = opened.spool_id
        self.destinations = opened.destinations
        self.last_record = opened.last_record

    def records(self) -> Iterator[SourceRecord | UnreadableRecord]:
        """All records in commit order, receipts included, and those that cannot be read."""
        while found := self._ask(NextRecord(), Following).found:
            yield found

    def spans(self) -> Iterator[SourceSpans | UnreadableSpans]:
        """The spans of calls that had not ended, in the order in which they came, and those that cannot be read."""
        while found := self._ask(NextSpans(), FollowingSpans).found:
            yield found

    def turns(self) -> Iterator[SourceTurn | UnreadableSpans]:
        """The calls that were live, what was said in them, and what of that cannot be read."""
        while found := self._ask(NextTurn(), FollowingTurn).found:
            yield found

    def chunks(self, wanted: range) -> Iterator[tuple[int, int, bytes]]:
        """Place, checksum and frame of those chunks that are there and whole."""
        for start in range(0, len(wanted), CHUNKS_AT_ONCE):
            part = wanted[start : start + CHUNKS_AT_ONCE]
            for place, checksum, frame in self._ask(ReadChunks(part.start, len(part)), Chunks).chunks:
                yield start + place, checksum, frame

    def _ask(self, request: Request, expected: type[_Expected]) -> _Expected:
        assert self._process.stdin is not None, "started with pipes"
        try:
            # Some bytes into an empty pipe: they are written at once.
            self._process.stdin.write(sandbox.framed(encode(request)))
        except OSError:
            raise self._ended() from None
        return self._answer(expected)

    def _answer(self, expected: type[_Expected]) -> _Expected:
        deadline = time.monotonic() + ANSWER_SECONDS
        size = int.from_bytes(self._read(sandbox.LENGTH_BYTES, deadline), "little")
        if size > _LARGEST_MESSAGE:
            raise CorruptDatabase(f"nothing more can be read of {self._directory}: one value has {size:,} bytes")
        try:
            answer: Answer = decode_answer(self._read(size, deadline))
        except msgspec.MsgspecError as error:
            raise CorruptDatabase(f"the process that reads {self._directory} answered nonsense: {error}") from error
        if isinstance(answer, Failed):
            if answer.traceback:
                _log.error("unexpected error in a salvage", directory=str(self._directory), traceback=answer.traceback)
            raise (SchemaTooNew if answer.too_new else CorruptDatabase)(answer.reason)
        if not isinstance(answer, expected):
            raise CorruptDatabase(f"the process that reads {self._directory} sent an invalid answer")
        return answer

    def _read(self, size: int, deadline: float) -> bytes:
        """So many bytes, as they come."""
        assert self._process.stdout is not None, "started with pipes"
        descriptor, data = self._process.stdout.fileno(), bytearray()
        while len(data) < size:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise CorruptDatabase(
                    f"the process that reads {self._directory} did not answer within {ANSWER_SECONDS:.0f} s"
                )
            piece = os.read(descriptor, min(size - len(data), _PIECE))
            if not piece:
                raise self._ended()
            data += piece
        return bytes(data)

    def _ended(self) -> CorruptDatabase:
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return CorruptDatabase(f"the process that reads {self._directory} ended with {how}")


@contextmanager
def opened_source(directory: Path) -> Iterator[SandboxedSource]:
    """Open the database in `directory`, which nobody else uses, in a process that is ended with the context.

    Raises `CorruptDatabase` where nothing can be read, `UnsuitableDirectory` for what is no spool of a user that this
    one trusts, and `SchemaTooNew`.
    """
    _require_trusted(directory)
    process = subprocess.Popen(
        (*sandbox.module_command("spool.salvage.reader_main"), str(directory)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A request that a dead process did not read would otherwise stay in a buffer, and closing the pipe would raise.
        bufsize=0,
        env=sandbox.environment(os.environ),
        start_new_session=True,
    )
    with process:  # its end closes both pipes and waits for the process, whatever happened before
        try:
            yield SandboxedSource(directory, process)
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Without more requests it removes what it mended and ends; if it hangs, it is killed."""
    assert process.stdin is not None, "started with pipes"
    try:
        process.stdin.close()
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        _log.warning("salvage_reader_killed", pid=process.pid, seconds=_END_SECONDS)
    finally:
        process.kill()  # nothing happens if it has ended


_END_SECONDS = 2.0


def _require_trusted(directory: Path) -> None:
    """Raise `UnsuitableDirectory` unless the database is a file of this user, of root or of the directory's owner."""
    database = directory / DATABASE_NAME
    try:
        found, owner = database.lstat(), directory.stat().st_uid
    except OSError as error:
        raise UnsuitableDirectory(f"{database} cannot be looked at: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise UnsuitableDirectory(f"{database} is no file: a link is not followed")
    if found.st_uid not in {os.geteuid(), 0, owner}:
        raise UnsuitableDirectory(f"{database} belongs to user {found.st_uid}, and its directory to user {owner}")
    if found.st_mode & stat.S_IWOTH:
        raise UnsuitableDirectory(f"every user may write to {database}: take that right away with `chmod o-w`")


# What a salvage reads, decrypted: by the keys that lie beside the other database, and this gateway's main keys.
#
# The process that reads the database has none of them. What cannot be decrypted counts as what cannot be read.


class DecryptedSource:
    """Another database as `SandboxedSource` reads it, with nothing encrypted. For one thread at a time."""

    def __init__(self, source: SandboxedSource, keys: SpoolKeys) -> None:
        self._source = source
        self._keys = keys
        self.spool_id = source.spool_id
        self.destinations = source.destinations
        self.last_record = source.last_record

    def records(self) -> Iterator[SourceRecord | UnreadableRecord]:
        """See `SandboxedSource.records`. Raises `KeyUnavailable` where there is no file of keys, and one is needed."""
        for one in self._source.records():
            if isinstance(one, SourceRecord) and one.open and one.key is not None and not self._keys.has_file:
                raise KeyUnavailable(
                    f"call logs in it are encrypted, and {KEYS_NAME}, which holds their keys, does not lie beside it: "
                    f"put that file there. If it is lost, so are they: make an empty {KEYS_NAME} there, and the rest "
                    "is imported"
                )
            if isinstance(one, SourceRecord) and one.sealed_token is not None:
                yield replace(one, token=self._token(one.sealed_token))
            else:
                yield one

    def spans(self) -> Iterator[SourceSpans | UnreadableSpans]:
        """See `SandboxedSource.spans`."""
        for row in self._source.spans():
            try:
                yield self._decrypted(row) if isinstance(row, SourceSpans) else row
            except CorruptPayload:
                yield UnreadableSpans(row.row_id)

    def turns(self) -> Iterator[SourceTurn | UnreadableSpans]:
        """See `SandboxedSource.turns`."""
        for row in self._source.turns():
            if isinstance(row, UnreadableSpans):
                yield row
                continue
            known = row if row.sealed_token is None else replace(row, token=self._token(row.sealed_token))
            try:
                frame = self._opened(row.frame, row.key, turn_context(row.call_id), TURN_PLACE)
            except CorruptPayload:
                yield UnreadableSpans(row.number)
                continue
            yield replace(known, frame=frame, crc32=crc32(frame))

    def chunks(self, one: SourceRecord, wanted: range) -> Iterator[tuple[int, int, bytes]]:
        """Place, checksum and zstd frame of those chunks of a record that are there and whole."""
        seal, placed = None, places_of(one.record.fragments)
        for number, checksum, frame in self._source.chunks(wanted):
            if not is_sealed(frame):
                yield number, checksum, frame
                continue
            if one.key is None:
                return
            try:
                seal = seal or Seal(self._keys.unwrap(one.key, record_context(one.record.uid)))
                plain = seal.open(frame, placed[number])
            except CorruptPayload:
                continue
            yield number, crc32(plain), plain

    def _decrypted(self, row: SourceSpans) -> SourceSpans:
        token = row.token if row.sealed_token is None else self._token(row.sealed_token)
        frame = self._opened(row.frame, row.key, spans_context(row.trace_id), SPANS_PLACE)
        return replace(row, token=token, frame=frame, crc32=crc32(frame))

    def _opened(self, frame: bytes, key: WrappedKey | None, context: bytes, place: Place) -> bytes:
        """The plain frame of what has a key of its own. Raises `CorruptPayload`."""
        if not is_sealed(frame):
            return frame
        if key is None:
            raise CorruptPayload("its key is not there")
        return Seal(self._keys.unwrap(key, context)).open(frame, place)

    def _token(self, sealed: SealedToken) -> str | None:
        try:
            return token_in(sealed.value, sealed.token_hash, sealed.epoch, self._keys)
        except CorruptPayload:
            return None


@contextmanager
def keys_beside(directory: Path, ring: KeyRing) -> Iterator[SpoolKeys]:
    """The keys in the directory of another spool, if it has any. Raises `KeyUnavailable` where the ring lacks one."""
    with translated(f"reading the keys of the spool in {directory}"):
        keys = SpoolKeys.read(directory, ring)
    try:
        yield keys
    finally:
        keys.close()
