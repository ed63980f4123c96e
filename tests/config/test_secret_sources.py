"""Secrets that come from files, from systemd's credentials and from commands."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from config.catalogue import secret_variables
from config.destinations import HttpDestination
from config.layers import InvalidConfiguration
from config.loader import load
from config.settings import Settings
from tests.config.conftest import WriteFile, problems

ENDPOINT = {
    "CALLSPOOL_ENDPOINT_URL": "https://host/dev/send-call-log",
    "CALLSPOOL_WEBHOOKS_LISTEN": "127.0.0.1:7719",
}
PIPELINE = {"CALLSPOOL_PIPELINE": "local", "CALLSPOOL_DATABASE_URL": "sqlite:///calls.db"}
KAFKA = {"CALLSPOOL_KAFKA_BROKERS": "broker:9092", "CALLSPOOL_KAFKA_SASL": "plain", "CALLSPOOL_KAFKA_USERNAME": "u"}
OLD, NEW = "old-token-of-16-characters", "new-token-of-16-characters"


def tokens(settings: Settings) -> list[str]:
    return [token.get_secret_value() for token in settings.admin.token]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with two tokens, a comment and blank lines, for its owner alone."""
    path = tmp_path / "token"
    path.write_text(f"# since May\n{OLD}\n\n  {NEW}\n")
    path.chmod(0o600)
    return path


def test_several_lines_of_a_file_are_several_tokens(secret: Path) -> None:
    """A token can be replaced without a moment at which no client is let in; where it came from is shown."""
    loaded = load(None, {**ENDPOINT, "CALLSPOOL_ADMIN_TOKEN_FILE": str(secret)})
    assert tokens(loaded.settings) == [OLD, NEW]
    assert loaded.origins["admin", "token"] == "CALLSPOOL_ADMIN_TOKEN_FILE"
    assert loaded.warnings == ()


def test_a_credential_of_systemd_has_the_name_of_the_variable(secret: Path) -> None:
    """`LoadCredential=CALLSPOOL_ADMIN_TOKEN:/etc/...` is enough; the variable itself wins."""
    secret.rename(secret.with_name("CALLSPOOL_ADMIN_TOKEN"))
    environment = {**ENDPOINT, "CREDENTIALS_DIRECTORY": str(secret.parent)}
    assert tokens(load(None, environment).settings) == [OLD, NEW]
    assert tokens(load(None, {**environment, "CALLSPOOL_ADMIN_TOKEN": NEW}).settings) == [NEW]


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user who is neither root nor the owner of any file, where root runs the tests."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_directory_of_credentials_that_cannot_be_searched_is_a_problem(tmp_path: Path) -> None:
    """A secret in it would quietly be off; it is named once, however many secrets may lie there."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "CALLSPOOL_ADMIN_TOKEN").write_text(OLD)
    directory.chmod(0o000)
    with as_nobody():
        (problem,) = problems(None, {**ENDPOINT, "CREDENTIALS_DIRECTORY": str(directory)}).values()
    directory.chmod(0o700)
    assert problem.key == "CREDENTIALS_DIRECTORY"
    assert str(directory / "CALLSPOOL_") in str(problem)
    assert "cannot be read: Permission denied" in problem.advice
    assert "start callspool as the user of its unit" in problem.advice


def test_a_credential_that_is_there_and_leads_nowhere_is_a_problem(tmp_path: Path) -> None:
    """Only one that is not there means that the secret is not given so."""
    (tmp_path / "CALLSPOOL_ADMIN_TOKEN").symlink_to(tmp_path / "missing")
    found = problems(None, {**ENDPOINT, "CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert found["the credential CALLSPOOL_ADMIN_TOKEN"].advice == "cannot be read: No such file or directory"
    assert load(None, {**ENDPOINT, "CREDENTIALS_DIRECTORY": str(tmp_path / "missing")}).warnings == ()


def test_a_command_prints_it(tmp_path: Path) -> None:
    """Its standard output, without the line break at its end."""
    command = f"{sys.executable} -c \"print('{NEW}')\""
    settings = load(None, {**ENDPOINT, "CALLSPOOL_ADMIN_TOKEN_COMMAND": command}).settings
    assert tokens(settings) == [NEW]


@pytest.mark.parametrize("name", [*secret_variables(), "CALLSPOOL_DATABASE_URL"])
def test_every_secret_can_lie_in_a_file(tmp_path: Path, name: str) -> None:
    """For each variable of a secret there is one with `_FILE`; what it holds is never an unknown variable."""
    path = tmp_path / "secret"
    key = "A" * 43 + "="
    path.write_text("sqlite:///x.db\n" if name.endswith("_URL") else f"{key if name.endswith('_KEY') else NEW}\n")
    path.chmod(0o600)
    beside = KAFKA if "KAFKA" in name else PIPELINE if "OPENAI" in name else {}
    loaded = load(None, {**ENDPOINT, **beside, f"{name}_FILE": str(path)})
    assert f"{name}_FILE" in loaded.origins.values()


def test_the_file_of_the_configuration_names_files_and_commands(write_file: WriteFile, secret: Path) -> None:
    """`token_file` and `token_command` stand for `token`, in sections and in destinations."""
    file = write_file(
        f'[admin]\ntoken_file = "{secret}"\nread_token_command = ["echo", "read-token-of-the-file"]\n'
        '[[destinations]]\nname = "e"\ntype = "http"\nurl = "https://h/"\ntoken_command = "echo agents"\n'
    )
    loaded = load(file, {})
    assert tokens(loaded.settings) == [OLD, NEW]
    assert [each.get_secret_value() for each in loaded.settings.admin.read_token] == ["read-token-of-the-file"]
    (destination,) = loaded.settings.destinations
    assert isinstance(destination, HttpDestination)
    assert destination.token is not None
    assert destination.token.get_secret_value() == "agents"
    assert loaded.origins["admin", "token"] == f"admin.token_file in {file}"


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\n", "is empty, which would quietly turn the secret off"),
        (b"\xff" * 20, "is not UTF-8"),
        (b"x" * 70_000, "has more than 64 KiB, which is no secret"),
    ],
)
def test_a_file_that_gives_no_secret_is_a_problem(tmp_path: Path, content: bytes | None, advice: str) -> None:
    """A secret that cannot be read never means that there is none."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    found = problems(None, {**ENDPOINT, "CALLSPOOL_ADMIN_TOKEN_FILE": str(path)})
    assert found["CALLSPOOL_ADMIN_TOKEN_FILE"].advice == advice


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("false", "ended with status 1; run it by hand to see why"),
        ("/nonexistent/program", "cannot be run: No such file or directory"),
        ("true", "is empty, which would quietly turn the secret off"),
        ('"', "should be a command, such as `vault read -field=token secret/callspool`"),
    ],
)
def test_a_command_that_gives_no_secret_is_a_problem(command: str, advice: str) -> None:
    """Neither is one whose command fails; what it printed is not shown."""
    found = problems(None, {**ENDPOINT, "CALLSPOOL_ADMIN_TOKEN_COMMAND": command})
    assert found["CALLSPOOL_ADMIN_TOKEN_COMMAND"].advice == advice


