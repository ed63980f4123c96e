"""What the documents show can be typed: settings in TOML are valid, and commands and options exist."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from config.layers import InvalidConfiguration
from config.loader import load
from config.settings import Settings
from gateway.cli import main
from tests.project.repository import text, tracked

DOCUMENTS = [path for path in tracked() if path.suffix == ".md" and "decisions" not in path.parts]
_TABLE = re.compile(rf"(?:#.*\n)*\[\[?(?:{'|'.join(Settings.model_fields)})\b")
"""How a block of settings begins."""
_LEFT_OUT = re.compile(
    r"is required|need webhooks\.listen|needs a store|should hold|there is none|none is configured"
    r"|is no destination|No such file|a file that exists"
)
"""What may be wrong with a part of a file: the rest is not shown."""


def blocks(document: str) -> Iterator[str]:
    """Each block of code, fenced or indented, without its indentation."""
    yield from re.findall(r"^```\w*\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^(?: {4}.*)?\n)+", document, re.MULTILINE):
        yield "\n".join(line[4:] for line in block.splitlines()).strip("\n")


SETTINGS = [
    (path, block.partition("\n\ncallspool ")[0])
    for path in DOCUMENTS
    for block in blocks(text(path))
    if _TABLE.match(block)
]
COMMANDS = sorted(
    {
        (str(path), line.strip())
        for path in DOCUMENTS
        for block in blocks(text(path))
        for line in re.sub(r"\\\n\s*", " ", block).splitlines()
        if re.match(r"\s*(?:\$ )?callspool [a-z]", line)
    }
)


@pytest.mark.parametrize(("path", "block"), SETTINGS, ids=lambda value: str(value)[:40])
def test_a_snippet_of_settings_is_valid(path: Path, block: str, tmp_path: Path) -> None:
    """Every key in it exists and has a value that is allowed; what it leaves out, such as another destination, may be
    missing."""
    assert tomllib.loads(block)
    file = tmp_path / "callspool.toml"
    file.write_text(block, encoding="utf-8")
    problems: tuple[object, ...] = ()
    try:
        load(file, {} if "[[destinations]]" in block else {"CALLSPOOL_ENDPOINT_URL": "https://endpoint.example/x"})
    except InvalidConfiguration as error:
        problems = tuple(error.problems)
    assert not [str(problem) for problem in problems if not _LEFT_OUT.search(str(problem))]


@pytest.mark.parametrize(("path", "line"), COMMANDS, ids=lambda value: str(value)[:60])
def test_a_command_that_is_shown_can_be_typed(path: str, line: str) -> None:
    """The command exists, and so does each of its long options."""
    words = re.sub(r"#.*$", "", line).removeprefix("$ ").split()[1:]
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None, line
        command = found
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "--version"}
    used = set(re.findall(r"(?<=\s)(--[a-z-]+)", re.sub(r"[|&;<>].*$", "", " " + " ".join(words))))
    assert used <= known, line
