"""The documentation is complete: nothing that a person can set, call, ask or watch is missing from it."""

import re
from pathlib import Path

import pytest

from config.catalogue import HEADER, destination_rows, setting_rows, source_rows
from gateway.cli import main
from tests.project.repository import ROOT, text, tracked, with_suffix
from tests.project.surface import admin_paths, commands, intake_paths, metrics, options

DOCUMENTS = [
    path
    for path in tracked()
    if path.suffix == ".md" and (path.name == "README.md" or path.parts[0] == "docs") and "decisions" not in path.parts
]
ALL = "\n".join(text(path) for path in DOCUMENTS)
LINK = re.compile(r"\[[^\]]*\]\((?!https?://|mailto:|#)([^)#\s]+)[^)]*\)")


def written_rows() -> list[str]:
    """The rows of every table in the documents that has the header of the settings."""
    rows, inside = [], False
    for line in ALL.splitlines():
        inside = line.startswith("|") and (inside or line == HEADER[0])
        if inside and line not in HEADER:
            rows.append(line)
    return rows


def test_the_tables_of_settings_are_those_of_the_code() -> None:
    """Names, defaults and meanings in the documents are generated; none is missing, none is left over."""
    tables = (setting_rows(), source_rows(), destination_rows())
    expected = [row for table in tables for row in table]
    wanted = "\n".join(["Write these tables:", *("\n".join([*HEADER, *table, ""]) for table in tables)])
    assert sorted(written_rows()) == sorted(expected), wanted


@pytest.mark.parametrize(("name", "about"), sorted(metrics().items()), ids=lambda value: str(value)[:40])
def test_a_metric_is_documented(name: str, about: tuple[str, str]) -> None:
    """Every metric has its row in the documents, with its kind and the help text that scrapers see."""
    assert "| `{}` | {} | {} |".format(name, *about) in ALL.splitlines()


def test_no_document_names_a_metric_that_does_not_exist() -> None:
    """A metric in the documents can be scraped."""
    series = {f"{name}{end}" for name in metrics() for end in ("", "_bucket", "_sum", "_count")}
    assert set(re.findall(r"\bcallspool_[a-z_]+[a-z]\b", ALL)) <= series


@pytest.mark.parametrize("path", admin_paths())
def test_a_path_of_the_admin_listener_is_documented(path: str) -> None:
    """Every path that the admin listener answers stands in the documents."""
    assert f"{path}`" in ALL or f"{path} " in ALL or f"{path}\n" in ALL


@pytest.mark.parametrize("path", intake_paths())
def test_a_route_of_the_intake_is_documented(path: str) -> None:
    """Every route that agents can post to stands in the documents."""
    assert path in ALL


@pytest.mark.parametrize("command", list(commands(main)))
def test_a_command_is_documented(command: str) -> None:
    """Every command stands in the documents as it is typed."""
    assert command in ALL


def test_the_table_of_commands_is_that_of_the_code() -> None:
    """docs/commands.md has one row for each command, and each option in a row exists."""
    rows = re.findall(r"^\| `(callspool [^`]+)` \| (.*) \|$", text("docs/commands.md"), re.MULTILINE)
    known = {command: options(main, command) for command in commands(main)}
    written = {next(name for name in sorted(known, reverse=True) if typed.startswith(name)): typed for typed, _ in rows}
    assert len(rows) == len(written) == len(known)
    for typed, words in rows:
        command = next(name for name in sorted(known, reverse=True) if typed.startswith(name))
        assert set(re.findall(r"--[a-z-]+", typed + words)) <= known[command], typed


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_a_link_to_a_file_leads_somewhere(path: Path) -> None:
    """Every relative link in a document names a file of the project."""
    targets = LINK.findall(text(path))
    assert not [target for target in targets if not (ROOT / path.parent / target).exists()]


@pytest.mark.parametrize("path", with_suffix(".md"), ids=str)
def test_prose_is_wrapped(path: Path) -> None:
    """A paragraph stands in lines of 120 columns at most, so that one can read what a change changes."""
    prose = re.sub(r"(?ms)^ *```.*?^ *```$|^    .*?$|^\|.*?$|^\[.*?$", "", text(path))
    assert not [line for line in prose.splitlines() if len(line) > 120]
