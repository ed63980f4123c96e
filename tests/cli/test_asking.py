"""Tests of the commands that ask a running gateway."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import structs

from gateway.admin.permissions import Role
from gateway.admin.view import Lifecycle, Phase
from gateway.calls import LiveEntry
from gateway.cli import Exit, client
from gateway.sdk_outbox.model import OutboxState, OutboxStatus, Outcome
from spool.errors import SpoolUnavailable
from spool.records import DeliveryState, Form
from spool.stats import SpoolStats
from tests.admin.admin_app import NOW, AdminFigures, delivery, traced, traced_delivery
from tests.cli.conftest import Cli, Server, rows
from tests.stores.calls import part_of
from tests.stores.engines import SqliteEngine
from tests.system.gateway_process import ReservedPort
from uploaders.stores.parts import PartKind


def test_status_shows_destinations_lanes_and_the_spool(cli: Cli, server: Server) -> None:
    """The table tells for each lane what the admin API tells, in numbers for people."""
    world = AdminFigures()
    world.events.attempted(delivery(Form.DETAIL), "dead", 1.0)
    result = cli("status", "--admin", server.serve(world.app))
    assert result.exit_code == 0
    assert "ready" in result.stdout
    assert "spool: 3.4 GB of 10.0 GB (34.0 %)" in result.stdout
    assert "endpoint: the detail of call call-1 became a dead letter" in result.stdout
    shown = rows(result.stdout)
    down = "endpoint down for 1 min: 503 Service Unavailable; next try in 30 s"
    assert f"{down} core 10 5.0 KB 1 min 1 / 8 1 0 100" in shown
    assert "detail 40 480 MB 2 h 1 min 0 / 2 0 2 0" in shown
    assert "local up core 0 0 B - 2 0 0 0" in shown
    assert "gone not configured core 3 6.0 KB - 0 0 0 0" in shown
    assert "2 refused for endpoint: HTTP 400: no x, token=***" in shown
    assert any(line.startswith("Fix what the response reports") for line in shown)


def test_status_has_a_line_for_each_outbox(cli: Cli, server: Server) -> None:
    """What was rescued from an outbox of the SDK is told, and why one cannot be used."""
    counts = {Outcome.RESCUED: 1200, Outcome.DUPLICATE: 2, Outcome.SUPERSEDED: 1, Outcome.REFUSED: 4}
    world = AdminFigures(
        outboxes=(
            OutboxStatus("/tmp/a.db", OutboxState.WATCHED, "", 5, counts),
            OutboxStatus("/tmp/b.db", OutboxState.UNUSABLE, "it is damaged", 0),
        )
    )
    shown = rows(cli("status", "--admin", server.serve(world.app)).stdout)
    assert "outbox /tmp/a.db: watched 1,200 rescued, 3 known already, 4 refused; 5 in it" in shown
    assert "outbox /tmp/b.db: unusable 0 rescued, 0 known already it is damaged" in shown


def test_status_says_what_is_wrong(cli: Cli, server: Server) -> None:
    """A gateway that is not ready says why, and a lost delivery cannot be overlooked."""
    full = AdminFigures(stats=SpoolStats(10**10, 10**10, {}, {}, unaccounted=2, failure=None), destinations=())
    result = cli("status", "--admin", server.serve(full.app))
    assert "not ready (running)  the spool is full: 10.0 GB of 10.0 GB" in result.stdout
    assert "2 deliveries are unaccounted for" in result.stdout
    assert "no destinations" in result.stdout
    starting = AdminFigures(stats=None, lifecycle=Lifecycle(Phase.STARTING))
    assert "spool: not open" in cli("status", "--admin", server.serve(starting.app)).stdout


def test_status_fails_while_posts_cannot_be_accepted(cli: Cli, server: Server) -> None:
    """A script sees by the exit code that a gateway accepts nothing, in every way of asking."""
    full = server.serve(AdminFigures(stats=SpoolStats(10**10, 10**10, {}, {}, 0, None), destinations=()).app)
    for how in ((), ("--json",), ("--check",)):
        assert cli("status", *how, "--admin", full).exit_code == 1


def test_a_check_is_for_scripts(cli: Cli, server: Server) -> None:
    """A line for each thing that needs attention and exit code 5, or `ok` and 0."""
    troubled = cli("status", "--check", "--admin", server.serve(AdminFigures().app))
    assert troubled.exit_code == 5
    assert "endpoint: down: 503 Service Unavailable" in troubled.stdout
    assert "endpoint: 2 dead letters" in troubled.stdout
    assert "outbox /tmp/outbox.db: damaged" in troubled.stdout
    calm = AdminFigures(destinations=(), outboxes=(), stats=SpoolStats(10, 10**10, {}, {}, 0, None))
    result = cli("status", "--check", "--admin", server.serve(calm.app))
    assert (result.exit_code, result.stdout) == (0, "ok\n")


def test_health_is_for_probes(cli: Cli, server: Server) -> None:
    """A process that answers lives; it is ready where posts can be accepted, and says why not."""
    full = server.serve(AdminFigures(stats=SpoolStats(10**10, 10**10, {}, {}, 0, None), destinations=()).app)
    assert cli("health", "--admin", full).stdout == "ok\n"
    unready = cli("health", "--ready", "--admin", full)
    assert (unready.exit_code, "the spool is full" in unready.stderr) == (Exit.FAILED, True)
    calm = server.serve(AdminFigures().app)
    assert json.loads(cli("health", "--ready", "--json", "--admin", calm).stdout) == {"status": "ready"}
    assert cli("health", "--admin", "127.0.0.1:9").exit_code == Exit.NO_GATEWAY


def test_health_waits_for_a_gateway_that_starts(cli: Cli, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script starts a gateway in the background, and goes on when it is ready; where it never is, it says so."""
    port = ReservedPort()
    waits: list[float] = []

    def start_the_second_time(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            server.serve(AdminFigures().app, port.number)

    monkeypatch.setattr("gateway.cli.status.time.sleep", start_the_second_time)
    ready = cli("health", "--ready", "--wait", "30s", "--admin", f"127.0.0.1:{port.number}")
    assert (ready.exit_code, ready.stdout, len(waits)) == (0, "ready\n", 2)
    port.close()
    monkeypatch.undo()
    never = cli("health", "--wait", "0.01s", "--admin", "127.0.0.1:9")
    assert (never.exit_code, "--admin (HOST:PORT, unix:PATH or" in never.stderr) == (Exit.NO_GATEWAY, True)


def test_status_as_json_is_the_answer_of_the_api(cli: Cli, server: Server) -> None:
    """--json is for scripts: what the API says, as it says it; the address may come from the environment."""
    address = server.serve(AdminFigures().app)
    result = cli("status", "--json", env={"CALLSPOOL_ADMIN_LISTEN": address})
    assert json.loads(result.stdout)["destinations"][0]["name"] == "endpoint"


def test_watching_goes_on_until_it_is_interrupted(server: Server) -> None:
    """--watch asks again and again, and ends with Ctrl-C as with success."""
    world = AdminFigures()
    asked = 0

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked == 3:
            process.send_signal(signal.SIGINT)
        return await handler(request)

    world.app.middlewares.append(count)
    command = [sys.executable, "-m", "gateway", "status", "--watch", "--interval", "0.1", "--admin"]
    address = server.serve(world.app)
    # A shell lets what it runs in the background ignore Ctrl-C, and so its children.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen([*command, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, heard)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert asked >= 3
    assert b"endpoint" in out


def test_json_and_watch_exclude_each_other(cli: Cli) -> None:
    """What makes no sense together is refused as wrong usage."""
    result = cli("status", "--json", "--watch")
    assert (result.exit_code, "cannot be combined" in result.stderr) == (2, True)


def test_show_tells_what_came_of_a_call(cli: Cli, server: Server) -> None:
    """Accepted, core sent, detail sent, where it is now, and each delivery with its reason."""
    record = traced(
        traced_delivery(Form.CORE, DeliveryState.DELIVERED, settled_at=NOW),
        traced_delivery(Form.DETAIL, DeliveryState.READY, error="503 [red]busy"),
    )
    result = cli("show", "call 1/ü", "--admin", server.serve(AdminFigures(calls={"call 1/ü": (record,)}).app))
    assert result.exit_code == 0
    shown = rows(result.stdout)
    assert "accepted 2025-12-31T23:59:55.000Z" in shown
    assert "core sent 2026-01-01T00:00:00.000Z" in shown
    assert "detail sent not yet" in shown
    assert "now in the spool: detail to endpoint (503 [red]busy) to be sent" in shown
    assert "endpoint detail ready 3 now - 503 [red]busy" in shown


def test_show_tells_of_a_record_without_deliveries(cli: Cli, server: Server) -> None:
    """A superseded record is shown with the reason why it was not sent."""
    result = cli("show", "c", "--admin", server.serve(AdminFigures(calls={"c": (traced(superseded=True),)}).app))
    assert "a later event of the call was accepted before it" in result.stdout


def test_what_is_shown_cannot_rewrite_the_terminal(cli: Cli, server: Server) -> None:
    """Control characters in what endpoints or agents say are not passed on to a terminal."""
    record = traced(traced_delivery(Form.CORE, DeliveryState.DEAD, error="\x1b[2Jgone\r\n"))
    result = cli("show", "c", "--admin", server.serve(AdminFigures(calls={"c": (record,)}).app))
    assert "\x1b" not in result.stdout
    assert "?[2Jgone??" in result.stdout


def test_show_as_json_is_the_answer_of_the_api(cli: Cli, server: Server) -> None:
    """--json is for scripts: what the API says, as it says it."""
    record = traced(traced_delivery(Form.WHOLE, DeliveryState.READY))
    result = cli("show", "c", "--json", "--admin", server.serve(AdminFigures(calls={"c": (record,)}).app))
    assert json.loads(result.stdout)["records"][0]["stage"] == "queued"


def test_an_unknown_call_has_an_exit_code_of_its_own(cli: Cli, server: Server) -> None:
    """Scripts can tell an unknown call from a failure."""
    result = cli("show", "nobody", "--admin", server.serve(AdminFigures().app))
    assert (result.exit_code, result.stdout) == (4, "")
    assert "knows no call of this id" in result.stderr


@pytest.mark.parametrize("command", [("show",), ("calls", "show"), ("calls", "search"), ("dead", "list")], ids=" ".join)
def test_what_is_no_text_is_wrong_usage(cli: Cli, server: Server, command: tuple[str, ...]) -> None:
    """Bytes that are not UTF-8 on a command line cannot be asked for."""
    result = cli(*command, "call-\udcff", "--admin", server.serve(AdminFigures().app))
    assert (result.exit_code, "not UTF-8" in result.stderr) == (Exit.USAGE, True), result.output


def test_a_mistyped_call_is_answered_with_the_nearest(cli: Cli, server: Server) -> None:
    """Who typed part of an id, or mistyped it, is told what there is."""
    calls = {"call-1234": (traced(traced_delivery(Form.WHOLE, DeliveryState.READY)),)}
    result = cli("show", "call-1235", "--admin", server.serve(AdminFigures(calls=calls).app))
    assert (result.exit_code, "Did you mean call-1234?" in result.stderr) == (Exit.UNKNOWN_CALL, True)


def test_a_spool_that_cannot_be_read_is_a_failure(cli: Cli, server: Server) -> None:
    """An error of the gateway is told in its own words."""
    result = cli("show", "c", "--admin", server.serve(AdminFigures(trace_error=SpoolUnavailable("it is closing")).app))
    assert (result.exit_code, "it is closing" in result.stderr) == (1, True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("command", [("status",), ("status", "--watch"), ("show", "c")])
def test_where_no_gateway_answers_the_way_out_is_named(cli: Cli, command: tuple[str, ...]) -> None:
    """One sentence says that nothing answers and where, another what to do."""
    address = f"127.0.0.1:{free_port()}"
    result = cli(*command, "--admin", address)
    assert (result.exit_code, result.stdout.strip()) == (3, "")
    assert f"No gateway answers at {address}: Connection refused." in result.stderr
    assert "callspool run" in result.stderr


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, "<html>", "is not a callspool gateway (HTTP 404)"),
        (500, '{"error": "x"}', "is not a callspool gateway (HTTP 500)"),
        (200, "{}", "runs another version"),
    ],
)
def test_something_else_at_the_address_is_not_taken_for_a_gateway(
    cli: Cli, server: Server, status: int, body: str, said: str
) -> None:
    """Another server at the admin address is recognised as such."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    result = cli("status", "--admin", server.serve(app))
    assert (result.exit_code, said in result.stderr) == (3, True)


def test_a_gateway_that_listens_everywhere_is_asked_on_this_machine(cli: Cli, server: Server) -> None:
    """0.0.0.0 is an address to listen at; asking goes to loopback."""
    port = server.serve(AdminFigures().app).partition(":")[2]
    assert cli("status", "--admin", f"0.0.0.0:{port}").exit_code == 0


def test_a_wrong_admin_address_is_wrong_usage(cli: Cli) -> None:
    """An address that is none is refused with an example of one."""
    result = cli("status", "--admin", "nowhere")
    assert (result.exit_code, "HOST:PORT" in result.stderr) == (2, True)


def test_the_installed_command_prints_its_version() -> None:
    """The console script is installed and works as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLSPOOL_")}
    script = os.path.join(os.path.dirname(sys.executable), "callspool")  # noqa: PTH118,PTH120  # beside this python
    done = subprocess.run([script, "version"], capture_output=True, timeout=60, check=True, env=environment)
    assert done.stdout.startswith(b"callspool 0.")
    assert done.stderr == b""


