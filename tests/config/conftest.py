"""What the configuration's tests share: writing a file, and loading what must fail."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from config.layers import InvalidConfiguration, Problem
from config.loader import load

WriteFile = Callable[[str], Path]


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    """Writes a TOML file and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "callspool.toml"
        path.write_text(text)
        return path

    return write


def problems(
    file: Path | None, environment: Mapping[str, str] | None = None, *, local: bool = True
) -> dict[str, Problem]:
    """Every problem of a configuration that must not load, by key."""
    with pytest.raises(InvalidConfiguration) as caught:
        load(file, environment or {}, local=local)
    return {problem.key: problem for problem in caught.value.problems}
