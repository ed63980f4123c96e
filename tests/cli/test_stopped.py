"""Commands about a spool whose gateway is stopped."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.cli import Exit
from spool.directory import DATABASE_NAME, DirectoryLock
from spool.records import DeadLetter
from tests.cli.conftest import Cli
from tests.spool.spool_parts import ENDPOINT, a_record, opened


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spool with a dead letter, as a gateway left it."""

    async def fill() -> None:
        async with opened(tmp_path / "spool") as spool:
            accepted = await spool.accept(a_record("call-1"))
            await spool.settle(accepted.ready[0], DeadLetter("HTTP 400: no"))

    asyncio.run(fill())
    file = tmp_path / "callspool.toml"
    file.write_text(
        f'[admin]\nlisten = "127.0.0.1:9"\n[spool]\ndir = "{tmp_path / "spool"}"\n'
        f'[[destinations]]\nname = "{ENDPOINT}"\ntype = "http"\nurl = "http://127.0.0.1:9/"\n'
    )
    monkeypatch.setenv("CALLSPOOL_CONFIG", str(file))
    return tmp_path / "spool"


@pytest.mark.usefixtures("stopped")
def test_what_is_in_it_can_be_seen_and_put_right(cli: Cli) -> None:
    """Every command that asks a gateway asks the spool itself; what was ordered stands in it afterwards."""
    status = cli("status", "--json")
    assert (status.exit_code, json.loads(status.stdout)["phase"]) == (Exit.FAILED, "stopped")
    (destination,) = json.loads(status.stdout)["destinations"]
    assert [reason["kind"] for reason in destination["dead_reasons"]] == ["refused"]
    assert "No gateway runs" in status.stderr
    assert "HTTP 400: no" in cli("dead", "list").stdout
    assert cli("show", "nobody").exit_code == Exit.UNKNOWN_CALL
    assert cli("dead", "replay", "--all").exit_code == Exit.OK
    (entry,) = [json.loads(line) for line in cli("deliveries", "list", "--json").stdout.splitlines()]
    assert (entry["call_id"], entry["destination"], entry["state"]) == ("call-1", ENDPOINT, "ready")


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("command", [("tail",), ("top",), ("status", "--watch")])
def test_what_follows_a_gateway_looks_once(cli: Cli, command: tuple[str, ...]) -> None:
    """A spool that a command has open keeps a gateway from starting: none stays at it."""
    result = cli(*command)
    assert (result.exit_code, "No gateway runs" in result.stderr, result.stdout != "") == (Exit.OK, True, True)


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(
    ("address", "code"), [("127.0.0.1:9", Exit.FAILED), ("0.0.0.0:9", Exit.FAILED), ("192.0.2.1:9", Exit.NO_GATEWAY)]
)
def test_the_gateways_own_environment_leads_to_its_spool(
    cli: Cli, address: str, code: Exit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its container or its unit the variables say where it listens; another machine's gateway has no spool here."""
    monkeypatch.setattr("gateway.cli.client._TIMEOUT_SECONDS", 0.2)
    result = cli("status", "--json", env={"CALLSPOOL_ADMIN_LISTEN": address})
    assert result.exit_code == code
    assert ("No gateway runs" in result.stderr) == (code is Exit.FAILED)


def test_what_needs_a_gateway_says_so(cli: Cli, stopped: Path) -> None:
    """A reload needs a gateway, and so does an address that was typed; a spool that is owned is not opened."""
    assert cli("reload").exit_code == Exit.NO_GATEWAY
    assert cli("status", "--admin", "127.0.0.1:9").exit_code == Exit.NO_GATEWAY
    lock = DirectoryLock(stopped)
    lock.acquire()
    try:
        assert cli("status").exit_code == Exit.NO_GATEWAY
    finally:
        lock.release()


def test_an_older_spool_is_left_to_its_gateway(cli: Cli, stopped: Path) -> None:
    """A look does not bring a schema up to date, which the gateway before could not read any more."""
    with closing(sqlite3.connect(stopped / DATABASE_NAME)) as database:
        database.execute("PRAGMA user_version = 1")
    result = cli("status")
    assert (result.exit_code, "schema version 1" in result.stderr) == (Exit.NO_GATEWAY, True)
