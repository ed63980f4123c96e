"""Repairs: what a check advises is done where a machine can, on a spool that nobody uses, a transaction a round."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from spool.db import sql
from spool.db.connection import connect_writer, translated
from spool.directory import DATABASE_NAME, DirectoryLock
from spool.errors import CorruptDatabase
from spool.fsck import check, reader
from spool.fsck.report import RULES, Finding, Kind
from spool.records import DeliveryState, Form, Lane

ROUNDS = 4
"""What one repair brings to light (a receipt whose chunks nobody owns any more) is repaired in the next."""
BEYOND_REPAIR = {Kind.UNREADABLE, Kind.MALFORMED, Kind.LOST_COMMITS, Kind.NEWER_SCHEMA, Kind.OLDER_SCHEMA}
REASON = "corrupt: found by callspool fsck"

_Key = tuple[int | str, ...]


def repair(directory: Path, now: int) -> int:
    """Repair what can be; returns how many findings were. `now` is in milliseconds.

    Raises `SpoolLocked` while a gateway runs there, and `CorruptDatabase` where the database itself is damaged: then it
    is for the gateway to quarantine it.
    """
    lock = DirectoryLock(directory)
    lock.acquire(0.0)
    try:
        done = 0
        for _ in range(ROUNDS):
            findings = [finding for finding in check(directory, owned=True) if RULES[finding.kind].repaired]
            _refuse_damage(directory)
            if not findings:
                break
            _repair_files(findings)
            with translated(f"repairing the spool {directory}"):
                _repair_database(directory / DATABASE_NAME, findings, now)
            done += len(findings)
        return done
    finally:
        lock.release()


def _refuse_damage(directory: Path) -> None:
    """Raise `CorruptDatabase` where writing would make it worse."""
    for finding in check(directory, owned=True):
        if finding.kind in BEYOND_REPAIR:
            raise CorruptDatabase(f"the database is not to be repaired: {finding.text}; {finding.advice}")


def _repair_files(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.kind is Kind.WRONG_MODE:
            Path(str(finding.key[0])).chmod(0o600)
        elif finding.kind is Kind.LEFT_IN_STAGING:
            Path(str(finding.key[0])).unlink(missing_ok=True)


def _repair_database(database: Path, findings: Sequence[Finding], now: int) -> None:
    """Everything in one transaction, with the counters made anew at its end."""
    with closing(connect_writer(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for finding in findings:
            if finding.kind in _REPAIRS:
                _REPAIRS[finding.kind](connection, finding.key, now)
        _count_tokens(connection)
        _count_deliveries(connection)
        connection.execute("COMMIT")


def _bury(connection: sqlite3.Connection, key: _Key, now: int) -> None:
    """What is owed of these records becomes dead letters."""
    for record_id in key:
        connection.execute(reader.BURY_RECORD, (now, REASON, record_id))


def _bury_one(connection: sqlite3.Connection, key: _Key, now: int) -> None:
    """A delivery that is in no legal state becomes a dead letter; one that is none at all is forgotten."""
    (lane,) = connection.execute(reader.LANE_OF, key).fetchone()
    if key[2] in set(Form) and lane in set(Lane):
        connection.execute(reader.BURY_DELIVERY, (now, REASON, *key))
    else:
        connection.execute(sql.DEQUEUE, key)


def _delete_chunks(connection: sqlite3.Connection, key: _Key, _now: int) -> None:
    connection.execute(sql.DELETE_CHUNKS, key)
    connection.execute(sql.FORGET_ORPHAN_CHUNKS, key[:1])


def _forget(connection: sqlite3.Connection, key: _Key, _now: int) -> None:
    connection.execute(sql.DEQUEUE, key)


def _forget_parts(connection: sqlite3.Connection, key: _Key, _now: int) -> None:
    connection.execute(sql.DELETE_PARTS, key)


def _settle(connection: sqlite3.Connection, key: _Key, now: int) -> None:
    connection.execute(reader.SETTLE, (now, *key))


def _put(state: DeliveryState) -> Callable[[sqlite3.Connection, _Key, int], None]:
    """Gives a delivery this state."""

    def put(connection: sqlite3.Connection, key: _Key, now: int) -> None:
        """One row."""
        settled_at = now if state.ended else None
        connection.execute(sql.SET_STATE, (state, settled_at, None, None, None, *key))

    return put


def _raise_numbers(connection: sqlite3.Connection, key: _Key, _now: int) -> None:
    connection.execute(reader.FORGET_SEQUENCE)
    connection.execute(reader.SET_SEQUENCE, key)


def _count_trace(connection: sqlite3.Connection, key: _Key, now: int) -> None:
    trace = {"trace_id": bytes.fromhex(str(key[0])), "principal": key[1], "now": now}
    connection.execute(reader.COUNT_TRACE, trace)
    connection.execute(reader.SUM_TRACE, trace)


def _count_live(connection: sqlite3.Connection, key: _Key, now: int) -> None:
    call = {"call_id": key[0], "principal": key[1], "now": now}
    connection.execute(reader.COUNT_LIVE, call)
    connection.execute(reader.SUM_LIVE, call)


_REPAIRS: Mapping[Kind, Callable[[sqlite3.Connection, _Key, int], None]] = {
    Kind.UNREADABLE_RECORD: _bury,
    Kind.MISSING_CHUNKS: _bury,
    Kind.SHARED_CHUNKS: _bury,
    Kind.BAD_FRAME: _bury,
    Kind.ILLEGAL_DELIVERY: _bury_one,
    Kind.UNKNOWN_CHUNKS: _delete_chunks,
    Kind.ORPHAN_CHUNKS: _delete_chunks,
    Kind.NO_RECORD: _forget,
    Kind.NOTHING_OWED: _settle,
    Kind.OWED_BY_RECEIPT: _put(DeliveryState.DISCARDED),
    Kind.STUCK: _put(DeliveryState.READY),
    Kind.OUT_OF_TURN: _put(DeliveryState.WAITING),
    Kind.REUSED_IDS: _raise_numbers,
    Kind.STRAY_PROGRESS: _forget_parts,
    Kind.WRONG_TRACE: _count_trace,
    Kind.WRONG_LIVE_CALL: _count_live,
}


def _count_tokens(connection: sqlite3.Connection) -> None:
    """Uses as they are; what nothing uses is overwritten, then deleted (promise 9)."""
    used = dict(connection.execute(reader.TOKEN_USES).fetchall())
    for token_id, uses in connection.execute(reader.TOKENS).fetchall():
        found = used.get(token_id, 0)
        if found:
            connection.execute(sql.ADD_TOKEN_USES, (found - uses, token_id)).fetchall()
        else:
            connection.execute(sql.OVERWRITE_TOKEN, (token_id,))
            connection.execute(sql.DELETE_TOKEN, (token_id,))


def _count_deliveries(connection: sqlite3.Connection) -> None:
    """What is open as it is; of what ended at least what is there, for receipts may have been deleted since."""
    there: dict[tuple[int, str], dict[int, tuple[int, int]]] = {}
    for destination_id, lane, state, count, raw_bytes in connection.execute(reader.COUNTED).fetchall():
        there.setdefault((destination_id, lane), {})[state] = (count, raw_bytes)
    counted = {(row[0], row[1]): row[2:] for row in connection.execute(reader.COUNTERS).fetchall()}
    for key in counted.keys() | there.keys():
        before, states = counted.get(key, (0,) * 9), there.get(key, {})
        levels = [
            max(before[1 + state], states.get(state, (0, 0))[0]) if state.ended else states.get(state, (0, 0))[0]
            for state in DeliveryState
        ]
        queued = sum(states.get(state, (0, 0))[1] for state in DeliveryState if state.queued)
        connection.execute(reader.FORGET_COUNTER, key)
        connection.execute(sql.ADD_TO_COUNTERS, (*key, sum(levels), *levels, queued))
