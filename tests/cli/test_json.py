"""What all commands have in common: --json, errors included, and the configuration that names the gateway."""

import json
from pathlib import Path

import pytest
from aiohttp import web

from gateway.cli import Exit, main
from tests.admin.admin_app import AdminFigures
from tests.cli.conftest import Cli, Server
from tests.project.surface import commands, options


def test_every_command_prints_json() -> None:
    """A script can ask any command for JSON."""
    assert [command for command in commands(main) if "--json" not in options(main, command)] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("status", "--json", "--admin", "127.0.0.1:9"), Exit.NO_GATEWAY, "No gateway answers at 127.0.0.1:9"),
        (("dead", "lits", "--json"), Exit.USAGE, "Did you mean 'list'?"),
        (("dead", "list", "--destnation", "x", "--json"), Exit.USAGE, "--destination"),
        (("dead", "discard", "--json"), Exit.USAGE, "Nothing selected"),
        (("post", "/nonexistent.json", "--json"), Exit.FAILED, "cannot be read"),
        (("fsck", "/nonexistent", "--json"), Exit.USAGE, "/nonexistent"),
    ],
)
def test_an_error_is_json_too(cli: Cli, arguments: tuple[str, ...], code: int, said: str) -> None:
    """With --json, an error is one line of JSON on standard error, and standard output stays empty."""
    result = cli(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    error = json.loads(result.stderr)["error"]
    assert said in error["message"]
    assert error.get("runbook") == ("docs/runbooks.md#it-does-not-start" if code is Exit.NO_GATEWAY else None)


def test_an_unknown_command_is_answered_with_the_nearest(cli: Cli) -> None:
    """A mistyped command is told from the one that was meant."""
    result = cli("statsu")
    assert (result.exit_code, "Did you mean" in result.stderr, "'status'" in result.stderr) == (Exit.USAGE, True, True)


@pytest.mark.parametrize("named", ["option", "variable"])
def test_the_configuration_says_where_the_gateway_listens(cli: Cli, server: Server, tmp_path: Path, named: str) -> None:
    """A file that --config or CALLSPOOL_CONFIG names is where a command looks for the address of the gateway."""
    file = tmp_path / "callspool.toml"
    file.write_text(f'[admin]\nlisten = "{server.serve(AdminFigures().app)}"\n')
    option = ("--config", str(file)) if named == "option" else ()
    asked = cli("status", "--json", *option, env={} if option else {"CALLSPOOL_CONFIG": str(file)})
    assert json.loads(asked.stdout)["destinations"][0]["name"] == "endpoint"


def test_a_variable_overrules_the_file(cli: Cli, server: Server, tmp_path: Path) -> None:
    """As for the gateway itself, CALLSPOOL_ADMIN_LISTEN wins over the file."""
    file = tmp_path / "callspool.toml"
    file.write_text('[admin]\nlisten = "127.0.0.1:9"\n')
    address = server.serve(AdminFigures().app)
    environment = {"CALLSPOOL_CONFIG": str(file), "CALLSPOOL_ADMIN_LISTEN": address}
    assert cli("status", env=environment).exit_code == Exit.OK


def test_a_file_that_is_wrong_is_named_and_not_used(cli: Cli, tmp_path: Path) -> None:
    """A command that asks a running gateway says that it does not use the file, and asks where it would without."""
    file = tmp_path / "callspool.toml"
    file.write_text("[admin]\nlistne = 1\n")
    result = cli("status", "--config", str(file), "--admin", "127.0.0.1:9")
    assert result.exit_code == Exit.NO_GATEWAY
    assert str(file) in result.stderr


def test_the_token_of_the_intake_may_be_in_the_file(cli: Cli, server: Server, tmp_path: Path) -> None:
    """`post` presents the token that the configuration gives the intake."""
    presented: list[str | None] = []
    address = server.serve(intake_that_notes(presented))
    file = tmp_path / "callspool.toml"
    file.write_text(f'[intake]\nlisten = "{address}"\ntoken = "the-token-of-the-intake"\n')
    (tmp_path / "call.json").write_text('{"call_id": "c"}')
    assert cli("post", str(tmp_path / "call.json"), "--config", str(file)).exit_code == Exit.OK
    assert presented == ["Bearer the-token-of-the-intake"]


def intake_that_notes(presented: list[str | None]) -> web.Application:
    """An intake that accepts everything, and keeps what tokens came."""

    async def accept(request: web.Request) -> web.Response:
        presented.append(request.headers.get("Authorization"))
        return web.json_response({"success": True, "call_id": "c", "record_id": "r"}, status=202)

    app = web.Application()
    app.router.add_post("/v1/calls", accept)
    return app
