"""`make` sets up what the locks say, whatever the index holds, and says in one line what went wrong.

The index is a folder of empty wheels with the requirements of the real ones, and newer versions of all of them.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.install.index import Index
from tests.project.locks import locked
from tests.project.repository import text

BACKEND = """
import os, zipfile

NAME = "callspool-0-py3-none-any.whl"
FILES = {
    "METADATA": "Metadata-Version: 2.1\\nName: callspool\\nVersion: 0\\n" + REQUIRES,
    "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "RECORD": "",
}

def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(folder, NAME), "w") as wheel:
        for name, content in FILES.items():
            wheel.writestr("callspool-0.dist-info/" + name, content)
    return NAME
"""
"""What pip asks of a build backend, in its smallest form."""

PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
LOCKS = (
    "requirements.lock",
    "requirements-dev.lock",
    "requirements-build.lock",
    "requirements-sdk.lock",
    "requirements-chdb.lock",
    "requirements-providers.lock",
)
DOWNLOADED = ("requirements-providers.lock",)
"""Of which tests read the wheels: nothing is installed."""


@dataclass(frozen=True)
class Project:
    """A folder with our Makefile and locks of its own, and the index that it is set up from."""

    folder: Path
    index: Index

    def write(self, locks: dict[str, list[str]], requires: list[str]) -> None:
        """Lock these lines, all locks of them, and let the project ask for `requires`."""
        (self.folder / "Makefile").write_text(text("Makefile"), encoding="utf-8")
        (self.folder / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
        lines = "".join(f"Requires-Dist: {line}\n" for line in requires)
        (self.folder / "backend.py").write_text(f"REQUIRES = {lines!r}\n{BACKEND}", encoding="utf-8")
        for name in LOCKS:
            (self.folder / name).write_text("\n".join(locks.get(name, [])) + "\n", encoding="utf-8")

    def make(self, target: str) -> "subprocess.CompletedProcess[str]":
        """Run make with the index as the only one, and with one more that is not there."""
        return subprocess.run(
            ["make", target, f"PYTHON={sys.executable}"], cwd=self.folder, capture_output=True, text=True, check=False,
            env={**self.index.environment(), "PIP_FIND_LINKS": str(self.folder / "nowhere")}, timeout=300,
        )  # fmt: skip

    def installed(self) -> dict[str, str]:
        """What is in .venv besides what every environment holds."""
        python = str(self.folder / ".venv/bin/python")
        command = [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
        listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
        return {
            each["name"]: each["version"] for each in listed if each["name"] not in {"pip", "setuptools", "callspool"}
        }


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds pip alone, to be copied: the pip of this one, for unpacking another takes seconds."""
    folder = tmp_path_factory.mktemp("environment") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    pip = distribution("pip")
    for name in {file.parts[0] for file in pip.files or () if file.parts[0].startswith("pip")}:
        shutil.copytree(Path(str(pip.locate_file(name))), site / name)
    return folder


@pytest.fixture
def project(tmp_path: Path, environment: Path) -> Project:
    """A project that locks nothing yet, with an empty environment."""
    folder = tmp_path / "project"
    shutil.copytree(environment, folder / ".venv", symlinks=True, copy_function=os.link)
    return Project(folder, Index(tmp_path / "index"))


@pytest.mark.slow
@pytest.mark.parametrize("setup", [False, pytest.param(True, marks=pytest.mark.prove)], ids=["runs", "tests too"])
def test_the_setup_does_not_change_with_the_index(project: Project, setup: bool) -> None:
    """With newer versions of everything in the index, exactly the locked ones are installed, and none is missing.

    What runs is set up first, without what tests need.
    """
    locks: dict[str, list[str]] = {}
    expected: dict[str, dict[str, str]] = {}
    for lock in LOCKS:
        pins = {name: pin for name, pin in locked(lock).items() if name != "pip" and pin.holds()}  # pip must work
        locks[lock] = [project.index.add(name, pin.version, *_asked_for(name)) for name, pin in pins.items()]
        expected[lock] = {name: pin.version for name, pin in pins.items()}
        for name in pins:
            project.index.add(name, "9999.0")
    project.write(locks, [str(line) for line in _runtime()])

    done = project.make(".venv/.runs")

    assert done.returncode == 0, done.stdout + done.stderr
    assert project.installed() == expected["requirements.lock"] | expected["requirements-build.lock"]

    if setup:
        done = project.make("setup")

        assert done.returncode == 0, done.stdout + done.stderr
        installed = [expected[lock].items() for lock in LOCKS if lock not in DOWNLOADED]
        assert project.installed() == {name: version for items in installed for name, version in items}
        wheels = [expected[lock].items() for lock in DOWNLOADED]
        assert {path.name for path in (project.folder / ".venv/wheels").iterdir()} == {
            f"{name.replace('-', '_')}-{version}-py3-none-any.whl" for items in wheels for name, version in items
        }


@pytest.mark.slow
def test_a_failure_is_said_first(project: Project) -> None:
    """When pip fails, the first line says why, and none of its warnings stand before or after it."""
    lines = [project.index.add("runs", "1.0"), project.index.add("gone", "1.0")]
    project.index.remove("gone")
    project.write({"requirements.lock": lines}, [])
    first, *others = project.make(".venv/.runs").stderr.splitlines()
    assert first == "Set-up failed. No matching distribution found for gone==1.0"
    assert not [line for line in others if "WARNING" in line or "is ignored" in line]
    assert (project.folder / ".venv/pip.err").read_text("utf-8").count("nowhere") > 0, "there was a warning"


@pytest.mark.prove
def test_a_gap_in_a_lock_is_said(project: Project) -> None:
    """A lock that lacks what one of its distributions asks for is found when it is installed."""
    lines = [project.index.add("runs", "1.0", ["needed>=2"])]
    project.index.add("needed", "2.0")
    project.write({"requirements.lock": lines}, [])
    first, *_ = project.make(".venv/.runs").stderr.splitlines()
    assert first == "The locks are not complete (make lock): runs 1.0 requires needed, which is not installed."


def _asked_for(name: str) -> tuple[list[str], list[str]]:
    """What the real distribution asks for, and its extras."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed here: make setup")
    return list(found.requires or ()), found.metadata.get_all("Provides-Extra") or []


def _runtime() -> list[Requirement]:
    """What callspool itself asks for."""
    return [Requirement(line) for line in distribution("callspool").requires or () if "extra ==" not in line]
