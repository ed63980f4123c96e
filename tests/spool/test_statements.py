"""Every statement on a hot path goes straight to what it needs: no scan of a large table, no sort of a backlog."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from spool.admin import query
from spool.db import sql, transaction
from spool.db.connection import connect_writer
from spool.db.startup import prepare_database
from spool.directory import DATABASE_NAME

OPEN, HELD, PRIMARY_KEY, BY_ID = "deliveries_open", "deliveries_held", "PRIMARY KEY", "INTEGER PRIMARY KEY"
CALL = "(call_id=? AND principal=?"
LANE = "(destination_id=? AND lane=? AND state=?)"
LANE_FROM = "(destination_id=? AND lane=? AND state=? AND record_id>?)"

NAMED = {**vars(sql), **vars(query)}

PLANS = {
    # name of the statement: parts that its plan must have, in this order
    "DUE": [f"INDEX {OPEN} {LANE}", f"r USING {BY_ID}", f"o USING {PRIMARY_KEY}"],
    "NEXT_DUE": [f"INDEX {OPEN} {LANE}"],
    "OLDEST_DETAILS": [f"COVERING INDEX {OPEN} {LANE_FROM}"],
    "SET_FRAGMENTS": [BY_ID],
    "DEFERRED_FOR_DESTINATION": [f"INDEX {OPEN} {LANE_FROM}"],
    "OLDEST_IN_STATE": [f"COVERING INDEX {OPEN} {LANE}", f"r USING {BY_ID}"],
    "OLDEST_OPEN": [f"INDEX {OPEN} {LANE}", f"a USING {PRIMARY_KEY} (record_id=?)", f"r USING {BY_ID}"],
    "OLDEST_WAITING": [f"COVERING INDEX {OPEN} {LANE}", f"r USING {BY_ID}"],
    "OPEN_IN_STATE": [f"INDEX {OPEN} {LANE_FROM}", f"r USING {BY_ID}"],
    "OPEN_OF_RECORD": [f"r USING {BY_ID}", f"d USING {PRIMARY_KEY} (record_id=?)"],
    "HELD_FOR": [f"INDEX {HELD} (destination_id=? AND held_for=? AND lane=?)"],
    "HELD_TOKENS": [f"INDEX {HELD} (destination_id=?)"],
    "EARLIER_OF_CALL": [f"INDEX records_by_call {CALL})", f"INDEX records_by_call {CALL})"],
    "EARLIER_QUEUED": [
        f"INDEX records_by_call {CALL} AND rowid<?)",
        f"INDEX records_by_call {CALL} AND rowid<?)",
        f"d USING {PRIMARY_KEY} (record_id=? AND destination_id=?)",
    ],
    "LATER_OF_PRINCIPAL": [f"INDEX records_by_call {CALL} AND rowid>?)", f"d USING {PRIMARY_KEY} (record_id=?)"],
    "DELIVERY_STATE": [f"{PRIMARY_KEY} (record_id=? AND destination_id=? AND form=?)"],
    "READ_DELIVERY": [f"r USING {BY_ID}", f"d USING {PRIMARY_KEY} (record_id=? AND destination_id=? AND form=?)"],
    "DELIVERIES_OF_RECORD": [f"{PRIMARY_KEY} (record_id=?)"],
    "OPEN_IN_RECORD": [f"{PRIMARY_KEY} (record_id=?)"],
    "GIVEN_UP": [f"{PRIMARY_KEY} (record_id=?)"],
    "SET_STATE": [f"{PRIMARY_KEY} (record_id=? AND destination_id=? AND form=?)"],
    "DEFER": [f"{PRIMARY_KEY} (record_id=? AND destination_id=? AND form=?)"],
    "REPLAY": [f"{PRIMARY_KEY} (record_id=? AND destination_id=? AND form=?)"],
    "DISCARD": [f"{PRIMARY_KEY} (record_id=? AND destination_id=? AND form=?)"],
    "READ_CHUNKS": [f"{BY_ID} (rowid>? AND rowid<?)"],
    "DELETE_CHUNKS": [f"{BY_ID} (rowid>? AND rowid<?)"],
    "ADD_TOKEN_USES": [BY_ID],
    "OLD_RECEIPTS": ["COVERING INDEX receipts_by_age (settled_at>? AND settled_at<?)"],
    "OLDEST_RECEIPTS": ["COVERING INDEX receipts_by_age"],
    "COUNT_RECEIPTS": ["COVERING INDEX receipts_by_age"],
    "EXPIRED_UPLOADS": ["INDEX uploads_by_expiry (expires_at<?)"],
    "READ_UPLOAD_BY_HASH": [f"u USING {PRIMARY_KEY} (key_hash=?)"],
    "READ_UPLOAD_BY_S3_KEY": ["(s3_key=?)"],
    "LAST_CHUNK": ["SEARCH chunks"],
    "LAST_ORPHAN_CHUNK": ["SEARCH orphan_chunks"],
}


FOR_MANY = {
    # name of the function that makes a statement for so many rows: parts that its plan must have
    "known_calls": ["INDEX records_by_call (call_id=?)"],
    "open_of_records": [
        f"{PRIMARY_KEY} (record_id=?)",
        "CORRELATED SCALAR SUBQUERY 1",
        "SEARCH records USING INTEGER PRIMARY KEY (rowid=?)",
    ],
    "end_delivered": [f"{PRIMARY_KEY} (record_id=? AND destination_id=? AND form=?)"],
    "make_receipts": [BY_ID],
    "delete_chunks": [BY_ID],
}


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path: Path = tmp_path_factory.mktemp("plans") / DATABASE_NAME
    prepare_database(path, None, ["endpoint"])
    connection = connect_writer(path)
    yield connection
    connection.close()


def plan_of(connection: sqlite3.Connection, statement: str) -> list[str]:
    names = re.findall(r":(\w+)", statement)
    parameters = dict.fromkeys(names, 1) if names else (1,) * statement.count("?")
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_goes_by_its_index(connection: sqlite3.Connection, name: str) -> None:
    """The named lookups happen, in this order, and nothing of a large table is scanned or sorted."""
    plan = plan_of(connection, NAMED[name])
    at = 0
    for part in PLANS[name]:
        found = [position for position, line in enumerate(plan) if position >= at and part in line]
        assert found, f"{part} is not in {plan[at:]}"
        at = found[0] + 1
    # A SCAN of a co-routine reads the at most 1024 rows that its own search found.
    assert not [
        line for line in plan if line.startswith("SCAN") and not re.fullmatch(r"SCAN (r|\(subquery-\d+\))", line)
    ]
    assert not [line for line in plan if "TEMP B-TREE" in line]


OF_A_CALL = ("TRACE_RECORDS", "OPEN_OF_CALL", "LATER_OF_ANYBODY")
"""What is asked about a call whoever posted it: its index is sorted by principal first."""


@pytest.mark.parametrize("name", OF_A_CALL)
def test_a_question_about_a_call_sorts_nothing_but_its_records(connection: sqlite3.Connection, name: str) -> None:
    """The records of the call are found by its index, and nothing else is scanned or sorted."""
    plan = plan_of(connection, NAMED[name])
    assert any("INDEX records_by_call (call_id=?" in line for line in plan), plan
    assert not [
        line for line in plan if line.startswith("SCAN") and not re.fullmatch(r"SCAN (r|\(subquery-\d+\))", line)
    ]


@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("name", FOR_MANY)
def test_many_rows_are_found_one_by_one(connection: sqlite3.Connection, name: str, count: int) -> None:
    """A statement for many rows scans nothing but the rows that it was given."""
    plan = plan_of(connection, getattr(transaction, name)(count))
    for part in FOR_MANY[name]:
        assert any(part in line for line in plan), plan
    given = ("CONSTANT ROW", "column1", "ended", "(subquery", "-COL", "LIST")
    scans = [line for line in plan if line.startswith("SCAN")]
    assert not [line for line in scans if not any(word in line for word in given)], plan


def test_the_recount_reads_nothing_but_the_index(connection: sqlite3.Connection) -> None:
    """The one scan that is meant to be: open deliveries are counted in the index alone, without sorting."""
    plan = plan_of(connection, sql.RECOUNT)
    assert f"SCAN deliveries USING COVERING INDEX {OPEN}" in plan
    assert not [line for line in plan if "TEMP B-TREE" in line]


def test_every_statement_is_one_that_sqlite_understands(connection: sqlite3.Connection) -> None:
    """Each named statement fits the schema, also those that are seldom run."""
    named = {name: text for name, text in NAMED.items() if name.isupper() and isinstance(text, str)}
    runnable = {name: text for name, text in named.items() if re.match(r"(SELECT|INSERT|UPDATE|DELETE) ", text)}
    assert len(runnable) > 50
    for name, text in runnable.items():
        if "{}" not in text:
            assert plan_of(connection, text) is not None, name
