"""What a release is made of: its version, archives that anybody can build again, and a bill of what is in it."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from deploy.version import FIRST, version
from tests.project.locks import locked
from tests.project.repository import ROOT, text, tracked

EPOCH = "1793000000"


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.invalid", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def build(folder: Path, source: Path = ROOT) -> dict[str, bytes]:
    """Wheel and source archive, by name."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "RELEASE_VERSION": version()}
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120, env=environment)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return build(tmp_path_factory.mktemp("first"))


def test_the_version_comes_from_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a clone without tags a development version of the first release, of a tagged commit the tag's, after it one of
    the next; of an archive what was written into it, and of neither what the build says."""
    monkeypatch.delenv("RELEASE_VERSION", raising=False)
    assert version(tmp_path) == f"{FIRST}.dev0"
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "one")
    assert re.fullmatch(rf"{re.escape(FIRST)}\.dev1\+g[0-9a-f]{{8}}", version(tmp_path))
    git(tmp_path, "tag", "v1.2.3")
    assert version(tmp_path) == "1.2.3"
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "two")
    git(tmp_path, "tag", "not-a-version")
    assert re.fullmatch(r"1\.2\.4\.dev1\+g[0-9a-f]{7,}", version(tmp_path))
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: callspool\nVersion: 1.2.3\n", encoding="utf-8")
    assert version(archive) == "1.2.3"
    monkeypatch.setenv("RELEASE_VERSION", "9.8.7")
    assert version(archive) == "9.8.7"


@pytest.mark.prove
def test_whoever_builds_it_again_gets_the_same_bytes(built: dict[str, bytes], tmp_path: Path) -> None:
    """Wheel and source archive are made twice, the second time out of the first one's source."""
    (name,) = [each for each in built if each.endswith(".tar.gz")]
    (tmp_path / name).write_bytes(built[name])
    with tarfile.open(tmp_path / name) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build(tmp_path / "again", tmp_path / name.removesuffix(".tar.gz"))
    wheel = next(each for each in built if each.endswith(".whl"))
    assert {each: digest(content) for each, content in again.items() if each == wheel} == {wheel: digest(built[wheel])}
    assert build(tmp_path / "twice") == built


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.slow
def test_the_archives_hold_what_is_tracked(built: dict[str, bytes], tmp_path: Path) -> None:
    """The source archive has what a build and its tests need, and nothing that a run left behind."""
    for name, content in built.items():
        (tmp_path / name).write_bytes(content)
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        members = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    assert members <= {*tracked(), Path("PKG-INFO"), *(path for path in members if not path.parts)}
    assert {Path("deploy/version.py"), Path("LICENSE"), Path("Makefile"), Path("tests/conftest.py")} <= members
    with ZipFile(wheel) as archive:
        assert all(entry.date_time[0] >= 2026 for entry in archive.infolist())


def test_the_first_release_is_prepared() -> None:
    """The changelog has its section, and the chart names its image."""
    assert re.search(rf"^## \[{re.escape(FIRST)}\]", text("CHANGELOG.md"), re.MULTILINE)
    assert yaml.safe_load(text("deploy/helm/callspool/Chart.yaml"))["appVersion"] == FIRST


def test_the_image_is_built_from_one_base() -> None:
    """By its digest: a tag means something else tomorrow."""
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", text("Dockerfile"), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim@sha256:[0-9a-f]{64}", base)
    assert re.findall(r"^FROM (\S+)", text("Dockerfile"), re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2


def test_the_bill_of_materials_names_what_the_image_has(tmp_path: Path) -> None:
    """Each distribution of the image's lock, with its version and its hashes, as CycloneDX."""
    pytest.importorskip("cyclonedx_py", reason="make dist installs cyclonedx-bom")
    words = "requirements requirements-image.lock --pyproject pyproject.toml --output-reproducible --output-format JSON"
    command = [sys.executable, "-m", "cyclonedx_py", *words.split()]
    made = [subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120).stdout for _ in range(2)]
    assert made[0] == made[1]
    bill = json.loads(made[0])
    assert bill["metadata"]["component"]["name"] == "callspool"
    found = {each["name"]: each for each in bill["components"]}
    pins = locked("requirements-image.lock")
    assert {name: each["version"] for name, each in found.items()} == {name: pin.version for name, pin in pins.items()}
    assert all(each["externalReferences"][0]["hashes"] for each in found.values())
