"""What a salvage reads, decrypted: by the keys that lie beside the other database, and this gateway's main keys.

The process that reads the database has none of them. What cannot be decrypted counts as what cannot be read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from zlib import crc32

from spool.db.connection import translated
from spool.db.tokens import token_in
from spool.errors import CorruptPayload
from spool.keys import KeyRing, SpoolKeys, WrappedKey
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
from spool.salvage.model import (
    SealedToken,
    SourceRecord,
    SourceSpans,
    SourceTurn,
    UnreadableRecord,
    UnreadableSpans,
)
from spool.salvage.reader import SandboxedSource


class DecryptedSource:
    """Another database as `SandboxedSource` reads it, with nothing encrypted. For one thread at a time."""

    def __init__(self, source: SandboxedSource, keys: SpoolKeys) -> None:
        self._source = source
        self._keys = keys
        self.spool_id = source.spool_id
        self.destinations = source.destinations
        self.last_record = source.last_record

    def records(self) -> Iterator[SourceRecord | UnreadableRecord]:
        """See `SandboxedSource.records`."""
        for one in self._source.records():
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
