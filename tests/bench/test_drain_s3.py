"""Draining to a bucket, measured."""

from pathlib import Path

import pytest

from bench.drain_s3 import DrainSize, measure


@pytest.mark.slow
def test_both_ways_store_the_same_bytes_and_are_timed(tmp_path: Path) -> None:
    """callspool and the S3 library drain the same objects to a real server; each rate and their ratio are known."""
    (comparison,) = measure(tmp_path, rounds=1, sizes=(DrainSize("1 MB", 1_000_000, 2),))
    assert comparison.size == "1 MB"
    assert 100_000 < comparison.stored_bytes < 2_000_000
    assert comparison.callspool.median > 0
    assert comparison.upload_fileobj.median > 0
    assert comparison.ratio.median > 0
