"""Tests of what a file, variables and options make together."""

from pathlib import Path

import pytest

from config.destinations import FileDestination, HttpDestination, SqliteDestination, TokenMode
from config.loader import load
from tests.config.conftest import WriteFile, problems

ENDPOINT = {"CALLSPOOL_ENDPOINT_URL": "https://host/dev/send-call-log"}


def test_a_variable_wins_over_the_file_and_the_file_over_the_default(write_file: WriteFile) -> None:
    """Defaults, then the file, then the environment: the later wins, and each value's origin is known."""
    file = write_file('[intake]\nbatch_max_lines = 5\nmemory_wait = "1s"\n')
    loaded = load(file, {**ENDPOINT, "CALLSPOOL_INTAKE_BATCH_MAX_LINES": "7"})
    assert loaded.settings.intake.batch_max_lines == 7
    assert loaded.settings.intake.memory_wait == 1.0
    assert loaded.settings.intake.inline_max == 16 * 1024**2
    assert loaded.origins["intake", "batch_max_lines"] == "CALLSPOOL_INTAKE_BATCH_MAX_LINES"
    assert loaded.origins["intake", "memory_wait"] == str(file)
    assert ("intake", "inline_max") not in loaded.origins


def test_the_file_can_be_named_by_a_variable(write_file: WriteFile) -> None:
    """CALLSPOOL_CONFIG stands for --config; the option wins."""
    file = write_file('[log]\nlevel = "debug"\n')
    assert load(None, {**ENDPOINT, "CALLSPOOL_CONFIG": str(file)}).settings.log.level == "debug"
    other = file.with_name("other.toml")
    other.write_text('[log]\nlevel = "error"\n')
    assert load(other, {**ENDPOINT, "CALLSPOOL_CONFIG": str(file)}).settings.log.level == "error"


def test_an_image_has_defaults_of_its_own(write_file: WriteFile) -> None:
    """What CALLSPOOL_DEFAULTS names replaces defaults alone: the file and the variables win over it."""
    defaults = write_file('[spool]\ndir = "/var/lib/callspool"\n[log]\nlevel = "debug"\nformat = "json"\n')
    mounted = defaults.with_name("mounted.toml")
    mounted.write_text('[spool]\ndir = "/mounted"\n[log]\nlevel = "error"\n')
    named = {**ENDPOINT, "CALLSPOOL_DEFAULTS": str(defaults)}
    assert load(None, named).settings.spool.dir == Path("/var/lib/callspool")
    loaded = load(mounted, {**named, "CALLSPOOL_LOG_LEVEL": "warning"})
    assert loaded.settings.spool.dir == Path("/mounted")
    assert (loaded.settings.log.level, loaded.settings.log.format) == ("warning", "json")
    assert loaded.origins["log", "format"] == str(defaults)


def test_an_endpoint_variable_alone_is_a_destination() -> None:
    """No file is needed: one URL makes a destination that is sent the agent's own token."""
    (destination,) = load(None, ENDPOINT).settings.destinations
    assert isinstance(destination, HttpDestination)
    assert (destination.name, destination.url) == ("endpoint", ENDPOINT["CALLSPOOL_ENDPOINT_URL"])
    assert destination.token_mode is TokenMode.FORWARD


def test_an_endpoint_token_replaces_the_agents() -> None:
    """CALLSPOOL_ENDPOINT_TOKEN is what the endpoint is sent."""
    (destination,) = load(None, {**ENDPOINT, "CALLSPOOL_ENDPOINT_TOKEN": "t0ken"}).settings.destinations
    assert isinstance(destination, HttpDestination)
    assert destination.token is not None
    assert destination.token.get_secret_value() == "t0ken"
    assert destination.token_mode is TokenMode.REPLACE


def test_the_endpoint_variables_add_to_a_destination_of_that_name(write_file: WriteFile) -> None:
    """A destination called endpoint in the file keeps its other settings and takes the variables' values."""
    file = write_file(
        '[[destinations]]\nname = "other"\ntype = "file"\npath = "x"\n'
        '[[destinations]]\nname = "endpoint"\ntype = "http"\nurl = "https://old/"\nlarge = "whole"\n'
    )
    loaded = load(file, ENDPOINT)
    _, destination = loaded.settings.destinations
    assert isinstance(destination, HttpDestination)
    assert (destination.url, destination.large) == (ENDPOINT["CALLSPOOL_ENDPOINT_URL"], "whole")
    assert loaded.origins["destinations", 1, "url"] == "CALLSPOOL_ENDPOINT_URL"
    assert loaded.origins["destinations", 1, "large"] == str(file)


def test_local_adds_a_folder_and_a_store() -> None:
    """--local delivers into ./callspool-data, with or without other destinations; a store that is there suffices."""
    local, calls = load(None, {}, local=True).settings.destinations
    assert isinstance(local, FileDestination)
    assert isinstance(calls, SqliteDestination)
    assert (local.name, local.path) == ("local", Path("callspool-data/delivered"))
    assert (calls.name, calls.path) == ("calls", Path("callspool-data/calls.db"))
    named = {"CALLSPOOL_DATABASE_URL": "sqlite:///mine.db"}
    for environment, name in ((ENDPOINT, "endpoint"), (named, "database")):
        names = [each.name for each in load(None, environment, local=True).settings.destinations]
        assert names == [name, "local", *(["calls"] if environment is ENDPOINT else [])]