def test_a_secret_has_one_source(secret: Path, write_file: WriteFile) -> None:
    """Two sources of one secret are a mistake, in the environment and in the file: which one counts?"""
    both = {**ENDPOINT, "CALLSPOOL_ADMIN_TOKEN": OLD, "CALLSPOOL_ADMIN_TOKEN_FILE": str(secret)}
    found = problems(None, both)
    assert found["CALLSPOOL_ADMIN_TOKEN"].advice.startswith("is given more than once: leave one of")
    assert OLD not in str(found)
    file = write_file(f'[admin]\ntoken = "{OLD}"\ntoken_file = "{secret}"\n')
    assert problems(file, ENDPOINT)["admin.token_file"].advice == "stands beside token: leave one of them"


def test_a_file_that_everybody_can_read_is_named(secret: Path, write_file: WriteFile) -> None:
    """Both a file with a token and a configuration that holds one, with what to do about it."""
    secret.chmod(0o644)
    (warning,) = load(None, {**ENDPOINT, "CALLSPOOL_ADMIN_TOKEN_FILE": str(secret)}).warnings
    assert "every user of this machine can read it" in warning
    assert f"chmod o-rwx {secret}" in warning
    file = write_file(f'[admin]\ntoken = "{OLD}"\n')
    file.chmod(0o644)
    (warning,) = load(file, ENDPOINT).warnings
    assert f"chmod o-rwx {file}" in warning
    file.write_text("[admin]\n")
    assert load(file, ENDPOINT).warnings == ()


def test_the_secrets_of_tenants_have_the_same_sources(secret: Path, write_file: WriteFile) -> None:
    """A file or a command; and a configuration that holds them is for its owner alone."""
    text = "[tenants.acme]\nread_token{} = {}\n"
    loaded = load(write_file(text.format("_file", f'"{secret}"')), ENDPOINT)
    assert [token.get_secret_value() for token in loaded.settings.tenants["acme"].read_token] == [OLD, NEW]
    assert secret in loaded.files
    assert loaded.warnings == ()
    file = write_file(text.format("", f'"{OLD}"'))
    file.chmod(0o644)
    (warning,) = load(file, ENDPOINT).warnings
    assert f"chmod o-rwx {file}" in warning


@pytest.mark.parametrize("token", ["short", "fifteen-chars-x", "sixteen chars xx", "sixteen-chars-x\u00fc"])
def test_a_token_has_sixteen_visible_characters(write_file: WriteFile, token: str) -> None:
    """A shorter one could be guessed; it is refused, and never shown."""
    file = write_file(f'[admin]\nread_token = ["{token}"]\n')
    problem = problems(file, ENDPOINT)["admin.read_token"]
    assert "at least 16 visible ASCII characters" in problem.advice
    assert token not in str(problem)


def test_a_token_has_one_role() -> None:
    """A token that stands in two roles is a mistake: which one its holder has would be a guess."""
    twice = {"CALLSPOOL_ADMIN_TOKEN": f"{OLD} {NEW}", "CALLSPOOL_ADMIN_READ_TOKEN": NEW}
    assert "admin.token" in problems(None, {**ENDPOINT, **twice})["admin.read_token"].advice


def test_without_secrets_no_source_is_read(tmp_path: Path) -> None:
    """A command that needs no secret runs nothing, and fails at no file that it may not read."""
    environment = {
        **ENDPOINT,
        "CALLSPOOL_ADMIN_TOKEN_FILE": "/nonexistent",
        "CALLSPOOL_ENDPOINT_TOKEN_COMMAND": "false",
    }
    assert load(None, environment, read_secrets=False).settings.admin.token == ()


def test_a_key_of_the_spool_has_its_length() -> None:
    """One that is none is refused before anything is opened; older ones may stand below it."""
    keys = ["A" * 43 + "=", "B" * 43 + "="]
    loaded = load(None, {**ENDPOINT, "CALLSPOOL_SPOOL_KEY": "\n".join(keys)}).settings
    assert [key.get_secret_value() for key in loaded.spool.key] == keys
    for wrong in ("nonsense", "A" * 40, "A" * 44):
        with pytest.raises(InvalidConfiguration, match="base64 of 32 bytes"):
            load(None, {**ENDPOINT, "CALLSPOOL_SPOOL_KEY": wrong})
