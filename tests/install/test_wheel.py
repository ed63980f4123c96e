"""The wheel: what is in it, and that it runs in a clean environment beside modules with the names of ours."""

import asyncio
import sys
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import psutil
import pytest

from bench.calllogs import make_call_log
from deploy.version import version
from tests.install.environments import Installed, build_wheel, installed
from tests.install.pythons import needs_python
from tests.project.repository import ROOT, tracked
from tests.system.gateway_process import GatewayProcess

GIANT_BYTES = 20_000_000
"""More than is examined in the gateway's own process."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_only_our_package_is_installed(wheel: Path) -> None:
    """site-packages gets `callspool/` and its metadata; every product file is in it, and no test."""
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names} == {"callspool", f"callspool-{version()}.dist-info"}
    folders = {"config", "gateway", "spool", "uploaders"}
    left_out = {Path("gateway/__main__.py")} | {path for path in tracked() if path.parts[:2] == ("gateway", "launcher")}
    product = {f"callspool/{path}" for path in tracked() if path.parts[0] in folders and path not in left_out}
    launcher = {f"callspool/{name}.py" for name in ("__init__", "__main__", "launcher", "testing")}
    assert {name for name in names if name.startswith("callspool/")} == product | launcher
    assert {"callspool/spool/schema/0001_initial.sql", "callspool/gateway/admin/page/assets/uplot.LICENSE"} <= names


def test_pip_refuses_a_python_that_is_too_old(wheel: Path) -> None:
    """The metadata says which Python is needed, so that pip says it in one line."""
    with ZipFile(wheel) as archive:
        metadata = message_from_bytes(archive.read(f"callspool-{version()}.dist-info/METADATA"))
    assert metadata["Requires-Python"] == ">=3.11"


async def _works(made: Installed) -> None:
    """It shows its configuration, takes small and giant posts, delivers them, and stops, by both of its names."""
    names: tuple[tuple[str | Path, ...], ...] = ((made.program,), (made.python, "-m", "callspool"))
    shown = {made.run(*program, "check-config", "--local") for program in names}
    assert len(shown) == 1, "both are the same command"
    assert made.run(made.program, "version") == f"callspool {version()}\n"
    for number, program in enumerate(names):
        gateway = GatewayProcess(made.folder, made.variables, arguments=("--local",), program=program)
        async with gateway:
            assert (await gateway.post(make_call_log(2_000, seed=number, call_id=f"small-{number}"))).status == 202
            assert (
                await gateway.post(make_call_log(GIANT_BYTES, seed=number, call_id=f"giant-{number}"))
            ).status == 202
            (child,) = psutil.Process(gateway.process.pid).children()
            assert "gateway.intake.parse_worker_main" in child.cmdline()
            await gateway.delivered()
            gateway.terminate()
            assert await gateway.ended() == 0, gateway.log
        delivered = {path.parent.name for path in made.folder.glob("callspool-data/delivered/*/*/*")}
        assert {f"small-{number}", f"giant-{number}"} <= delivered


@pytest.mark.prove
async def test_the_wheel_runs_beside_foreign_modules(wheel: Path, tmp_path: Path) -> None:
    """No `config.py`, `gateway/` or `spool.py` in the current directory or in PYTHONPATH is taken for ours."""
    made = await asyncio.to_thread(installed, wheel, tmp_path, Path(sys.executable), None)
    await _works(made)


@pytest.mark.prove
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
async def test_the_wheel_runs_on_every_python(wheel: Path, tmp_path: Path, version: str) -> None:
    """The same in an environment that holds what the lock names and nothing else, for each Python of this machine."""
    made = await asyncio.to_thread(installed, wheel, tmp_path, needs_python(version), ROOT / "requirements.lock")
    made.run(made.python, "-m", "pip", "check")
    await _works(made)
