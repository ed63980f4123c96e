"""Tests of `callspool dead`, against the admin application over a real spool."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from config.values import ListenAddress
from gateway.cli import client, deliveries
from gateway.cli.tables import dead_letters, queued
from gateway.operations.schemas import DeliveryEntry
from spool.records import DeliveryState, RetryAt
from tests.admin.admin_app import AdminFigures, SpoolAdmin
from tests.cli.conftest import Cli, Server, rows
from tests.spool.spool_parts import ENDPOINT, a_record, states

DEAD, HELD, READY, WAITING, DISCARDED = (
    DeliveryState.DEAD,
    DeliveryState.HELD,
    DeliveryState.READY,
    DeliveryState.WAITING,
    DeliveryState.DISCARDED,
)


def test_dead_letters_are_listed_with_what_to_do(cli: Cli, server: Server, admin: SpoolAdmin) -> None:
    """A row for each, and below them advice for each kind of reason."""
    server.run(admin.buried("call 1", reason="HTTP 400: no agent"))
    letter = server.run(admin.buried("call 2", reason="HTTP 413: (9 bytes were sent; do)"))
    result = cli("dead", "list")
    assert result.exit_code == 0, result.output
    shown = rows(result.stdout)
    assert f"{letter.record.uid} call 2 endpoint core 0 s 1 24 B HTTP 413: (9 bytes were sent; do)" in shown
    assert any(line.startswith("1 too_large: Set when_too_large") for line in shown)
    assert any(line.startswith("1 refused: Fix what") for line in shown)


def test_a_table_is_cut_and_json_is_not(
    cli: Cli, server: Server, admin: SpoolAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long table says that there is more; --json goes through all pages unless told how many."""
    monkeypatch.setattr("gateway.operations.service.LIMIT", 2)
    for number in range(5):
        server.run(admin.buried(f"c{number}"))
    table = cli("dead", "list", "--limit", "3")
    assert (table.stdout.count("HTTP 400"), "Only the first 3" in table.stderr) == (3, True)
    every = [json.loads(line)["call_id"] for line in cli("dead", "list", "--json").stdout.splitlines()]
    assert every == [f"c{number}" for number in range(5)]
    assert len(cli("dead", "list", "--json", "--limit", "4").stdout.splitlines()) == 4


def test_no_dead_letters_is_good_news(cli: Cli, admin: SpoolAdmin) -> None:
    """An empty list says so, and is no failure."""
    result = cli("dead", "list", "--reason", "x")
    assert (result.exit_code, result.stdout.strip()) == (0, "No dead letters.")


def test_show_tells_the_whole_story(cli: Cli, server: Server, admin: SpoolAdmin) -> None:
    """Why, what to do, and the other deliveries of the record."""
    letter = server.run(admin.buried("a", reason="HTTP 400: no agent"))
    for target in ("a", letter.record.uid, f"{letter.record.uid}/core/{ENDPOINT}"):
        result = cli("dead", "show", target)
        shown = rows(result.stdout)
        assert "reason HTTP 400: no agent" in shown, result.output
        assert "endpoint detail held 0 - - held with a dead letter of its record" in shown
    assert json.loads(cli("dead", "show", "a", "--json").stdout)["delivery"]["call_id"] == "a"


def test_a_payload_is_written_whole_or_not_at_all(cli: Cli, server: Server, admin: SpoolAdmin, tmp_path: Path) -> None:
    """--payload writes what would be sent into a file or to standard output."""
    server.run(admin.buried("a"))
    file = tmp_path / "a.json"
    assert cli("dead", "show", "a", "--payload", str(file)).exit_code == 0
    assert file.read_bytes() == b'{"base": 1,"derived": 1}'
    assert cli("dead", "show", "a", "--payload", "-").stdout == '{"base": 1,"derived": 1}'
    refused = cli("dead", "show", "a", "--payload", str(tmp_path / "a.json" / "b"))
    assert (refused.exit_code, "cannot be written" in refused.stderr) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "spool"]


def test_a_payload_is_of_one_delivery(cli: Cli, server: Server, admin: SpoolAdmin) -> None:
    """Where a target names several, their keys are told."""
    letter = server.run(admin.buried("a"))
    server.run(admin.buried("a"))
    result = cli("dead", "show", "a", "--payload", "-")
    assert (result.exit_code, f"{letter.record.uid}/core/{ENDPOINT}" in result.stderr) == (2, True)


def test_an_unknown_target_has_the_exit_code_of_an_unknown_call(cli: Cli, admin: SpoolAdmin) -> None:
    """Scripts can tell it from a failure."""
    result = cli("dead", "show", "nobody")
    assert (result.exit_code, "callspool show CALL_ID" in result.stderr) == (4, True)


@pytest.mark.parametrize(
    ("arguments", "said", "after"),
    [
        pytest.param(("replay", "--all", "--dry-run"), "Would replay 3 dead letters, 72 B.", [DEAD, HELD], id="dry"),
        pytest.param(("replay", "--all"), "Replayed 3 dead letters.", [READY, WAITING], id="replay"),
        pytest.param(("replay", "a", "b"), "Replayed 2 dead letters.", [READY, WAITING], id="targets"),
        pytest.param(("replay", "--reason", "other"), "Replayed 1 dead letter.", [DEAD, HELD], id="reason"),
        pytest.param(("discard", "a", "--yes"), "Discarded 2 deliveries.", [DISCARDED, DISCARDED], id="discard"),
    ],
)
def test_orders_say_what_they_did(
    cli: Cli, server: Server, admin: SpoolAdmin, arguments: tuple[str, ...], said: str, after: list[DeliveryState]
) -> None:
    """Counts are reported, and a dry run changes nothing; without a terminal only a discard needs --yes."""
    for call_id, reason in (("a", "HTTP 400"), ("b", "HTTP 400"), ("c", "other")):
        server.run(admin.buried(call_id, reason=reason))
    result = cli("dead", *arguments)
    assert (result.exit_code, said in result.stdout) == (0, True), result.output
    assert server.run(states(admin.spool, "a")) == after


@pytest.mark.parametrize(("answer", "after"), [("n\n", [DEAD, HELD]), ("y\n", [READY, WAITING])])
def test_at_a_terminal_it_is_asked_back(
    cli: Cli,
    server: Server,
    admin: SpoolAdmin,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    after: list[DeliveryState],
) -> None:
    """A person is told how much it is about, and can still say no."""
    monkeypatch.setattr(deliveries, "is_a_terminal", lambda: True)
    server.run(admin.buried("a"))
    result = cli("dead", "replay", "a", stdin=answer)
    assert "Replay 1 dead letter, 24 B?" in result.stderr
    assert server.run(states(admin.spool, "a")) == after


