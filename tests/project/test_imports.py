"""What import-linter cannot say: it knows packages from outside only as a whole."""

import ast

import pytest

from tests.project.repository import text, with_suffix

BELOW_THE_GATEWAY = [path for path in with_suffix(".py") if path.parts[0] in {"spool", "uploaders", "config"}]


@pytest.mark.parametrize("path", BELOW_THE_GATEWAY, ids=str)
def test_no_web_server_below_the_gateway(path):
    """Spool, uploaders and settings answer no requests: they import nothing of aiohttp.web."""
    imported = set()
    for node in ast.walk(ast.parse(text(path))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert not [name for name in imported if name.startswith("aiohttp.web")]
