"""Checks of documents begin with the documents: what is not written yet cannot be wrong."""

from tests.project.repository import ROOT

_NEEDED = {
    "test_promises.py": ("docs/promises.md",),
    "test_documentation.py": ("README.md", "docs", "gateway/cli"),
}

collect_ignore = [name for name, needed in _NEEDED.items() if not all((ROOT / path).exists() for path in needed)]
