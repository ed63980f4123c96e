"""`make audit`: what is known of a lock, what is not, and what could not be compared."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import ZipFile

import pytest

SCRIPT = Path(".ci/audit.py")
HASH = "--hash=sha256:" + "0" * 64


def advisory(**affected: Any) -> dict[str, Any]:
    package = {"ecosystem": "PyPI", "name": "some-package"}
    return {"id": "PYSEC-2026-1", "modified": "2026-11-01T00:00:00Z", "summary": "it is open to all",
            "aliases": ["CVE-2026-1"], "affected": [{"package": package, **affected}]}  # fmt: skip


def ranged(*events: dict[str, str]) -> dict[str, Any]:
    return advisory(ranges=[{"type": "ECOSYSTEM", "events": list(events)}])


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_of_locks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def locks(tmp_path: Path) -> dict[str, Path]:
    """One with the version that the advisories are about, and one with the next."""
    made = {}
    for version in ("1.4", "1.5"):
        made[version] = tmp_path / f"{version}.lock"
        made[version].write_text(f"some-package=={version} {HASH}\nother==2 {HASH}\n")
    return made


@pytest.mark.parametrize(
    ("record", "version", "expected"),
    [
        (ranged({"introduced": "0"}, {"fixed": "1.5"}), "1.4", True),
        (ranged({"introduced": "0"}, {"fixed": "1.5"}), "1.5", False),
        (ranged({"introduced": "0"}), "99", True),
        (ranged({"introduced": "1.2"}, {"fixed": "1.5"}), "1.1", False),
        (ranged({"introduced": "1.2"}, {"last_affected": "1.4"}), "1.4", True),
        (ranged({"introduced": "1.2"}, {"last_affected": "1.4"}), "1.4.1", False),
        (ranged({"fixed": "1.5"}, {"introduced": "1.2"}, {"introduced": "2.0"}, {"fixed": "2.1"}), "2.0.5", True),
        (ranged({"fixed": "1.5"}, {"introduced": "1.2"}, {"introduced": "2.0"}, {"fixed": "2.1"}), "1.6", False),
        (ranged({"introduced": "0"}, {"fixed": "1.10"}), "1.9", True),
        (advisory(versions=["1.4"]), "1.4", True),
        (advisory(versions=["1.4"]), "1.4.1", False),
        ({**advisory(versions=["1.4"]), "withdrawn": "2026-11-02T00:00:00Z"}, "1.4", False),
        (advisory(ranges=[{"type": "GIT", "events": [{"introduced": "0"}]}]), "1.4", False),
    ],
)
def test_an_advisory_is_about_the_versions_that_it_names(
    audit: ModuleType, record: dict[str, Any], version: str, expected: bool
) -> None:
    """Listed ones, and those in its ranges."""
    assert audit.affects(record, "some-package", version) is expected
    assert not audit.affects(record, "another", version)


@pytest.mark.prove
def test_an_export_is_compared_with_each_lock(tmp_path: Path, locks: dict[str, Path]) -> None:
    """What is known is printed with the version that has it fixed, and ends with 1; that an export is old is said."""
    export = tmp_path / "all.zip"
    with ZipFile(export, "w") as archive:
        archive.writestr("PYSEC-2026-1.json", json.dumps(ranged({"introduced": "0"}, {"fixed": "1.5"})))
        archive.writestr("PYSEC-2020-2.json", json.dumps({**ranged({"introduced": "3"}), "id": "PYSEC-2020-2"}))
    done = run("--advisories", export, *locks.values())
    assert done.returncode == 1, done.stderr
    assert "2 advisories, the newest of 2026-11-01" in done.stdout
    assert f"{locks['1.4']}: 1 known" in done.stdout
    assert "some-package 1.4: PYSEC-2026-1, CVE-2026-1; fixed in 1.5: it is open to all" in done.stdout
    assert f"{locks['1.5']}: 2 packages, no known vulnerability" in done.stdout


@pytest.mark.prove
def test_a_database_that_answers_is_asked(audit: ModuleType, locks: dict[str, Path]) -> None:
    """As osv.dev does; nothing known ends with 0."""
    with audit.serving([ranged({"introduced": "0"}, {"fixed": "1.5"})]) as url:
        assert run("--osv-url", url, locks["1.5"]).returncode == 0
        assert run("--osv-url", url, locks["1.4"]).returncode == 1


@pytest.mark.prove
def test_what_could_not_be_compared_is_not_sound(tmp_path: Path, locks: dict[str, Path]) -> None:
    """Without a database that answers, and with a file that holds no advisories; both say what to do."""
    done = run("--osv-url", "http://127.0.0.1:9/v1/query", locks["1.5"])
    assert (done.returncode, done.stdout) == (2, "")
    assert "not compared" in done.stderr
    assert "ADVISORIES=all.zip" in done.stderr
    empty = tmp_path / "no-advisories.json"
    empty.write_text("{}")
    assert run("--advisories", empty, locks["1.5"]).returncode == 2
