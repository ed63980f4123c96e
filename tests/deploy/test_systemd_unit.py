"""The unit in deploy/systemd, by systemd's own tools, and a gateway under the filter of system calls that it sets."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.calllogs import make_call_log
from tests.project.repository import ROOT, text
from tests.system.gateway_process import GatewayProcess

UNIT = "deploy/systemd/callspool.service"
EXPOSED = 16
"""In tenths: what systemd 252 counts, 1.5 of 10, and a little for other versions."""
GIANT_BYTES = 20_000_000
"""More than is examined in the gateway's own process."""
FILTERED = Path(__file__).with_name("filtered.py")


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not on this machine")
    return found


def test_systemd_finds_no_fault_with_the_unit(analyze: str, tmp_path: Path) -> None:
    """Every key and value is known, of system calls too; only the program is not there."""
    unit = tmp_path / "callspool.service"
    unit.write_text(text(UNIT).replace("/opt/callspool/bin/callspool", "/bin/true"))
    said = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False, timeout=60)
    assert (said.returncode, said.stderr) == (0, "")


def test_the_unit_can_do_little(analyze: str) -> None:
    """Its exposure as systemd counts it: a hardening that is taken out again shows."""
    if "--offline" not in subprocess.run([analyze, "--help"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("this systemd-analyze looks at running units only")
    said = subprocess.run(
        [analyze, "security", "--offline=true", f"--threshold={EXPOSED}", ROOT / UNIT],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout


def test_the_unit_gives_a_shutdown_its_time() -> None:
    """systemd waits longer than `shutdown.deadline`, and the loop beats several times before it is given up."""
    from config.settings import ShutdownSettings
    from gateway.process import BEAT_SECONDS

    found = dict(re.findall(r"^(TimeoutStopSec|WatchdogSec)=(\d+)$", text(UNIT), re.MULTILINE))
    assert int(found["TimeoutStopSec"]) > ShutdownSettings().deadline
    assert int(found["WatchdogSec"]) >= 3 * BEAT_SECONDS


@pytest.mark.slow
async def test_a_gateway_works_under_the_units_filter(analyze: str, tmp_path: Path) -> None:
    """Small calls and giants are accepted and delivered with the system calls that the unit allows, and without memory
    that can be written and executed."""
    pytest.importorskip("pyseccomp", reason="make check-deploy installs pyseccomp")
    prefix = (sys.executable, str(FILTERED), str(ROOT / UNIT))
    async with GatewayProcess(tmp_path / "gateway", arguments=("--local",), prefix=prefix) as gateway:
        for size in (2_000, GIANT_BYTES):
            assert (await gateway.post(make_call_log(size, seed=size, call_id=f"c{size}"))).status == 202
        await gateway.delivered()
        gateway.terminate()
        assert await gateway.ended() == 0, gateway.log


def test_landlock_is_allowed_by_the_units_filter(analyze: str) -> None:
    """What parses giants and reads foreign databases is confined there as elsewhere: the version of Landlock is the
    same."""
    pytest.importorskip("pyseccomp", reason="make check-deploy installs pyseccomp")
    version = (sys.executable, "-c", "import ctypes; print(ctypes.CDLL(None).syscall(444, None, 0, 1))")
    filtered = (sys.executable, FILTERED, ROOT / UNIT, *version)
    seen = [
        subprocess.run(command, capture_output=True, check=True, timeout=60).stdout for command in (version, filtered)
    ]
    assert seen[0] == seen[1]
