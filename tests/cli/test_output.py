"""What a command does where its output cannot be written, nobody reads it, or it has 80 columns."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from msgspec import to_builtins

from gateway.calls import LiveEntry
from gateway.cli import Exit
from gateway.operations.pipeline import CallbackEntry, CallbackList
from gateway.operations.tenants import TenantEntry, TenantList
from tests.admin.admin_app import ENDPOINT_DOWN, LOCAL_TOKEN, AdminFigures, SpoolAdmin
from tests.cli.conftest import Cli, Server, rows

NO_ROOM = "Standard output cannot be written to: No space left on device."


def run(
    *arguments: str, stdout: int, stderr: int = subprocess.PIPE, variables: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command as a process of its own; its exit code, and what it says on standard error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLSPOOL_")}
    command = [sys.executable, "-m", "gateway", *arguments]
    done = subprocess.run(
        command,
        stdout=stdout,
        stderr=stderr,
        text=True,
        env={**environment, **(variables or {})},
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("version",), f"Error: {NO_ROOM}\n"),
        (("--version",), f"Error: {NO_ROOM}\n"),
        (("--help",), f"Error: {NO_ROOM}\n"),
        (("check-config", "--help"), f"Error: {NO_ROOM}\n"),
        (("check-config", "--local"), f"Error: {NO_ROOM}\n"),
        (("version", "--json"), json.dumps({"error": {"message": NO_ROOM, "hint": ""}}) + "\n"),
    ],
    ids=" ".join,
)
def test_a_full_disk_under_the_output_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    """The command fails, says why on standard error, and shows no traceback."""
    with Path("/dev/full").open("wb") as full:
        assert run(*arguments, stdout=full.fileno()) == (Exit.FAILED, said)
        assert run(*arguments, stdout=full.fileno(), variables={"PYTHONUNBUFFERED": "1"}) == (Exit.FAILED, said)
        assert run(*arguments, stdout=full.fileno(), stderr=full.fileno()) == (Exit.FAILED, "")


@pytest.mark.parametrize("reader", ["full", "gone"])
def test_bytes_that_wait_for_the_end_of_a_command_are_written_before_it(
    server: Server, admin: SpoolAdmin, reader: str
) -> None:
    """A payload that fits into the buffer fails as a longer output does; where nobody reads, nothing is said."""
    server.run(admin.buried("a"))
    asked = {"CALLSPOOL_ADMIN_LISTEN": os.environ["CALLSPOOL_ADMIN_LISTEN"], "CALLSPOOL_ADMIN_TOKEN": LOCAL_TOKEN}
    if reader == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        end, descriptor = os.pipe()
        os.close(end)
    try:
        code, said = run("dead", "show", "a", "--payload", "-", stdout=descriptor, variables=asked)
    finally:
        os.close(descriptor)
    assert (code, said) == (Exit.FAILED, f"Error: {NO_ROOM}\n" if reader == "full" else "")


@pytest.mark.parametrize("arguments", [("version",), ("--help",), ("check-config", "--local")], ids=" ".join)
def test_nobody_who_reads_any_more_is_no_error_to_speak_of(arguments: tuple[str, ...]) -> None:
    """As with `| head`: the command ends, and says nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert run(*arguments, stdout=writing) == (Exit.FAILED, "")
    finally:
        os.close(writing)


def test_a_trouble_is_one_line_for_scripts(cli: Cli, server: Server) -> None:
    """Where no terminal limits it, however long its reason is."""
    reason = "503 Service Unavailable: " + "upstream connect error " * 20 + "end"
    world = AdminFigures(destinations=(replace(ENDPOINT_DOWN, reason=reason),))
    told = cli("status", "--check", "--admin", server.serve(world.app)).stdout.splitlines()
    assert [line for line in told if reason in line and line.endswith("#a-destination-is-down)")], told


def test_what_is_listed_fits_80_columns(cli: Cli, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of live calls, callbacks and tenants, ids, times and figures stand unbroken; the rest has lines below them."""
    monkeypatch.setattr("gateway.cli.output._PIPED_WIDTH", 80)
    call_id, at = "5b1a6f0e-93f1-4f5a-8a7c-0d3c2f4a11aa", "2026-01-01T00:00:00.000Z"
    live = LiveEntry(
        call_id=call_id, tenant="acme", agent_id="agent-067e3dbf19a56194", state="live", first_heard_at=at,
        last_heard_at=at, silent_seconds=7.4, turns=1_234, bytes=1_200_000,
    )  # fmt: skip
    shown = cli("calls", "--live", "--admin", server.serve(AdminFigures(live_calls=(live,)).app)).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert rows(shown)[1:] == [
        f"{call_id} live 7 s 1,234 1.2 MB", f"since {at}", "agent agent-067e3dbf19a56194", "tenant acme"
    ]  # fmt: skip
    callback = CallbackEntry(
        call_id, "acme", at, "America/Los_Angeles", "tomorrow at nine in the morning", "+15551234567", None,
        "cancelled", "an operator cancelled it", None, None,
    )  # fmt: skip
    agents = tuple(f"agent-{number}-067e3dbf" for number in range(3))
    tenant = TenantEntry("acme", agents, (), ("dashboard",), 2, None, 12_300_000, 480_000_000_000, 604_800, None)
    address = server.serve(answering(callbacks=CallbackList((callback,)), tenants=TenantList((tenant,), ())))
    shown = cli("callbacks", "list", "--admin", address).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert rows(shown)[1:] == [
        f"{call_id} {at} cancelled", "+15551234567, America/Los_Angeles", "tomorrow at nine in the morning",
        "an operator cancelled it",
    ]  # fmt: skip
    shown = cli("tenants", "list", "--admin", address).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert rows(shown)[1] == "acme 2 12.3 MB of 480 GB 7 d 0 h never"
    assert "destinations: dashboard" in rows(shown)


def answering(**documents: CallbackList | TenantList) -> web.Application:
    """An admin listener that has these documents, each below `/api` by its name."""
    app = web.Application()
    for name, document in documents.items():

        async def answer(_request: web.Request, said: object = to_builtins(document)) -> web.Response:
            return web.json_response(said)

        app.router.add_get(f"/api/{name}", answer)
    return app


def test_json_before_a_command_is_refused(cli: Cli) -> None:
    """`calls --json list` would list a table."""
    refused = cli("calls", "--json", "list", "--admin", "127.0.0.1:9")
    assert (refused.exit_code, "--json takes no command after it" in refused.stderr) == (Exit.USAGE, True)
