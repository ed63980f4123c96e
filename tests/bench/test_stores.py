"""The benchmark of the stores runs, and says what it measured."""

from importlib.util import find_spec

import pytest
from click.testing import CliRunner

from bench.postgres_server import binaries
from bench.stores import stores


@pytest.mark.prove
@pytest.mark.skipif("18" not in binaries(), reason="PostgreSQL 18 is not installed here")
def test_the_stores_are_measured_beside_their_ceiling() -> None:
    """One short round prints a rate for each way of writing, and the times of details and lists."""
    pytest.importorskip("psycopg")
    clickhouse = [] if find_spec("chdb") and find_spec("clickhouse_connect") else ["--no-clickhouse"]
    small = ["--calls", "200", "--listed", "100", "--filled", "100", "--rounds", "1", "--queued", "0"]
    result = CliRunner().invoke(stores, [*small, *clickhouse])
    assert result.exit_code == 0, result.output
    said = ("ceiling", "SQLite", "a detail of 15 MB", "newest 50 of 100", "backfill")
    assert all(word in result.output for word in said)


@pytest.mark.prove
@pytest.mark.skipif("18" not in binaries(), reason="PostgreSQL 18 is not installed here")
def test_workers_are_measured() -> None:
    """One and two workers write a small backlog, each in a process of its own."""
    pytest.importorskip("psycopg")
    options = [
        "--calls",
        "100",
        "--listed",
        "0",
        "--filled",
        "0",
        "--no-clickhouse",
        "--rounds",
        "1",
        "--queued",
        "200",
    ]
    result = CliRunner().invoke(stores, options)
    assert result.exit_code == 0, result.output
    assert all(word in result.output for word in ("Kafka to PostgreSQL", "1 worker", "2 workers", "MB"))
