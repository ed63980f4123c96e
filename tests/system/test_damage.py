"""A database that is damaged while the gateway runs: a new one takes over, and salvage brings the old records back."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

PAGE_SIZE = 16384


def overwrite_tables(database: Path) -> None:
    """Spoil the roots of the deliveries and of the index that every post of a known call reads."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema"))
    with database.open("r+b") as file:
        for name in ("deliveries", "records_by_call"):
            file.seek((roots[name] - 1) * PAGE_SIZE)
            file.write(os.urandom(PAGE_SIZE))


@pytest.mark.slow
async def test_a_new_database_takes_over_and_the_old_records_come_back(tmp_path: Path) -> None:
    """Nothing is acknowledged into the damaged one; posts go on in the same process; salvage loses no record."""
    environment = {"CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/closed"}
    async with GatewayProcess(tmp_path / "gateway", environment) as gateway:
        for number in range(20):
            assert (await gateway.post({"call_id": f"old-{number}", "text": "x" * 500})).status == 202
        log = gateway.spool / "spool.db-wal"

        async def moved() -> bool:
            return log.stat().st_size == 0

        await until(moved, "the log was moved into the database")
        overwrite_tables(gateway.spool / "spool.db")

        async def accepted_by_a_new_one() -> bool:
            reply = await gateway.post({"call_id": "old-0", "text": "another"})
            return reply.status == 202 and bool(list(gateway.spool.glob("quarantine-*")))

        await until(accepted_by_a_new_one, "a new database took over")
        assert (await gateway.status())["attention"]
        assert b"imported" in await gateway.command("salvage", *gateway.admin)
        traces = [await gateway.trace(f"old-{number}") for number in range(20)]
        assert all(traces)
        assert await gateway.metric("callspool_quarantined_databases") == 0
        assert await gateway.metric("callspool_unaccounted_records") == 0


@pytest.mark.slow
@pytest.mark.parametrize("files", [("spool.db-wal",), ("spool.db-wal", "spool.db-shm")], ids=["log", "log and index"])
async def test_a_log_that_is_removed_while_the_gateway_runs_costs_nothing(
    tmp_path: Path, files: tuple[str, ...]
) -> None:
    """It lives, says that it is not ready, opens the spool anew by itself, and has all that it acknowledged."""
    environment = {"CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/closed"}
    async with GatewayProcess(tmp_path / "gateway", environment) as gateway:
        for number in range(10):
            assert (await gateway.post({"call_id": f"call-{number}", "text": "x" * 500})).status == 202
        for file in files:
            (gateway.spool / file).unlink()
        assert (await gateway.post({"call_id": "call-10"})).status == 202

        async def accepted_again() -> bool:
            return (await gateway.post({"call_id": "call-11"})).status == 202 and (gateway.spool / files[0]).exists()

        await until(accepted_again, "the spool was opened anew")
        assert all([await gateway.trace(f"call-{number}") for number in range(12)])
        assert not list(gateway.spool.glob("quarantine-*"))
        assert await gateway.metric("callspool_unaccounted_records") == 0