def test_who_says_no_does_not_wait(
    cli: Cli, server: Server, admin: SpoolAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not replayed is not reported as dead again, and the command does not fail."""
    monkeypatch.setattr(deliveries, "is_a_terminal", lambda: True)
    server.run(admin.buried("a"))
    result = cli("dead", "replay", "a", "--wait", "30s", stdin="n\n")
    assert (result.exit_code, "Nothing was changed." in result.stderr, "dead again" in result.stderr) == (
        0,
        True,
        False,
    )


@pytest.mark.parametrize("order", ["replay", "discard"])
def test_everything_is_meant_only_when_it_is_said(cli: Cli, server: Server, admin: SpoolAdmin, order: str) -> None:
    """An order without a selection is wrong usage, and changes nothing."""
    server.run(admin.buried("a"))
    result = cli("dead", order)
    assert (result.exit_code, "--all" in result.stderr) == (2, True)
    assert server.run(states(admin.spool, "a")) == [DEAD, HELD]


def test_a_discard_without_a_terminal_needs_yes(cli: Cli, server: Server, admin: SpoolAdmin) -> None:
    """What cannot be undone is not done by a script that did not say so; a replay may be."""
    server.run(admin.buried("a"))
    result = cli("dead", "discard", "a")
    assert (result.exit_code, "pass --yes to discard 1 delivery" in result.stderr) == (2, True), result.output
    assert cli("dead", "discard", "a", "--yes").exit_code == 0


def test_an_order_about_nothing_says_so(cli: Cli, admin: SpoolAdmin) -> None:
    """There was nothing to do, which is no failure."""
    result = cli("dead", "replay", "nobody")
    assert (result.exit_code, "Nothing to replay" in result.stderr) == (0, True)


def test_an_order_that_breaks_off_says_how_far_it_came(
    cli: Cli, server: Server, admin: SpoolAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done is told, and that the same command goes on."""
    monkeypatch.setattr("gateway.operations.service.LIMIT", 1)
    for number in range(3):
        server.run(admin.buried(f"c{number}"))

    def interrupted(address: ListenAddress, body: bytes, *path: str) -> bytes:
        """Ctrl-C comes when the second letter is to be replayed."""
        if b"dry_run" not in body and b"cursor" in body:
            raise KeyboardInterrupt
        return client.tell(address, body, *path)

    with monkeypatch.context() as patched:
        patched.setattr(deliveries, "tell", interrupted)
        result = cli("dead", "replay", "--all")
    assert (result.exit_code, "Interrupted after 1 dead letter." in result.stderr) == (1, True), result.output
    assert "Replayed 2 dead letters." in cli("dead", "replay", "--all").stdout


def test_the_admin_token_comes_from_the_environment(
    cli: Cli, server: Server, admin: SpoolAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway with a token is asked with it; without any the way out is named, and the token is never shown."""
    monkeypatch.setattr(client, "local_token", lambda: None)
    address = server.serve(AdminFigures(delivery_admin=admin.delivery_admin, token="hush-hush-hush-hush").app)
    refused = cli("dead", "list", "--admin", address)
    assert (refused.exit_code, "CALLSPOOL_ADMIN_TOKEN" in refused.stderr) == (1, True)
    allowed = cli("dead", "list", "--admin", address, env={"CALLSPOOL_ADMIN_TOKEN": "hush-hush-hush-hush"})
    assert (allowed.exit_code, "hush" in allowed.output) == (0, False)


def test_a_table_of_deliveries_fits_80_columns() -> None:
    """At a narrow terminal each delivery is named by its key, and no column folds but the reason."""
    entry = DeliveryEntry(
        key="1f0c9d2e-22/detail/endpoint", record_id="1f0c9d2e-22", call_id="outbound-call-8a1b2c3d", agent_id=None,
        event="call_ended", environment=None, destination="endpoint", form="detail", lane="detail", state="dead",
        reason="HTTP 400: call log not found", attempts=3, accepted_at="", since="", age_seconds=7300.0,
        next_attempt_at="2026-11-28T20:00:00Z", bytes=13_900_000, idempotency_key="",
    )  # fmt: skip
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(dead_letters([entry]), queued([entry]))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines.count(["1f0c9d2e-22/detail/endpoint", "2", "h", "1", "min", "3", "13.9", "MB"]) == 2
    assert lines.count(["HTTP", "400:", "call", "log", "not", "found"]) == 2


@pytest.mark.parametrize(
    "command",
    [
        ("dead", "list"),
        ("dead", "list", "--json"),
        ("deliveries", "list"),
        ("dead", "replay", "--all"),
        ("dead", "discard", "--yes"),
        ("deliveries", "retry"),
    ],
)
def test_a_destination_that_does_not_exist_is_no_all_clear(
    cli: Cli, admin: SpoolAdmin, command: tuple[str, ...]
) -> None:
    """A mistyped name is an error with the nearest one, not "No dead letters."."""
    result = cli(*command, "--destination", "endpiont")
    assert result.exit_code == 2, result.output
    assert "There is no destination endpiont" in result.stderr
    assert "Did you mean endpoint?" in result.stderr


def test_what_was_said_is_shown_when_it_is_asked_for(cli: Cli, server: Server, admin: SpoolAdmin) -> None:
    """A dead letter is looked at over shoulders and pasted into tickets: its document only on demand."""
    server.run(admin.buried("a"))
    assert '"base": 1' not in cli("dead", "show", "a").stdout
    assert '"base": 1' in cli("dead", "show", "a", "--document").stdout


def test_what_is_due_says_so(cli: Cli, server: Server, admin: SpoolAdmin) -> None:
    """A time that is over is no time of a next try; one that is ahead is told."""
    server.run(admin.spool.accept(a_record("due")))
    later = server.run(admin.spool.accept(a_record("later"))).ready[0]
    ahead = datetime.now(UTC) + timedelta(days=3)
    server.run(admin.spool.settle(later, RetryAt(round(ahead.timestamp() * 1000), "HTTP 500")))
    shown = rows(cli("deliveries", "list").stdout)
    assert any("due endpoint whole" in row and " ready now" in row for row in shown)
    assert any("later endpoint whole" in row and f" ready {ahead:%Y-%m-%d}" in row for row in shown)


def test_a_replay_waits_for_its_end(cli: Cli, server: Server, admin: SpoolAdmin) -> None:
    """What has not arrived in time is said, and so is what is dead again."""
    server.run(admin.buried("a"))
    result = cli("dead", "replay", "--all", "--yes", "--wait", "300ms")
    assert result.exit_code == 1
    assert "0 arrived." in result.stdout
    assert "1 are still queued after 0.3 s." in result.stderr
