"""The Pythons of this machine, by version: on the PATH, and where pyenv keeps them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest


@cache
def python(version: str) -> Path | None:
    """An interpreter of this version (such as 3.12) that works; None where there is none."""
    for path in _candidates(version):
        told = subprocess.run(
            [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if told.stdout.strip() == version:
            return path
    return None


def needs_python(version: str) -> Path:
    """An interpreter of this version; skips the test where there is none."""
    found = python(version)
    if found is None:
        pytest.skip(f"there is no Python {version} on this machine")
    return found


def _candidates(version: str) -> Iterator[Path]:
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield Path(on_path)
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True)