def test_the_token_may_lie_in_a_file(cli: Cli, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of several is presented; a file that cannot be read ends the command before anything is asked."""
    monkeypatch.setattr(client, "local_token", lambda: None)
    address = server.serve(AdminFigures(tokens={Role.READ: ("the-read-token-of-them",)}).app)
    file = tmp_path / "token"
    file.write_text("# for dashboards\nthe-read-token-of-them\nanother-token-of-them\n")
    asked = {"CALLSPOOL_ADMIN_LISTEN": address}
    assert cli("show", "c", env=asked).exit_code == Exit.FAILED
    assert cli("show", "c", env={**asked, "CALLSPOOL_ADMIN_TOKEN_FILE": str(file)}).exit_code == Exit.UNKNOWN_CALL
    file.unlink()
    refused = cli("show", "c", env={**asked, "CALLSPOOL_ADMIN_TOKEN_FILE": str(file)})
    assert (refused.exit_code, "cannot be read: No such file" in refused.stderr) == (Exit.USAGE, True)


def test_a_call_is_shown_with_whatever_was_said(cli: Cli, server: Server, tmp_path: Path) -> None:
    """A document with lone surrogates, which strict JSON refuses, is shown as far as a terminal can show it."""
    engine = SqliteEngine(tmp_path)

    async def fill() -> None:
        filled = engine.store()
        await filled.write([part_of(PartKind.CALL, "c1", document=rb'{"call_id":"c1","said":"a\ud800b"}')])
        await filled.close()

    asyncio.run(fill())
    address = server.serve(AdminFigures(call_store=engine.store()).app)
    result = cli("calls", "show", "c1", "--admin", address)
    assert (result.exit_code, r'"said":"a\ufffdb"' in result.stdout) == (0, True)


def test_calls_fit_80_columns(cli: Cli, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Id, time and number of a call stand unbroken; its documents, each on one line, can be copied."""
    monkeypatch.setattr("gateway.cli.output._PIPED_WIDTH", 80)
    call_id = "5b1a6f0e-93f1-4f5a-8a7c-0d3c2f4a11aa"
    document = json.dumps({
        "call_id": call_id, "agent_id": "agent-067e3dbf19a56194", "customer_number": "+1555923705",
        "call_started_at": 1_795_300_000, "said": "one two three " * 20, "summary_metrics": {"total_turns": 1_234},
    })  # fmt: skip
    engine = SqliteEngine(tmp_path)

    async def fill() -> None:
        filled = engine.store()
        await filled.write([part_of(PartKind.CALL, call_id, document=document.encode())])
        await filled.close()

    asyncio.run(fill())
    address = server.serve(AdminFigures(call_store=engine.store()).app)
    listed = cli("calls", "list", "--admin", address).stdout
    assert max(map(len, listed.splitlines())) <= 80
    assert f"{call_id} complete 2026-11-21T22:26:40.000Z" in rows(listed)
    assert "1234 turns agent agent-067e3dbf19a56194, number +1555923705" in " ".join(listed.split())
    shown = cli("calls", "show", call_id, "--admin", address).stdout
    assert document in shown.splitlines()
    assert "summary turns: 1,234" in rows(shown)


@pytest.mark.parametrize("with_store", [False, True])
def test_a_call_that_no_store_has_is_shown_by_its_records(
    cli: Cli, server: Server, tmp_path: Path, with_store: bool
) -> None:
    """Of a sidecar without a store, and of a receiver whose database does not have it yet: where it is now."""
    store = SqliteEngine(tmp_path).store() if with_store else None
    record = traced(traced_delivery(Form.WHOLE, DeliveryState.READY))
    address = server.serve(AdminFigures(calls={"c": (record,)}, call_store=store).app)
    result = cli("calls", "show", "c", "--admin", address)
    assert (result.exit_code, "No store has this call" in result.stdout) == (0, True), result.output
    assert "in the spool: whole to endpoint" in " ".join(result.stdout.split())


def test_calls_that_go_on_are_listed(cli: Cli, server: Server) -> None:
    """Live and lost ones, for people and for programs; the option stands alone."""
    entry = LiveEntry(
        call_id="call-1", tenant="acme", agent_id=None, state="live", first_heard_at="2026-01-01T00:00:00.000Z",
        last_heard_at="2026-01-01T00:00:09.000Z", silent_seconds=7.4, turns=3, bytes=120,
    )  # fmt: skip
    lost = structs.replace(entry, call_id="call-2", state="lost", silent_seconds=None)
    admin = server.serve(AdminFigures(live_calls=(lost, entry)).app)
    shown = rows(cli("calls", "--live", "--admin", admin).stdout)
    assert "call-2 lost 2026-01-01T00:00:00.000Z - 3 120 B - acme" in shown
    assert "call-1 live 2026-01-01T00:00:00.000Z 7 s 3 120 B - acme" in shown
    found = json.loads(cli("calls", "--live", "--json", "--admin", admin).stdout)
    assert found == [structs.asdict(lost), structs.asdict(entry)]
    nobody = server.serve(AdminFigures().app)
    assert "No calls in progress." in cli("calls", "--live", "--admin", nobody).stdout
    for wrong in (["calls", "--admin", admin], ["calls", "--admin", admin, "--live", "list"]):
        assert cli(*wrong).exit_code == Exit.USAGE
