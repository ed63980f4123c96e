"""Memory while draining does not grow with what is drained."""

import pytest

from tests.s3.building import MEBIBYTE, opened_store
from tests.s3.processes import draining, finished

pytestmark = pytest.mark.slow

LIMIT_KIB = 150_000_000 // 1024


@pytest.mark.parametrize(("sizes", "encoding"), [([15] * 6, "zstd"), ([300, 300], "zstd"), ([300], "gzip")])
async def test_draining_takes_less_than_150_mb(tmp_path, weed, bucket, sizes, encoding):
    """A process that drains details of 15 MB, or two of 300 MB at once, never has 150 MB of memory."""
    async with opened_store(tmp_path / "spool") as store:
        for size in sizes:
            await store.large(size * MEBIBYTE)
    async with draining(tmp_path / "spool", weed.endpoint, bucket, encoding) as process:
        *outcomes, peak = await finished(process)
    assert len(outcomes) == len(sizes)
    assert all(outcome.startswith("Delivered") for outcome in outcomes)
    assert 0 < int(peak.split()[1]) < LIMIT_KIB
