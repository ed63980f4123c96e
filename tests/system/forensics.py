"""What somebody finds who has every byte of a spool's directory: raw, decompressed at every offset, with the keys."""

import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import zstandard

from spool.db.sql import decode_fragments, uid_of
from spool.errors import CorruptPayload
from spool.keys import KeyRing, SpoolKeys, WrappedKey
from spool.payload.frames import Seal, places_of, record_context

_ZSTD, _GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08"
_MOST = 64 << 20
"""More than any frame of a spool holds."""


def files_of(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file, with all of its bytes."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()


def found(directory: Path, words: Iterable[bytes]) -> set[bytes]:
    """Which of the words can be found without a key, in any file, raw or decompressed at any offset."""
    wanted = set(words)
    return {word for _, data in files_of(directory) for part in _parts(data) for word in wanted if word in part}


def _parts(data: bytes) -> Iterator[bytes]:
    yield data
    view = memoryview(data)
    for start in re.finditer(re.escape(_ZSTD), data):
        yield _unzstd(view[start.start() :])
    for start in re.finditer(re.escape(_GZIP), data):
        yield _gunzip(view[start.start() :])


def _unzstd(data: bytes | memoryview) -> bytes:
    """As much as there is of a frame: its end may be another page's."""
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    out = []
    with suppress(zstandard.ZstdError):
        for at in range(0, min(len(data), _MOST), 4096):
            out.append(decompressor.decompress(data[at : at + 4096]))
            if decompressor.eof:
                break
    return b"".join(out)


def _gunzip(data: memoryview) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data, _MOST)
    except zlib.error:
        return b""


class Copies:
    """All that was ever stored of some records, as an attacker may have kept it: wrapped keys and sealed frames."""

    def __init__(self, directory: Path) -> None:
        with closing(sqlite3.connect(f"file:{directory / 'spool.db'}?mode=ro", uri=True)) as database:
            (spool_id,) = database.execute("SELECT value FROM meta WHERE name = 'spool_id'").fetchone()
            self._records = []
            for record_id, origin, first, fragments, epoch, key in database.execute(
                "SELECT record_id, origin, first_chunk, fragments, key_epoch, payload_key FROM records "
                "WHERE key_epoch IS NOT NULL"
            ).fetchall():
                placed = places_of(decode_fragments(fragments))
                frames = [
                    database.execute("SELECT frame FROM chunks WHERE chunk_id = ?", (first + at,)).fetchone()[0]
                    for at in range(len(placed))
                ]
                uid = origin or uid_of(spool_id, record_id)
                self._records.append((uid, WrappedKey(epoch, key), list(zip(frames, placed, strict=True))))

    def __len__(self) -> int:
        return len(self._records)

    def opened(self, directory: Path, ring: KeyRing) -> bytes:
        """What of it somebody can read who has the main key, and the directory as it is now: with any epoch's key."""
        keys = SpoolKeys.read(directory, ring)
        out = b""
        try:
            for uid, wrapped, frames in self._records:
                for epoch in keys.numbers:
                    try:
                        seal = Seal(keys.unwrap(WrappedKey(epoch, wrapped.value), record_context(uid)))
                    except CorruptPayload:
                        continue
                    out += b"".join(_unzstd(seal.open(frame, place)) for frame, place in frames)
        finally:
            keys.close()
        return out
