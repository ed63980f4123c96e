"""Starting callspool: by a Python that is too old, and beside modules that have the names of ours."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from spool.sandbox import module_command
from tests.install.pythons import needs_python
from tests.project.repository import ROOT

LAUNCHER = ROOT / "gateway" / "launcher"


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7", "3.8", "3.9", "3.10"])
@pytest.mark.parametrize(("module", "path"), [("gateway", ROOT), ("callspool", LAUNCHER)])
def test_a_python_that_is_too_old_says_so_in_one_line(version: str, module: str, path: Path) -> None:
    """Below 3.11 there is one line that names the version that is needed and the one that was used."""
    command = [str(needs_python(version)), "-B", "-m", module, "run"]  # Python 2 writes .pyc files beside the sources
    done = subprocess.run(command, cwd=path, capture_output=True, text=True, check=False, timeout=30)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith("callspool needs Python 3.11 or newer; ")
    assert f" is {version}." in line


def test_a_module_that_was_imported_before_is_named(tmp_path: Path) -> None:
    """Where something imported a foreign `config` before callspool started, a line says what and from where."""
    (tmp_path / "config.py").write_text("X = 1\n", encoding="utf-8")
    code = "import config, runpy; runpy.run_module('callspool', run_name='__main__')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(LAUNCHER)])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert f"{tmp_path / 'config.py'} was imported as `config` before it" in line


def test_a_child_process_finds_our_packages_first(tmp_path: Path) -> None:
    """A child that callspool starts is not misled by PYTHONPATH or by the directory that it runs in."""
    for name in ("config", "gateway", "spool", "uploaders"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')\n", encoding="utf-8")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            (*module_command("gateway.intake.parse_worker_main"), str(theirs.fileno())),
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            pass_fds=(theirs.fileno(),),
            input="",
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (0, "")
