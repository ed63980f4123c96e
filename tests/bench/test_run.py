"""One small run of the whole benchmark."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.__main__ import main


@pytest.mark.prove
def test_a_run_measures_all_of_them_and_loses_nothing(disk_path: Path) -> None:
    """The benchmark works with callspool as it is: everything posted is acknowledged, and arrives."""
    result = disk_path / "result.json"
    arguments = ["--sizes", "2 KB", "--rounds", "1", "--seconds", "0.3", "--backlog", "2", "--no-s3"]
    done = CliRunner().invoke(main, [*arguments, "--folder", str(disk_path), "--json", str(result)])
    assert done.exit_code == 0, done.output
    told = json.loads(result.read_text())
    size = told["intake"][0]
    assert size["callspool"]["posts_per_second"]["median"] > 0
    assert size["bare"]["posts_per_second"]["median"] > 0
    assert size["work"]["posts_per_second"]["median"] > 0
    assert (size["callspool"]["refused"], size["bare"]["refused"]) == (0, 0)
    assert told["delivery"]["missing"] == 0
    assert told["delivery"]["callspool_megabytes_per_second"]["median"] > 0
    assert not list(disk_path.glob("run-*")), "spools and bodies are removed"
