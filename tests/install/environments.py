"""The built wheel, and clean environments to install it into."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.project.repository import ROOT

FOREIGN = {
    "config.py": "X = 1\n",
    "spool.py": "raise SystemExit('the wrong spool')\n",
    "uploaders.py": "raise SystemExit('the wrong uploaders')\n",
    "gateway/__init__.py": "raise SystemExit('the wrong gateway')\n",
}
"""Modules of somebody else that have the names of ours."""


def build_wheel(folder: Path) -> Path:
    """The wheel of the project as it lies here, built without asking any index."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Installed:
    """callspool in an environment of its own, called from a folder that is full of foreign modules."""

    folder: Path
    """Where it is called; it is in PYTHONPATH too."""
    environment: Path

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.environment / "bin" / "python"

    @property
    def program(self) -> Path:
        """The command `callspool`."""
        return self.environment / "bin" / "callspool"

    @property
    def variables(self) -> Mapping[str, str]:
        """What it is to see of the environment: nothing that this machine sets for callspool."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CALLSPOOL_")}
        return kept | {"PYTHONPATH": str(self.folder)}

    def run(self, *command: str | Path) -> str:
        """What a command wrote. Raises `AssertionError` with its output where it fails."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.variables, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def installed(wheel: Path, folder: Path, python: Path, requirements: Path | None) -> Installed:
    """The wheel in a new environment of this Python.

    `requirements` is a lock to install before it; without one, the third-party packages of this test's own environment
    can be imported, and nothing of the checkout.
    """
    made = Installed(folder / "elsewhere", folder / "environment")
    for name, content in FOREIGN.items():
        path = made.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    options = ["--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    if requirements is not None:
        subprocess.run([python, "-m", "venv", made.environment], check=True, timeout=120)
        pip: list[str | Path] = [made.python, "-m", "pip", *options]
        subprocess.run([*pip, "--require-hashes", "--requirement", requirements], check=True, timeout=600)
    else:  # the pip of this environment will do: unpacking another one takes seconds
        subprocess.run([python, "-m", "venv", "--without-pip", made.environment], check=True, timeout=120)
        pip = [sys.executable, "-m", "pip", "--python", made.python, *options]
        (site,) = made.environment.glob("lib/python*/site-packages")
        others = [path for path in sys.path if path.endswith("site-packages")]
        (site / "others.pth").write_text("\n".join(others), encoding="utf-8")
    subprocess.run([*pip, "--no-index", wheel], check=True, timeout=120)
    return made
