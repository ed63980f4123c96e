"""`callspool work` says what it lacks before it starts, in one sentence and by its exit code."""

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.runtime import worker

KAFKA = '[[destinations]]\nname = "{}"\ntype = "kafka"\nbrokers = "127.0.0.1:1"\n'
SQLITE = '[[destinations]]\nname = "{}"\ntype = "sqlite"\npath = "calls.db"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SQLITE.format("db"), "there is no kafka destination: set CALLSPOOL_KAFKA_BROKERS"),
        (KAFKA.format("k"), "there is no store: set CALLSPOOL_DATABASE_URL"),
        (KAFKA.format("a") + KAFKA.format("b") + SQLITE.format("db"), "set work.source to one of a, b"),
        (KAFKA.format("k") + SQLITE.format("db") + '[work]\nstore = "other"\n', "work.store should be the name of a"),
    ],
)
def test_what_is_not_configured_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, restored_logging: None, text: str, said: str
) -> None:
    """Exit code 2, as for every mistake in a configuration."""
    for name in [name for name in os.environ if name.startswith("CALLSPOOL_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "callspool.toml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["work", "--config", str(file)])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_a_missing_client_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, restored_process: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and the command that installs it."""
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.setenv("CALLSPOOL_ADMIN_LISTEN", "127.0.0.1:0")
    file = tmp_path / "callspool.toml"
    file.write_text(KAFKA.format("k") + SQLITE.format("db"))
    result = CliRunner().invoke(main, ["work", "--json", "--config", str(file)])
    assert result.exit_code == 1, result.output
    assert "pip install 'callspool[kafka]'" in capfd.readouterr().err + result.output


def test_the_only_cluster_and_store_are_taken() -> None:
    """Nothing needs to be said where there is no choice."""
    from config.loader import load

    variables = {"CALLSPOOL_KAFKA_BROKERS": "127.0.0.1:1", "CALLSPOOL_DATABASE_URL": "sqlite:///calls.db"}
    settings = load(None, variables).settings
    assert (worker.source_of(settings).name, worker.target_of(settings).name) == ("kafka", "database")
