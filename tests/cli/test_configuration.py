"""Tests of the commands that read the configuration."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
import trustme
from click.testing import Result

from bench.endpoint import Endpoint, Fault
from config.loader import Loaded
from config.settings import Settings
from gateway.cli import EPILOG, Exit, main
from gateway.runtime import lifecycle
from tests.cli.conftest import Cli, Server
from tests.spool.spool_parts import opened

PROGRAM = Path(sys.executable).with_name("callspool")
CONTEXT = click.Context(main)
URL = {"CALLSPOOL_ENDPOINT_URL": "https://host/dev/send-call-log?code=hush"}


pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Stands in for the life of the gateway: notes what would be served, and ends at once with exit code 7."""
    served: list[Settings] = []

    def serve(loaded: Loaded, reread: Callable[[], Loaded]) -> int:
        assert reread() == loaded, "a reload reads what the start has read"
        served.append(loaded.settings)
        return 7

    monkeypatch.setattr(lifecycle, "serve", serve)
    return served


def test_check_config_shows_every_setting_its_value_and_its_origin(cli: Cli, tmp_path: Path) -> None:
    """What is in effect is listed with where it comes from; secrets are masked."""
    file = tmp_path / "c.toml"
    file.write_text('[spool]\nmax_bytes = "1 GB"\n')
    result = cli("check-config", "--config", str(file), "--local", env={**URL, "CALLSPOOL_INTAKE_TOKEN": "hush"})
    assert result.exit_code == 0
    shown = [line.split() for line in result.stdout.splitlines()]
    assert ["spool.max_bytes", "1GB", str(file)] in shown
    assert ["intake.token", "***", "CALLSPOOL_INTAKE_TOKEN"] in shown
    assert ["log.level", "info", "default"] in shown
    assert ["destinations[local].path", "./callspool-data/delivered", "--local"] in shown
    assert "hush" not in result.output
    assert "warning: destinations[endpoint].url seems to carry a secret" in result.stderr


@pytest.mark.parametrize("command", ["check-config", "run"])
def test_a_wrong_configuration_is_told_in_full(cli: Cli, served: list[Settings], command: str) -> None:
    """Every problem is on standard error, the exit code is 2, and nothing is started."""
    result = cli(command, env={"CALLSPOOL_LOG_LEVEL": "loud", "CALLSPOOL_INTAKE_LISTN": "x"})
    assert (result.exit_code, result.stdout, served) == (2, "", [])
    assert "invalid: 3 errors" in result.stderr
    for key in ("log.level", "CALLSPOOL_INTAKE_LISTN", "destinations"):
        assert f"  {key}" in result.stderr


def test_without_a_destination_nothing_starts_and_the_way_out_is_named(cli: Cli, served: list[Settings]) -> None:
    """A gateway that delivers nowhere is refused, with what to set."""
    result = cli("run")
    assert (result.exit_code, served) == (2, [])
    assert "invalid: 1 error" in result.stderr
    assert "CALLSPOOL_ENDPOINT_URL" in result.stderr


def test_run_serves_the_settings_and_passes_on_the_exit_code(cli: Cli, served: list[Settings]) -> None:
    """The service gets the checked settings; warnings are logged; its exit code is the command's."""
    result = cli("run", "--local", env={**URL, "CALLSPOOL_LOG_FORMAT": "json"})
    assert result.exit_code == 7
    (settings,) = served
    assert settings.admin.listen.port == 7718
    (warning,) = [json.loads(line) for line in result.stderr.splitlines()]
    assert (warning["event"], warning["level"]) == ("configuration", "warning")
    assert "hush" not in result.stderr


def probed(cli: Cli, server: Server, endpoint: Endpoint, *arguments: str, token: str | None = None) -> Result:
    server.run(endpoint.start())
    try:
        environment = {"CALLSPOOL_ENDPOINT_URL": endpoint.url}
        return cli("check-config", "--probe", *arguments, env=environment, stdin=token)
    finally:
        server.run(endpoint.stop())


