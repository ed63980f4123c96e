"""What no file of the project may contain, and how long one may be."""

import re
from collections.abc import Callable

import pytest

from tests.project.repository import text, tracked, with_suffix

# Spelled in pieces, so that this file does not contain what it forbids.
_HOSTS = ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "deb" + "ian.org", "crates" + ".io/")
_FOLDERS = ("wo" + "rk", "ro" + "ot", "fa" + "rm")
FORBIDDEN = re.compile(rf"{'|'.join(map(re.escape, _HOSTS))}|(?<![\w.-])/(?:{'|'.join(_FOLDERS)})/", re.IGNORECASE)


def test_no_file_names_a_package_index_or_a_folder_of_one_machine() -> None:
    """The project says nothing of the machine it was written on, nor of where packages come from."""
    found = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path in tracked()
        for number, line in enumerate(text(path).splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert not found


@pytest.mark.parametrize(
    ("line", "forbidden"),
    [
        ("cd /" + "work/main", True),
        ("--index-url https://" + "py" + "pi.org/simple", True),
        ("the net" + "work/disk is slow", False),
        ("POST http://127.0.0.1:7717/v1/calls", False),
    ],
)
def test_the_pattern_finds_what_it_is_for(line: str, forbidden: bool) -> None:
    """The check above finds machine paths and index hosts, and leaves prose alone."""
    assert bool(FORBIDDEN.search(line)) is forbidden


def test_a_python_file_is_about_one_idea(record_property: Callable[[str, object], None]) -> None:
    """No Python file has more than 600 lines; those above 500 are listed, to look for the second idea in them."""
    lengths = {path: len(text(path).splitlines()) for path in with_suffix(".py")}
    long = [f"{path}: {lines} lines" for path, lines in sorted(lengths.items()) if lines > 500]
    if long:
        record_property("told", "look for the second idea in " + ", ".join(long))
    assert not [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > 600]


def test_what_the_type_checker_is_to_ignore_has_its_code_and_its_reason() -> None:
    """In product and tests alike."""
    ignored = re.compile(r"#\s*type:\s*ignore(?!\[[\w, -]+\]  # \S)")
    assert not [
        f"{path}: {line}" for path in with_suffix(".py") for line in text(path).splitlines() if ignored.search(line)
    ]


def test_nothing_that_a_run_makes_is_tracked() -> None:
    """Data, results, environments and caches stay out of git."""
    made = re.compile(r"^(\.venv|callspool-data|bench/results|build|dist|htmlcov)/|__pycache__|\.egg-info|\.coverage")
    assert not [path for path in tracked() if made.search(str(path))]
