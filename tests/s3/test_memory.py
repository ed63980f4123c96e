"""Memory while draining does not grow with what is drained."""

from pathlib import Path

import pytest

from bench.s3_server import Server
from tests.s3.drain_process import draining
from tests.s3.stored_objects import MEBIBYTE, opened_store

pytestmark = pytest.mark.slow

LIMIT_KIB = 150_000_000 // 1024


@pytest.mark.parametrize(
    ("sizes", "encoding"),
    [
        ([15] * 6, "gzip"),
        ([160, 160], "zstd"),
        pytest.param([15] * 6, "zstd", marks=pytest.mark.prove),
        pytest.param([300, 300], "zstd", marks=pytest.mark.prove),
        pytest.param([300], "gzip", marks=pytest.mark.prove),
    ],
)
async def test_draining_takes_less_than_150_mb(
    tmp_path: Path, weed: Server, bucket: str, sizes: list[int], encoding: str
) -> None:
    """A process that drains details of 15 MB, or two larger ones at once, never has 150 MB of memory.

    The frames of 160 MB are 120 MB, beside 50 MB that the process takes without any.
    """
    async with opened_store(tmp_path / "spool") as store:
        for size in sizes:
            await store.large(size * MEBIBYTE)
    async with draining(tmp_path / "spool", weed.endpoint, bucket, encoding, forked=False) as drain:
        *outcomes, peak = await drain.finished()
    assert len(outcomes) == len(sizes)
    assert all(outcome.startswith("Delivered") for outcome in outcomes)
    assert 0 < int(peak.split()[1]) < LIMIT_KIB
