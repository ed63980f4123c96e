"""What import-linter cannot say: it knows packages from outside only as a whole."""

import ast
import re
from pathlib import Path

from tests.project.repository import text, with_suffix

MODULES = with_suffix(".py")
BELOW_THE_GATEWAY = [path for path in MODULES if path.parts[0] in {"spool", "uploaders", "config"}]
NO_TESTS = [path for path in MODULES if path.parts[0] != "tests"]


def imported_by(path: Path, package: str) -> set[str]:
    """The full names of what a module imports of a package, wherever in it."""
    if package not in text(path):  # it takes milliseconds to parse
        return set()
    imported: set[str] = set()
    for node in ast.walk(ast.parse(text(path))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in imported if f"{name}.".startswith(f"{package}.")}


def test_no_web_server_below_the_gateway() -> None:
    """Spool, uploaders and settings answer no requests: they import nothing of aiohttp.web."""
    assert not [
        f"{path}: {name}"
        for path in BELOW_THE_GATEWAY
        for name in imported_by(path, "aiohttp")
        if name.startswith("aiohttp.web")
    ]


def test_nothing_but_tests_imports_tests() -> None:
    """Benchmarks may be run where there are none."""
    assert not [f"{path}: {name}" for path in NO_TESTS for name in imported_by(path, "tests")]


def test_no_test_imports_another() -> None:
    """What two test modules need is in a module of its own, named by what it gives; children's programs are text."""
    named = re.compile(r"\b(?:from|import) tests\.(?:\w+\.)*test_\w+")
    assert not [f"{path}: {found}" for path in MODULES for found in named.findall(text(path))]


def test_every_test_module_says_what_it_is_about() -> None:
    """A docstring opens it."""
    tests = [path for path in MODULES if path.name.startswith("test_")]
    assert not [str(path) for path in tests if not text(path).startswith('"""')]


def test_every_python_process_is_started_in_one_place() -> None:
    """`spool.sandbox.module_command` keeps foreign modules out of a child: no other code builds such a command."""
    found = {str(path) for path in NO_TESTS if path.parts[0] not in {"bench", ".ci"} and "sys.executable" in text(path)}
    # The fixture for the tests of agents runs in their process, and starts the launcher, which sees to it.
    fixture = "gateway/launcher/callspool/testing.py"
    assert found == {"spool/sandbox.py", "gateway/launcher/callspool/__main__.py", fixture}
