"""Tests of `callspool deliveries`, against the admin application over a real spool."""

import json
import sys
from pathlib import Path

import pytest

from spool.records import DeliveryState, Hold, RetryAt
from tests.admin.admin_app import OTHER, SpoolAdmin
from tests.cli.conftest import Cli, Server, rows
from tests.spool.spool_parts import HOUR, NOW, a_record, states, traced

READY, HELD = DeliveryState.READY, DeliveryState.HELD


@pytest.fixture(autouse=True)
def queued(server: Server, admin: SpoolAdmin) -> None:
    """One delivery is held, and one is due later."""

    async def queue() -> None:
        """The token of one call log was refused, and for the other the endpoint had an error."""
        refused = (await admin.spool.accept(a_record("refused", token="old"))).ready[0]
        await admin.spool.settle(refused, Hold("HTTP 401", refused.record.token_id))
        later = (await admin.spool.accept(a_record("later"))).ready[0]
        await admin.spool.settle(later, RetryAt(NOW + HOUR, "HTTP 500"))

    server.run(queue())


def test_what_is_queued_is_listed_with_its_state(cli: Cli, admin: SpoolAdmin) -> None:
    """A row tells what a delivery waits for, and when it is tried next."""
    result = cli("deliveries", "list")
    assert result.exit_code == 0, result.output
    assert any("refused endpoint whole 0 s 0 19 B held - HTTP 401" in line for line in rows(result.stdout))
    assert any("later endpoint whole 0 s 1 19 B ready now" in line for line in rows(result.stdout))
    held = [json.loads(line) for line in cli("deliveries", "list", "--state", "held", "--json").stdout.splitlines()]
    assert [one["call_id"] for one in held] == ["refused"]
    assert cli("deliveries", "list", "nobody").stdout.strip() == "Nothing is queued."


def test_a_retry_says_what_it_passed_over(cli: Cli, admin: SpoolAdmin) -> None:
    """What was to be tried later is due now; what cannot be is counted with the reason."""
    result = cli("deliveries", "retry", "--all")
    assert (result.exit_code, "Due now: 1 delivery." in result.stdout) == (0, True), result.output
    assert "Skipped 1 of the selected: already due" in result.stderr


def test_deliveries_are_moved_to_another_destination(cli: Cli, server: Server, admin: SpoolAdmin) -> None:
    """What was moved is told, and is owed there."""
    assert cli("deliveries", "reroute", "--all").exit_code == 2
    unknown = cli("deliveries", "reroute", "--to", "nobody", "--all")
    assert (unknown.exit_code, "no destination 'nobody'" in unknown.stderr) == (1, True)
    result = cli("deliveries", "reroute", "--to", OTHER, "--destination", "endpoint")
    assert (result.exit_code, f"Moved to {OTHER}: 2 deliveries." in result.stdout) == (0, True), result.output
    (moved,) = server.run(traced(admin.spool, "later"))
    assert (moved.destination, moved.state) == (OTHER, READY)


@pytest.mark.parametrize("given", ["file", "standard input", "terminal"])
def test_a_new_key_is_never_on_the_command_line(
    cli: Cli, server: Server, admin: SpoolAdmin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """It comes from a file, standard input or a prompt, is not echoed, and frees what was held."""
    file = tmp_path / "key"
    file.write_text("hush\n")
    if given == "terminal":
        monkeypatch.setattr(sys.modules["gateway.cli.deliveries"], "is_a_terminal", lambda: True)
    sources = {"file": ("--key", str(file)), "standard input": ("--key", "-"), "terminal": ()}
    arguments = ("deliveries", "replace-token", "refused", *sources[given])
    typed = {"file": None, "standard input": "hush\n", "terminal": "hush\ny\n"}
    result = cli(*arguments, stdin=typed[given])
    assert (result.exit_code, "hush" in result.output) == (0, False), result.output
    assert "Another key was given to 1 delivery." in result.stdout
    assert server.run(states(admin.spool, "refused")) == [READY]
    assert server.run(admin.spool.token(2)) == "hush"


def test_without_a_key_nothing_is_changed(cli: Cli, server: Server, admin: SpoolAdmin) -> None:
    """Where nobody can be asked, the ways to give a key are named."""
    result = cli("deliveries", "replace-token", "refused")
    assert (result.exit_code, "--key FILE" in result.stderr) == (2, True)
    assert server.run(states(admin.spool, "refused")) == [HELD]