def test_without_a_destination_the_settings_are_refused_and_the_way_out_is_named() -> None:
    """A gateway that delivers nowhere does not start; the message says what to set."""
    found = problems(None, local=False)
    assert list(found) == ["destinations"]
    assert "CALLSPOOL_ENDPOINT_URL" in found["destinations"].advice
    assert "--local" in found["destinations"].advice


def test_an_empty_variable_counts_as_not_set() -> None:
    """Compose files pass variables on that nobody set: they are empty, and the default holds."""
    environment = {**ENDPOINT, "CALLSPOOL_INTAKE_LISTEN": "", "CALLSPOOL_CONFIG": ""}
    assert str(load(None, environment).settings.intake.listen) == "127.0.0.1:7717"


def test_what_kubernetes_puts_into_containers_is_not_ours() -> None:
    """A Service named callspool makes Kubernetes set CALLSPOOL_* variables: those are passed over, there only."""
    links = {
        "CALLSPOOL_SERVICE_HOST": "10.0.0.1",
        "CALLSPOOL_SERVICE_PORT_INTAKE": "7717",
        "CALLSPOOL_PORT": "tcp://10.0.0.1:7717",
        "CALLSPOOL_PORT_7717_TCP_ADDR": "10.0.0.1",
        "CALLSPOOL_ADMIN_SERVICE_PORT": "7718",
    }
    load(None, {**ENDPOINT, **links, "KUBERNETES_SERVICE_HOST": "10.0.0.2"})
    assert set(problems(None, links)) == set(links)


@pytest.mark.parametrize(
    ("url", "warning"),
    [
        ("https://host/x?code=abc", "secret in its query (code)"),
        ("http://host/x", "not https"),
    ],
)
def test_a_doubtful_endpoint_is_allowed_with_a_warning(url: str, warning: str) -> None:
    """What may be meant so is not refused, but said, and never with the secret itself."""
    (said,) = load(None, {"CALLSPOOL_ENDPOINT_URL": url}).warnings
    assert warning in said
    assert "abc" not in said


def test_an_open_intake_without_a_token_is_allowed_with_a_warning() -> None:
    """Whoever can reach the intake can post to it: said, unless a token guards it."""
    open_to_all = {**ENDPOINT, "CALLSPOOL_INTAKE_LISTEN": "0.0.0.0:7717"}
    (said,) = load(None, open_to_all).warnings
    assert "accepts posts from anyone" in said
    assert load(None, {**open_to_all, "CALLSPOOL_INTAKE_TOKEN": "sixteen-characters"}).warnings == ()


def test_a_core_larger_than_a_request_is_allowed_with_a_warning(write_file: WriteFile) -> None:
    """An endpoint that takes less than a core gets said so before a core becomes a dead letter."""
    file = write_file('[[destinations]]\nname="a"\ntype="http"\nurl="https://h"\nmax_request_bytes="400KB"\n')
    (said,) = load(file, {}).warnings
    assert "destinations[a].max_request_bytes" in said


def test_an_http_endpoint_on_this_machine_needs_no_warning() -> None:
    """Plain HTTP that never leaves the machine is nothing to say a word about."""
    assert load(None, {"CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/x"}).warnings == ()


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows put one before the text; it changes nothing."""
    file = tmp_path / "c.toml"
    file.write_bytes(b'\xef\xbb\xbf[spool]\nmax_bytes = "1 GB"\n')
    assert load(file, ENDPOINT).settings.spool.max_bytes == 1_000_000_000


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"CALLSPOOL_ADMIN_LISTEN": "0.0.0.0:7718"},
            "without admin.tls_cert_file tokens and call logs cross the network",
        ),
        ({"CALLSPOOL_ADMIN_LISTEN": "0.0.0.0:7718", "CALLSPOOL_ADMIN_TLS_CERT_FILE": "/cert.pem"}, None),
        ({"CALLSPOOL_ADMIN_LISTEN": "unix:/run/admin.sock"}, None),
        ({"CALLSPOOL_INTAKE_LISTEN": "unix:/run/in.sock", "CALLSPOOL_INTAKE_SOCKET_MODE": "0666"}, "lets every user"),
        ({"CALLSPOOL_WEBHOOKS_LISTEN": "0.0.0.0:7719"}, "without webhooks.tls_cert_file calls and secrets cross"),
        ({"CALLSPOOL_WEBHOOKS_LISTEN": "0.0.0.0:7719", "CALLSPOOL_WEBHOOKS_TLS_CERT_FILE": "/cert.pem"}, None),
        (
            {"CALLSPOOL_WEBHOOKS_LISTEN": "unix:/run/w.sock", "CALLSPOOL_WEBHOOKS_SOCKET_MODE": "0666"},
            "webhooks.socket",
        ),
        ({"CALLSPOOL_INTAKE_TOKEN": "short"}, "intake.token has fewer than 16 characters"),
    ],
)
def test_what_lets_others_in_is_said(variables: dict[str, str], said: str | None) -> None:
    """An open admin listener without TLS, a socket for everybody, a short token: each is named, and nothing else."""
    warnings = load(None, {**ENDPOINT, **variables}).warnings
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]
