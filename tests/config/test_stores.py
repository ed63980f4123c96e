"""Stores in the configuration: the variable that adds one, and what it may say."""

from datetime import date
from pathlib import Path

import pytest

from config.destinations import PostgresDestination, SqliteDestination
from config.loader import effective_settings, load
from tests.config.conftest import WriteFile, problems
from uploaders.stores.options import Reads, SpansStored

URL = "CALLSPOOL_DATABASE_URL"


@pytest.mark.parametrize(
    ("url", "path"), [("sqlite:///calls.db", "calls.db"), ("sqlite:////var/lib/calls.db", "/var/lib/calls.db")]
)
def test_the_variable_adds_a_sqlite_file(url: str, path: str) -> None:
    """Three slashes before a relative path, four before an absolute one."""
    (found,) = load(None, {URL: url}).settings.destinations
    assert isinstance(found, SqliteDestination)
    assert (found.name, found.path, found.spans) == ("database", Path(path), SpansStored.COLUMNS)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_the_variable_adds_a_postgresql_database(scheme: str) -> None:
    """Both names of the scheme mean the same, and the password is never shown."""
    loaded = load(None, {URL: f"{scheme}://user:hush@host:5432/calls?sslmode=require"})
    (found,) = loaded.settings.destinations
    assert isinstance(found, PostgresDestination)
    assert found.url == f"{scheme}://user:hush@host:5432/calls?sslmode=require"
    shown = [found.target, repr(found), *(str(each.value) for each in effective_settings(loaded))]
    assert not [text for text in shown if "hush" in text]


def test_the_variable_adds_to_a_store_of_its_name(write_file: WriteFile) -> None:
    """A destination `database` in the file keeps what it says, and gets the address."""
    file = write_file('[[destinations]]\nname = "database"\ntype = "postgres"\nurl = "postgresql://a/b"\npool = 2\n')
    (found,) = load(file, {URL: "postgresql://host/calls"}).settings.destinations
    assert isinstance(found, PostgresDestination)
    assert (found.url, found.pool) == ("postgresql://host/calls", 2)


@pytest.mark.parametrize("url", ["mysql://host/calls", "calls.db", "hush"])
def test_an_address_of_something_else_is_a_mistake(url: str) -> None:
    """The advice names what it may begin with; the value, which may hold a password, is not shown."""
    problem = problems(None, {URL: url})[URL]
    assert "sqlite:///" in problem.advice
    assert "postgresql://" in problem.advice
    assert url not in str(problem)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('type = "sqlite"\npath = "mysql://host/calls"', "path"),
        ('type = "sqlite"\npath = ""', "path"),
        ('type = "postgres"\nurl = "https://host"', "url"),
        ('type = "postgres"\nurl = "postgresql://host/calls"\npool = 0', "pool"),
        ('type = "postgres"\nurl = "postgresql://host/calls"\nspans = "all"', "spans"),
    ],
)
def test_what_a_store_may_say(write_file: WriteFile, text: str, key: str) -> None:
    """Each mistake is reported under its key."""
    found = problems(write_file(f'[[destinations]]\nname = "a"\n{text}\n'))
    assert [name for name in found if name.endswith(key)]


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({"READS": "routed"}, "CUTOFF"),
        ({"READS": "routed", "CUTOFF": "yesterday"}, "CUTOFF"),
        ({"READS": "new"}, "READS"),
        ({"ENABLED": "false"}, "READS"),
        ({"COMPARE": "1.5"}, "COMPARE"),
    ],
)
def test_what_completion_may_say(variables: dict[str, str], key: str) -> None:
    """Routing needs a cutoff, and nobody reads what is not written."""
    given = {f"CALLSPOOL_COMPLETION_{name}": value for name, value in variables.items()}
    assert [name for name in problems(None, {URL: "sqlite:///calls.db", **given}) if key.lower() in name.lower()]


def test_a_migration_in_variables() -> None:
    """Lists are separated by commas, and days are those of ISO 8601."""
    given = {"READS": "Routed", "CUTOFF": "2026-11-20", "PROJECTS": "a, b", "COMPARE": "0.01"}
    variables = {f"CALLSPOOL_COMPLETION_{name}": value for name, value in given.items()}
    completion = load(None, {URL: "sqlite:///calls.db", **variables}).settings.completion
    assert (completion.reads, completion.cutoff) == (Reads.ROUTED, date(2026, 11, 20))
    assert (completion.projects, completion.compare) == (("a", "b"), 0.01)
