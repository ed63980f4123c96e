"""What import-linter cannot say: it knows packages from outside only as a whole."""

import ast
from pathlib import Path

import pytest

from tests.project.repository import text, with_suffix

MODULES = with_suffix(".py")
BELOW_THE_GATEWAY = [path for path in MODULES if path.parts[0] in {"spool", "uploaders", "config"}]
NO_TESTS = [path for path in MODULES if path.parts[0] != "tests"]


def imported_by(path: Path) -> set[str]:
    """The full names of what a module imports, wherever in it."""
    imported = set()
    for node in ast.walk(ast.parse(text(path))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    return imported


@pytest.mark.parametrize("path", BELOW_THE_GATEWAY, ids=str)
def test_no_web_server_below_the_gateway(path):
    """Spool, uploaders and settings answer no requests: they import nothing of aiohttp.web."""
    assert not [name for name in imported_by(path) if name.startswith("aiohttp.web")]


@pytest.mark.parametrize("path", NO_TESTS, ids=str)
def test_nothing_but_tests_imports_tests(path):
    """Benchmarks may be run where there are none."""
    assert not [name for name in imported_by(path) if name.split(".")[0] == "tests"]
