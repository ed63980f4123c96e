"""`callspool check-config --probe` asks the embedding model of a pipeline for one vector."""

from pathlib import Path

import pytest
from aiohttp.test_utils import unused_port
from click.testing import CliRunner

from gateway.cli import main


@pytest.mark.parametrize("url", [None, "nobody"])
def test_a_pipeline_is_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    """Its own model answers; a server that is not there does not, which the exit code says. Nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLSPOOL_DATABASE_URL", "sqlite:///calls.db")
    monkeypatch.setenv("CALLSPOOL_PIPELINE", "local")
    if url is not None:
        monkeypatch.setenv("CALLSPOOL_OPENAI_BASE_URL", f"http://127.0.0.1:{unused_port()}/v1")
    result = CliRunner().invoke(main, ["check-config", "--probe"])
    assert ("wordllama-256 makes vectors of 256 dimensions" in result.output) == (url is None), result.output
    assert ("cannot be asked" in result.output) == (url is not None)
    assert (result.exit_code == 0) == (url is None)