def test_a_probe_finds_an_endpoint_that_knows_phase_2(cli: Cli, server: Server) -> None:
    """A pair of marked test records goes out, core then detail, and the endpoint's knowledge is told."""
    endpoint = Endpoint()
    result = probed(cli, server, endpoint, "--probe-agent-id", "agent-7")
    assert result.exit_code == 0
    assert "endpoint takes cores, and knows Phase 2 (test call callspool-probe-" in result.stdout
    core, detail, stray = endpoint.arrivals
    assert [core.kind, detail.kind, stray.status] == ["core", "detail", 404]
    assert core.call_id == detail.call_id != stray.call_id
    document = endpoint.call_logs[0]
    assert (document["agent_id"], document["metadata"]) == ("agent-7", {"callspool_probe": True})


def test_a_probe_carries_the_mark_of_the_spool(
    cli: Cli, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that is its own endpoint, or behind it, recognises its mark, beside a running one and without."""

    async def made() -> str:
        async with opened(tmp_path / "spool") as spool:
            return spool.id

    monkeypatch.setenv("CALLSPOOL_SPOOL_DIR", str(tmp_path / "spool"))
    endpoint = Endpoint()
    probed(cli, server, endpoint)
    assert {headers.get("Via") for headers in endpoint.headers} == {None}
    mark = f"1.1 callspool-{server.run(made())}"
    endpoint = Endpoint(fault=Fault("status", 508, "loop"))
    result = probed(cli, server, endpoint)
    assert (result.exit_code, {headers["Via"] for headers in endpoint.headers}) == (1, {mark})
    assert "a loop" in result.output


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (Fault("status", 404, '{"error": "Call log not found"}', only="detail"), 0, "knows Phase 2"),
        (Fault("status", 200, "{}", only="detail"), 0, "takes the detail of a call that does not exist, too"),
        (Fault("status", 400, "what?", only="detail"), 1, "does not know Phase 2: HTTP 400: what?"),
        (Fault("status", 401, "who?"), 1, "did not take the core: HTTP 401: who?"),
        (Fault("redirect"), 1, "did not take the core: HTTP 302 redirects"),
    ],
)
def test_a_probe_tells_what_an_endpoint_does(cli: Cli, server: Server, fault: Fault, code: int, said: str) -> None:
    """Each way in which an endpoint can answer has its own sentence; the exit code is whether records arrive."""
    result = probed(cli, server, Endpoint(fault=fault))
    assert (result.exit_code, said in result.output) == (code, True), result.output


def test_a_probe_can_be_given_the_token_that_agents_bring(cli: Cli, server: Server) -> None:
    """Where the agents' tokens are forwarded, the probe takes one from a file and never from the command line."""
    endpoint = Endpoint(token="agents-own")
    result = probed(cli, server, endpoint, "--probe-token", "-", token="agents-own\n")
    assert result.exit_code == 0
    assert {arrival.token for arrival in endpoint.arrivals} == {"agents-own"}
    assert "agents-own" not in result.output


def test_a_probe_uses_the_destinations_own_token(cli: Cli, server: Server, tmp_path: Path) -> None:
    """A token that replaces the agents' is what the probe sends."""
    endpoint = Endpoint(token="ours")
    server.run(endpoint.start())
    file = tmp_path / "c.toml"
    file.write_text(f'[[destinations]]\nname="a"\ntype="http"\nurl="{endpoint.url}"\ntoken="ours"\n')
    try:
        result = cli("check-config", "--probe", "--config", str(file))
    finally:
        server.run(endpoint.stop())
    assert (result.exit_code, len(endpoint.accepted)) == (0, 2)


def test_a_probe_with_unusable_certificates_says_so(cli: Cli, tmp_path: Path) -> None:
    """A file that holds no certificates is named."""
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    file = tmp_path / "c.toml"
    file.write_text(f'[[destinations]]\nname="a"\ntype="http"\nurl="https://127.0.0.1:9/"\nca_file="{broken}"\n')
    result = cli("check-config", "--probe", "--config", str(file))
    assert (result.exit_code, f"{broken} cannot be used" in result.stderr) == (1, True)


def test_without_http_destinations_there_is_nothing_to_probe(cli: Cli, tmp_path: Path) -> None:
    """Asking to probe nothing is said, and no failure."""
    file = tmp_path / "c.toml"
    file.write_text(f'[[destinations]]\nname="a"\ntype="file"\npath="{tmp_path}"\n')
    result = cli("check-config", "--probe", "--config", str(file))
    assert (result.exit_code, "no HTTP or Kafka destination" in result.stderr) == (0, True)


def test_every_exit_code_is_documented_in_the_help(cli: Cli) -> None:
    """The help names each exit code."""
    assert all(f"{code.value} " in EPILOG for code in Exit)
    assert "3 no gateway answers" in " ".join(cli("--help").stdout.split())


@pytest.mark.parametrize("command", main.list_commands(CONTEXT))
def test_every_command_and_option_says_what_it_is_for(cli: Cli, command: str) -> None:
    """No command and no option is without a sentence of help."""
    found = main.get_command(CONTEXT, command)
    assert found is not None
    assert found.help
    for parameter in found.params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter.name
    assert cli(command, "--help").exit_code == 0


@pytest.mark.parametrize("command", ["check-config", "run"])
def test_a_destination_that_is_the_own_intake_is_told_before_the_start(
    cli: Cli, served: list[Settings], command: str
) -> None:
    """One environment for agent and gateway makes a loop, which nobody has to find out by a queue that grows."""
    result = cli(command, env={"CALLSPOOL_ENDPOINT_URL": "http://localhost:7717/send-call-log"})
    assert "destinations[endpoint].url is this gateway's own intake (127.0.0.1:7717)" in result.stderr


ENCODINGS, DIRECTORIES = ("ascii", "latin-1", "utf-8"), ("/tmp/日本", "/tmp/\udcff", "/tmp/ü")


@pytest.mark.parametrize(
    ("encoding", "directory"),
    [
        pytest.param(encoding, directory, marks=() if at == number else pytest.mark.prove)
        for number, encoding in enumerate(ENCODINGS)
        for at, directory in enumerate(DIRECTORIES)
    ],
)
def test_no_encoding_ends_a_command(encoding: str, directory: str) -> None:
    """What a terminal cannot show is escaped; the command says everything else, and succeeds."""
    ended = subprocess.run(
        [PROGRAM, "check-config", "--local"],
        env={"PYTHONIOENCODING": encoding, "CALLSPOOL_SPOOL_DIR": directory},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"spool.dir" in ended.stdout
    assert b"/tmp/" in ended.stdout


def test_a_store_is_probed(cli: Cli, tmp_path: Path) -> None:
    """One that can be opened can be written to; one that is something else's database is refused."""
    (tmp_path / "other.db").write_bytes(b"no database at all, " * 100)
    for name, code, word in (("calls.db", 0, "can be written to"), ("other.db", 1, "no SQLite database")):
        env = {"CALLSPOOL_DATABASE_URL": f"sqlite:///{tmp_path / name}"}
        result = cli("check-config", "--probe", env=env)
        assert (result.exit_code, word in result.output) == (code, True)


@pytest.mark.parametrize(
    ("named", "about"),
    [
        (("CALLSPOOL_ADMIN_TLS_CERT_FILE", "CALLSPOOL_ADMIN_TLS_KEY_FILE"), "admin"),
        (("CALLSPOOL_KAFKA_CERTIFICATE_FILE", "CALLSPOOL_KAFKA_KEY_FILE"), "destinations[kafka]"),
    ],
)
def test_check_config_says_what_is_wrong_with_a_certificate(
    cli: Cli, tmp_path: Path, named: tuple[str, str], about: str
) -> None:
    """A key that belongs to another certificate is an error, as the exit code says; one that ends soon a warning. So
    with the gateway's own, and with the one that it shows to Kafka."""
    files = [tmp_path / "cert.pem", tmp_path / "key.pem"]
    authority, soon = trustme.CA(), datetime.now(UTC) + timedelta(days=3)
    first, second = (authority.issue_cert("h.example", not_after=soon) for _ in range(2))
    files[0].write_bytes(first.cert_chain_pems[0].bytes())
    files[1].write_bytes(second.private_key_pem.bytes())
    files[1].chmod(0o600)
    environment = dict(zip(named, map(str, files), strict=True))
    if about != "admin":
        environment |= {"CALLSPOOL_KAFKA_BROKERS": "127.0.0.1:1", "CALLSPOOL_KAFKA_TLS": "true"}
    wrong = cli("check-config", "--local", env=environment)
    assert (wrong.exit_code, f"error: {about}: the key in" in wrong.stderr) == (Exit.FAILED, True), wrong.output
    assert "does not belong to the certificate" in wrong.stderr
    files[1].write_bytes(first.private_key_pem.bytes())
    right = cli("check-config", "--local", env=environment)
    assert (right.exit_code, f"warning: {about}: the certificate in" in right.stderr) == (0, True), right.output
