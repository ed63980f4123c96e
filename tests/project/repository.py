"""The repository as these checks see it: what git tracks, and the text of it."""

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def tracked() -> tuple[Path, ...]:
    """Every file that git tracks and that is there, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(path for name in listed.split("\0") if name and (ROOT / (path := Path(name))).is_file())


@cache
def text(name: str | Path) -> str:
    """The content of a file; bytes that are not UTF-8 are shown as such instead of failing."""
    return (ROOT / name).read_text(encoding="utf-8", errors="backslashreplace")


def with_suffix(*suffixes: str) -> list[Path]:
    """The tracked files whose names end in one of these."""
    return [path for path in tracked() if path.suffix in suffixes]
