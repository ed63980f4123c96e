"""The pytest fixture for the tests of agents."""

import importlib.util
from pathlib import Path

import pytest

from tests.project.repository import ROOT

LAUNCHER = ROOT / "gateway" / "launcher"


@pytest.mark.prove
def test_a_gateway_of_the_fixture_is_a_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts, delivers, survives a kill, and shows what arrived."""
    monkeypatch.setenv("PYTHONPATH", str(LAUNCHER))
    spec = importlib.util.spec_from_file_location("testing", LAUNCHER / "callspool" / "testing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    gateway = module.RunningGateway(tmp_path)
    gateway.start()
    try:
        assert gateway.post({"call_id": "call-1", "call_ended_reason": "completed"})["success"]
        gateway.kill()
        gateway.start()
        assert gateway.wait_for("call-1")["call_ended_reason"] == "completed"
        with pytest.raises(TimeoutError):
            gateway.wait_for("call-2", seconds=0.1)
    finally:
        gateway.stop()
