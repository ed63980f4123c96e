"""What the benchmark refuses before it measures anything."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.environment import on_disk

MEMORY = Path("/dev/shm")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--sizes", "3 KB"], "there are 2 KB, 500 KB, 15 MB"),
        (["--rounds", "0"], "--rounds"),
        (["--seconds", "600"], "--seconds"),
    ],
)
def test_a_run_without_bounds_or_sense_is_refused(disk_path: Path, arguments: list[str], told: str) -> None:
    """Every run is bounded, and what cannot be measured is said at once."""
    done = CliRunner().invoke(main, [*arguments, "--folder", str(disk_path)])
    assert done.exit_code == 2
    assert told in done.output


@pytest.mark.skipif(not MEMORY.is_dir() or on_disk(MEMORY), reason="needs a file system in memory at /dev/shm")
def test_a_spool_in_memory_is_not_measured() -> None:
    """An fsync in memory costs nothing, and its figures would be worthless."""
    done = CliRunner().invoke(main, ["--folder", str(MEMORY)])
    assert done.exit_code == 2
    assert "name a folder on a disk" in done.output
