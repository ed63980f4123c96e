"""The pytest fixture for the tests of agents."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.project.repository import ROOT

LAUNCHER = ROOT / "gateway" / "launcher"


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that was not started."""
    monkeypatch.setenv("PYTHONPATH", str(LAUNCHER))
    spec = importlib.util.spec_from_file_location("testing", LAUNCHER / "callspool" / "testing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RunningGateway(tmp_path)


def test_a_gateway_that_is_not_ready_in_time_is_not_left_behind(gateway: Any) -> None:
    """No test would end it."""
    with pytest.raises(RuntimeError, match="did not start"):
        gateway.start(seconds=0.0)
    assert gateway._process.poll() is not None


@pytest.mark.prove
def test_a_gateway_of_the_fixture_is_a_real_one(gateway: Any) -> None:
    """It accepts, delivers, survives a kill, and shows what arrived."""
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
