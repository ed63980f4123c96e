"""The Dockerfile by hadolint, the alerts by promtool."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.project.repository import ROOT, text


def tool(name: str, where: str) -> str:
    """Its path; skips the test where it is not on this machine."""
    found = shutil.which(name) or shutil.which(name, path=str(ROOT / ".venv" / "bin"))
    if found is None:
        pytest.skip(f"{name} is not here: {where}")
    return found


def test_hadolint_finds_no_fault_with_the_dockerfile() -> None:
    """No rule of it is ignored."""
    hadolint = tool("hadolint", "make check-deploy installs it")
    said = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_promtool_finds_no_fault_with_the_alerts(command: list[str]) -> None:
    """They are valid, and each fires when alerts_test.yml says."""
    promtool = tool("promtool", "it is in the package prometheus of distributions")
    said = subprocess.run(
        [promtool, *command],
        cwd=ROOT / "deploy" / "prometheus",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_promtool_finds_no_fault_with_the_configuration(tmp_path: Path) -> None:
    """What the Compose file gives Prometheus, with the alerts beside it as there."""
    promtool = tool("promtool", "it is in the package prometheus of distributions")
    for name in ("compose/prometheus.yml", "prometheus/alerts.yml"):
        (tmp_path / Path(name).name).write_text(text(f"deploy/{name}"), encoding="utf-8")
    command = [promtool, "check", "config", str(tmp_path / "prometheus.yml")]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr
