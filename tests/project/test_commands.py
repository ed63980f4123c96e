"""The commands of the repository: make's targets, what CI runs, and what a commit is checked by."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.project.repository import ROOT, text

TARGETS = re.findall(r"^\.PHONY: (\S+)$", text("Makefile"), re.MULTILINE)


def test_make_alone_lists_every_target_with_its_help() -> None:
    """`make` is the table of contents: no target is missing, none is without a line."""
    told = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    lines = dict(re.findall(r"^  make (\S+) +(\S.*)$", told, re.MULTILINE))
    assert sorted(lines) == sorted(TARGETS)


def test_the_targets_that_people_are_told_of_exist() -> None:
    """What CONTRIBUTING.md and the README tell to run with make can be run."""
    told = set()
    for name in ("CONTRIBUTING.md", "README.md"):
        if (ROOT / name).exists():
            told |= set(re.findall(r"(?:`|^    )make ([a-z-]+)", text(name), re.MULTILINE))
    assert told
    assert told <= set(TARGETS)


def test_ci_runs_what_a_developer_runs() -> None:
    """.ci/run is `make test` with a browser, what checks deploy/ and docs/, and the long proof: what passes here passes
    there."""
    assert re.findall(r"^(?!#|set|cd).+$", text(".ci/run"), re.MULTILINE) == [
        "if make browser; then export CHROMIUM_REQUIRED=1; fi",
        "make test",
        "make check-deploy",
        "make site",
        "exec make prove BUDGET=small",
    ]


@pytest.mark.parametrize("python", ["/nonexistent/python3", "false"])
def test_a_missing_or_old_python_is_named_in_one_line(tmp_path: Path, python: str) -> None:
    """Set-up with no suitable Python fails with one line that says what is needed and what to type."""
    for name in ("Makefile", "pyproject.toml", *(file.name for file in ROOT.glob("requirements*.lock"))):
        (tmp_path / name).write_text(text(name), encoding="utf-8")
    command = ["make", "run", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)
    line, _made = done.stderr.splitlines()
    assert done.returncode != 0
    assert line == (
        f'callspool needs Python 3.11 or newer, and "{python}" is not there: make run PYTHON=/path/to/python3.12'
    )


def test_hooks_run_only_what_the_setup_installs() -> None:
    """No pre-commit hook fetches anything: each runs a program from .venv."""
    entries = re.findall(r"^ +entry: (\S+)", text(".pre-commit-config.yaml"), re.MULTILINE)
    assert entries
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    assert re.findall(r"- repo: (\S+)", text(".pre-commit-config.yaml")) == ["local"]
