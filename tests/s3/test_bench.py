"""The benchmark of draining to S3 measures what it says."""

from pathlib import Path

import pytest

from bench.drain_s3 import DrainSize, measure

pytestmark = pytest.mark.slow


def test_both_ways_are_measured_in_the_same_run(tmp_path: Path, credentials: None) -> None:
    """Every size has a rate for callspool and for `upload_fileobj`, and their ratio, over the same stored bytes."""
    (comparison,) = measure(tmp_path, rounds=1, sizes=(DrainSize("1 MB", 1_000_000, 2),))
    assert comparison.size == "1 MB"
    assert 200_000 < comparison.stored_bytes < 2_000_000
    rates = comparison.callspool.median, comparison.upload_fileobj.median
    assert min(rates) > 0
    assert comparison.ratio.median == pytest.approx(rates[0] / rates[1])
