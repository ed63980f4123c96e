"""Tests of what is said about a configuration that cannot be used."""

from pathlib import Path

import pytest

from tests.config.conftest import WriteFile, problems

EVERYTHING_WRONG = """
[intake]
listn = "x"
listen = "nope"
token = "in secret"
[log]
level = "loud"
[intak]
a = 1
[[destinations]]
name = "Upper"
type = "http"
url = "https://user:passw0rd@host/x?code=abc"
retry = { initial = "10m", mx = 3 }
[[destinations]]
name = "a"
type = "ftp"
[[destinations]]
name = "a"
type = "file"
"""


def test_everything_wrong_is_told_at_once(write_file: WriteFile) -> None:
    """One run names every wrong key of the file and every wrong variable."""
    file = write_file(EVERYTHING_WRONG)
    environment = {
        "CALLSPOOL_SPOOL_MAX_BYTES": "ten",
        "CALLSPOOL_INTAKE_TOKN": "s3cret",
        "CALLSPOOL_ENDPOINT_TOKEN": "t",
    }
    found = problems(file, environment)
    assert {key: problem.value for key, problem in found.items()} == {
        "CALLSPOOL_INTAKE_TOKN": "***",
        "CALLSPOOL_ENDPOINT_TOKEN": "***",
        "intake.listn": "***",
        "intake.listen": '"nope"',
        "intak": "***",
        "spool.max_bytes": '"ten"',
        "log.level": '"loud"',
        "destinations": '"a"',
        "destinations[0].name": '"Upper"',
        "destinations[0].url": '"https://***@host/x?code=***"',
        "destinations[0].retry.max": None,
        "destinations[0].retry.mx": "***",
        "destinations[a].type": '"ftp"',
        "destinations[a].path": None,
    }
    assert found["spool.max_bytes"].origin == "CALLSPOOL_SPOOL_MAX_BYTES"
    assert found["log.level"].origin == str(file)


@pytest.mark.parametrize(
    ("text", "key", "advice"),
    [
        ("[intake]\nlistn = 1", "intake.listn", "is unknown; did you mean listen?"),
        ("[intake]\nzzz = 1", "intake.zzz", "is unknown"),
        ("[spool]\ndirectory = 1", "spool.directory", "is unknown; did you mean dir?"),
        ("[intak]", "intak", "is unknown; did you mean intake?"),
        ("[tenants.acme]\nagent = 'a'", "tenants.acme.agent", "is unknown; did you mean agents?"),
        ("intake = 3", "intake", "should be a table"),
        ("destinations = 3", "destinations", "should be an array of tables: [[destinations]]"),
        ("[log]\nlevel = 'loud'", "log.level", "should be 'debug', 'info', 'warning' or 'error'"),
        ("[intake]\nbatch_max_lines = 0", "intake.batch_max_lines", "should be greater than or equal to 1"),
        (
            "[[destinations]]\nname = 'a'",
            "destinations[a].type",
            "should be one of: http, presigned, s3, file, kafka, sqlite, postgres, clickhouse, pipeline",
        ),
        ("[[destinations]]\ntype = 'file'\npath = 'x'", "destinations[0].name", "is required"),
        ("[[destinations]]\ntype='http'\nname='a'\nurl=7", "destinations[a].url", "should be a valid string"),
    ],
)
def test_each_problem_says_what_would_be_right(write_file: WriteFile, text: str, key: str, advice: str) -> None:
    """A problem names its key and says what would be right there."""
    assert problems(write_file(text))[key].advice == advice


def test_the_two_listeners_may_not_be_the_same() -> None:
    """Both listeners at one address is a problem of the admin's, named by its key."""
    found = problems(None, {"CALLSPOOL_ADMIN_LISTEN": "127.0.0.1:7717"})
    assert found["admin.listen"].advice == "should differ from intake.listen"
    assert found["admin.listen"].origin == "CALLSPOOL_ADMIN_LISTEN"


def test_an_unknown_variable_is_a_problem_with_the_nearest_known_one() -> None:
    """A misspelt variable is never silently without effect."""
    found = problems(None, {"CALLSPOOL_INTAKE_LISTN": "x", "CALLSPOOL_QQQQ": "y", "OTHER": "z"})
    assert found["CALLSPOOL_INTAKE_LISTN"].advice == "is unknown; did you mean CALLSPOOL_INTAKE_LISTEN?"
    assert set(found) == {"CALLSPOOL_INTAKE_LISTN", "CALLSPOOL_QQQQ"}


@pytest.mark.parametrize("name", ["CALLSPOOL_INTAKE_TOKEN", "CALLSPOOL_ENDPOINT_TOKEN"])
def test_a_secret_that_is_set_but_empty_is_a_problem(name: str) -> None:
    """A secret that got lost on its way never turns a check off quietly."""
    assert "set but empty" in problems(None, {name: ""})[name].advice


def test_a_secret_is_in_no_message(write_file: WriteFile) -> None:
    """A value that is or may be a secret is masked in every problem, misspelt keys included."""
    file = write_file(
        "[intake]\ntoken = 'hush hush '\ntokn = 'hush'\n"
        "[[destinations]]\nname='a'\ntype='http'\nurl='https://hush@h'\ntoken=' hush'\n"
    )
    found = problems(file, {"CALLSPOOL_INTAKE_TOKE": "hush"})
    assert {"intake.token", "intake.tokn", "destinations[a].token"} <= set(found)
    assert "hush" not in "\n".join(str(problem) for problem in found.values())


def test_what_a_tenant_has_is_shown_but_for_its_secrets(write_file: WriteFile) -> None:
    """As everywhere else."""
    found = problems(write_file("[tenants.acme]\nweight = 0\nread_token = 'hush'\n"))
    assert found["tenants.acme.weight"].value == "0"
    assert found["tenants.acme.read_token"].value == "***"


def test_a_long_value_is_cut() -> None:
    """A message stays readable whatever was given."""
    value = problems(None, {"CALLSPOOL_LOG_LEVEL": "x" * 1000})["log.level"].value
    assert value is not None
    assert len(value) < 100


def test_a_problem_reads_as_one_sentence(write_file: WriteFile) -> None:
    """Key, value, origin and advice stand in one line."""
    file = write_file("[log]\nlevel = 'loud'")
    found = problems(file, {"CALLSPOOL_QQQQ": "y"})
    assert str(found["log.level"]) == (
        f"log.level = \"loud\" (from {file}): should be 'debug', 'info', 'warning' or 'error'"
    )
    assert str(found["CALLSPOOL_QQQQ"]) == "CALLSPOOL_QQQQ = ***: is unknown"


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"[intake", "not valid TOML"),
        (b"[intake]\nlisten = \xff", "not UTF-8 at byte 18"),
        (None, "no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_problem_beside_the_variables(
    tmp_path: Path, content: bytes | None, advice: str
) -> None:
    """A broken file hides nothing that is wrong in the environment."""
    file = tmp_path / "broken.toml"
    if content is not None:
        file.write_bytes(content)
    found = problems(file, {"CALLSPOOL_LOG_LEVEL": "loud"}, local=False)
    assert found[str(file)].advice.startswith(advice)
    assert set(found) == {str(file), "log.level"}


def test_a_directory_in_place_of_the_file_is_a_problem(tmp_path: Path) -> None:
    """What the system says about a file that cannot be opened is passed on."""
    assert "cannot be read: Is a directory" in problems(tmp_path)[str(tmp_path)].advice
