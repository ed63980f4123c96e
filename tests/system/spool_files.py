"""What lies in a spool's files, read from a copy of them with nothing but SQLite.

Only while no gateway runs: then the copy is what a crash left, and the files themselves stay as they are.
"""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import zstandard

DELIVERED = 4
"""The state of a delivery that was confirmed."""
STATE_COLUMNS = ("ready", "waiting", "held", "dead", "delivered", "expired", "discarded")


@contextmanager
def copy_of(spool: Path, folder: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a copy of the database and its write-ahead log, made in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in spool.glob("spool.db*"):
        if not file.name.endswith("-shm"):
            shutil.copy(file, folder / file.name)
    with closing(sqlite3.connect(folder / "spool.db")) as database:
        yield database


def accepted(database: sqlite3.Connection) -> set[str]:
    """The uids of all records, receipts included."""
    return {f"{_spool_id(database)}-{record_id}" for (record_id,) in database.execute("SELECT record_id FROM records")}


def delivered(database: sqlite3.Connection) -> set[str]:
    """The idempotency keys of all deliveries that are written down as delivered."""
    rows = database.execute("SELECT record_id, form FROM deliveries WHERE state = ?", (DELIVERED,))
    return {f"{_spool_id(database)}-{record_id}-{form}" for record_id, form in rows}


def frames(database: sqlite3.Connection) -> Iterator[bytes]:
    """The raw bytes of every stored chunk."""
    for (frame,) in database.execute("SELECT frame FROM chunks"):
        yield zstandard.ZstdDecompressor().decompress(frame)


def faults(database: sqlite3.Connection) -> list[str]:
    """Everything in which the books of a spool disagree; empty for a sound one."""
    found = [f"SQLite: {line}" for (line,) in database.execute("PRAGMA integrity_check") if line != "ok"]
    found += _wrong_counters(database)
    found += _wrong_chunks(database)
    found += _wrong_uses(database)
    return found


def _wrong_counters(database: sqlite3.Connection) -> Iterator[str]:
    columns = ", ".join(STATE_COLUMNS)
    counted = {
        (destination, lane, state): count
        for destination, lane, state, count in database.execute(
            "SELECT destination_id, lane, state, count(*) FROM deliveries GROUP BY destination_id, lane, state"
        )
    }
    for destination, lane, owed, *counts in database.execute(
        f"SELECT destination_id, lane, owed, {columns} FROM counters"
    ):
        if owed != sum(counts):
            yield f"{destination}/{lane}: {owed} are owed, and the states add up to {sum(counts)}"
        for state, (name, count) in enumerate(zip(STATE_COLUMNS, counts, strict=True)):
            there = counted.get((destination, lane, state), 0)
            if there != count:
                yield f"{destination}/{lane}: the counter says {count} {name}, and there are {there}"


def _wrong_chunks(database: sqlite3.Connection) -> Iterator[str]:
    """Every chunk belongs to an open record, or to a range that is to be deleted, and none of them is missing."""
    present = {chunk for (chunk,) in database.execute("SELECT chunk_id FROM chunks")}
    owned: set[int] = set()
    for first, fragments in database.execute("SELECT first_chunk, fragments FROM records WHERE settled_at IS NULL"):
        owned.update(range(first, first + sum(chunks for chunks, *_ in json.loads(fragments).values())))
    orphaned: set[int] = set()
    for first, last in database.execute("SELECT first_chunk, last_chunk FROM orphan_chunks"):
        orphaned.update(range(first, last + 1))
    yield from (f"chunk {chunk} of an open record is missing" for chunk in owned - present)
    yield from (f"chunk {chunk} belongs to nobody" for chunk in present - owned - orphaned)


def _wrong_uses(database: sqlite3.Connection) -> Iterator[str]:
    counted = (
        "SELECT token_id, uses, (SELECT count(*) FROM records r WHERE r.token_id = t.token_id) "
        "+ (SELECT count(*) FROM uploads u WHERE u.token_id = t.token_id) AS used FROM tokens t"
    )
    for token_id, uses, used in database.execute(counted):
        if uses != used:
            yield f"token {token_id} counts {uses} uses and has {used}"


def _spool_id(database: sqlite3.Connection) -> str:
    (value,) = database.execute("SELECT value FROM meta WHERE name = 'spool_id'").fetchone()
    return str(value)
