"""Files that somebody else made in place of an outbox: each does harm when SQLite opens it carelessly."""

import os
import random
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.outbox.sdk import write

FULL = {"call_id": "call-1", "wcall_event": "call_ended", "telemetry_data": {}}
COLUMNS = (
    "id INTEGER PRIMARY KEY AUTOINCREMENT, call_id TEXT NOT NULL, event_type TEXT NOT NULL, payload, status, "
    "attempts INTEGER NOT NULL DEFAULT 0, created_at, next_attempt_at DEFAULT 0, claimed_at, last_error TEXT"
)
"""The SDK's, but that most of them take values of any kind."""


@dataclass(frozen=True)
class Case:
    """`make` writes the file at a path and gets the path of a victim; `reason` is a part of what is said about it."""

    name: str
    make: Callable[[Path, Path], None]
    reason: str


def forge_journal(database: Path, target: Path) -> None:
    """Write a hot rollback journal beside a database that names `target` as its super-journal.

    SQLite before 3.53.3 deletes what such a journal names when it rolls it back (https://www.sqlite.org/fileformat.html,
    "The Rollback Journal", and pager.c, readSuperJournal).
    """
    magic = bytes.fromhex("d9d505f920a163d7")
    page = struct.unpack(">H", database.read_bytes()[16:18])[0] or 4096
    name = str(target).encode()
    header = magic + struct.pack(">IIIII", 0, 1, database.stat().st_size // page, 512, page)
    record = struct.pack(">I", 0x40000000 // page + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    database.with_name(f"{database.name}-journal").write_bytes(header.ljust(512, b"\0") + record)


def _sql(*statements: str, mode: str = "WAL", columns: str = COLUMNS) -> Callable[[Path, Path], None]:
    """An outbox with a row, and whatever else the statements make."""

    def make(path: Path, _victim: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(f"PRAGMA journal_mode = {mode}; CREATE TABLE outbox ({columns});")
            connection.execute(
                "INSERT INTO outbox (id, call_id, event_type, payload, status, created_at) "
                "VALUES (1, 'call-1', 'call_ended', '{}', 'dead', 0)"
            )
            connection.commit()
            for statement in statements:
                connection.executescript(statement)

    return make


def _journal(path: Path, victim: Path) -> None:
    write(path, payload=FULL)
    forge_journal(path, victim)


def _link(path: Path, victim: Path) -> None:
    write(victim.with_name("elsewhere.db"), payload=FULL)
    path.symlink_to(victim.with_name("elsewhere.db"))


def _second_name(path: Path, victim: Path) -> None:
    write(path, payload=FULL)
    os.link(path, victim.with_name("second.db"))


def _linked_log(path: Path, victim: Path) -> None:
    write(path, payload=FULL)
    path.with_name(f"{path.name}-wal").symlink_to(victim)


def _fifo(path: Path, _victim: Path) -> None:
    os.mkfifo(path)


def _fifo_index(path: Path, _victim: Path) -> None:
    write(path, payload=FULL)
    os.mkfifo(path.with_name(f"{path.name}-shm"))


def _writable(path: Path, _victim: Path) -> None:
    write(path, payload=FULL)
    path.chmod(0o666)


def _of_somebody(path: Path, _victim: Path) -> None:
    write(path, payload=FULL)
    os.chown(path, 12345, -1)


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
CASES = [
    Case("a journal that names another file", _journal, "rollback journal"),
    Case("a check that takes a gigabyte", _sql(columns=f"{COLUMNS}, CHECK (length(zeroblob(900000000)))"), "CHECK"),
    Case("a trigger", _sql("CREATE TRIGGER t AFTER DELETE ON outbox BEGIN DELETE FROM outbox; END;"), "triggers"),
    Case("an endless trigger", _sql(f"CREATE TRIGGER t AFTER UPDATE ON outbox BEGIN {ENDLESS}; END;"), "triggers"),
    Case("an endless view", _sql(f"CREATE VIEW v AS {ENDLESS};"), "a view"),
    Case("another table", _sql("CREATE TABLE more (a);"), "named 'more'"),
    Case("a generated column", _sql(columns=f"{COLUMNS}, g AS (zeroblob(900000000))"), "AS"),
    Case("an index of an expression", _sql("CREATE INDEX i ON outbox (hex(call_id));"), "index of expressions"),
    Case("a partial index", _sql("CREATE INDEX i ON outbox (id) WHERE length(call_id) > 1;"), "WHERE"),
    Case("a full-text table", _sql("CREATE VIRTUAL TABLE f USING fts5 (a);"), "named 'f"),
    Case("no rowid", _sql(columns=COLUMNS.replace(" AUTOINCREMENT", "") + ") WITHOUT ROWID; --"), "WITHOUT"),
    Case("a text as its key", _sql(columns=COLUMNS.replace("INTEGER PRIMARY KEY AUTOINCREMENT", "TEXT PRIMARY KEY")),
         "integer primary key"),
    Case("a roll-back mode", _sql(mode="DELETE"), "WAL mode"),
    Case("a statement that is too long", _sql(f"CREATE INDEX i ON outbox (id /* {'x' * 100_000} */);"), "too big"),
    Case("a symbolic link", _link, "symbolic link"),
    Case("a second name", _second_name, "second name"),
    Case("a log that is a link", _linked_log, "no file of its own"),
    Case("a pipe", _fifo, "not a file"),
    Case("a pipe beside it", _fifo_index, "no file of its own"),
    Case("a file that everybody may write", _writable, "every user may write"),
]  # fmt: skip
if os.geteuid() == 0:
    CASES.append(Case("somebody else's file", _of_somebody, "belongs to user 12345"))


MANY = '{"whispey_data": {' + '"member": 1, ' * 1_500_000 + '"last": 1}}'
"""20 MB of JSON that take 400 MB when each member is looked at."""
ODD_ROWS: list[tuple[str, dict[str, object], str]] = [
    ("NULL", {"payload": None}, "its payload is null"),
    ("an integer", {"payload": 7}, "its payload is integer"),
    ("a real number", {"payload": 7.5}, "its payload is real"),
    ("a blob that is no JSON", {"payload": b"\xff\x00"}, "not what the SDK writes"),
    ("a text that is no JSON", {"payload": "hello"}, "not what the SDK writes"),
    ("JSON of another kind", {"payload": "[1]"}, "not what the SDK writes"),
    ("a long call id", {"call_id": "c" * 40_000_000}, "cannot be read"),
    ("a long status", {"status": "dead" * 10_000_000}, "cannot be read"),
    ("many members", {"payload": MANY}, "too many members"),
    ("a claim at no time", {"status": "dead", "claimed_at": "yesterday"}, "no time"),
]
"""Columns of a row, and what is said of it; it stays where it is, and the others are taken."""


def write_rows(path: Path, *rows: dict[str, object]) -> None:
    """Rows with values of any kind, in an outbox whose columns take them."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA journal_mode = WAL; CREATE TABLE outbox ({COLUMNS});")
        for row in rows:
            whole = {
                "call_id": "odd",
                "event_type": "call_ended",
                "payload": "{}",
                "status": "dead",
                "created_at": 0,
                **row,
            }
            marks = ", ".join("?" * len(whole))
            connection.execute(f"INSERT INTO outbox ({', '.join(whole)}) VALUES ({marks})", tuple(whole.values()))
        connection.commit()


def _flip(path: Path, chance: random.Random) -> None:
    """Another byte at a random place of the file, its log or its index."""
    target = _some(path, chance)
    if size := target.stat().st_size:
        with target.open("r+b") as file:
            file.seek(chance.randrange(size))
            file.write(bytes([chance.randrange(256)]))


def _cut(path: Path, chance: random.Random) -> None:
    target = _some(path, chance)
    os.truncate(target, chance.randrange(target.stat().st_size + 1))


def _add_to_schema(path: Path, chance: random.Random) -> None:
    statement = chance.choice(
        [
            f"CREATE TRIGGER t BEFORE UPDATE ON outbox BEGIN {ENDLESS}; END",
            "CREATE TRIGGER t AFTER DELETE ON outbox BEGIN DELETE FROM outbox; END",
            f"CREATE VIEW v AS {ENDLESS}",
            "ALTER TABLE outbox ADD COLUMN g AS (hex(payload))",
            "DROP TABLE outbox",
        ]
    )
    if not path.with_name(f"{path.name}-journal").exists():  # which SQLite would roll back here, in the test
        with closing(sqlite3.connect(path, timeout=0)) as connection:
            connection.executescript(statement)


def _replace(path: Path, chance: random.Random) -> None:
    path.unlink()
    match chance.randrange(4):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(path.with_name("nowhere"))
        case _:
            path.touch()


def _some(path: Path, chance: random.Random) -> Path:
    found = [each for each in path.parent.glob(f"{path.name}*") if each.is_file() and not each.is_symlink()]
    return chance.choice(found)


def do_harm(path: Path, victim: Path, chance: random.Random) -> None:
    """Something that whoever may write to an outbox can do to it at any moment."""
    harm = chance.choice([_flip, _flip, _cut, _add_to_schema, _replace, None])
    with suppress(OSError, sqlite3.Error, IndexError):  # it was not possible at this moment
        if harm is not None:
            harm(path, chance)
        elif path.is_file() and path.stat().st_size > 4096:
            forge_journal(path, victim)
