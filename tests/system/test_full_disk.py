"""A disk that fills up, and has room again."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint
from tests.system.gateway_process import GatewayProcess


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB; only root may mount one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
async def test_a_full_disk_refuses_says_so_and_recovers_by_itself(tmp_path: Path, small_disk: Path) -> None:
    """Posts are answered 507 and kept by nobody, /readyz says why; with room again all that was accepted arrives."""
    async with Endpoint() as endpoint:
        await endpoint.stop()
        settings = {
            "CALLSPOOL_SPOOL_DIR": str(small_disk / "spool"),
            "CALLSPOOL_SPOOL_MAX_BYTES": "1GB",
            "CALLSPOOL_ENDPOINT_URL": endpoint.url,
            "CALLSPOOL_ENDPOINT_TOKEN": "key",
        }
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            accepted = []
            for number in range(20):
                answer = await gateway.post(make_call_log(15_000_000, seed=number, call_id=f"call-{number}"))
                if answer.status == 507:
                    break
                assert answer.status == 202
                accepted.append(f"call-{number}")
            assert 2 <= len(accepted) < 20
            assert await gateway.ready() == 503
            assert (await gateway.post(make_call_log(15_000_000, seed=99, call_id="refused"))).status == 507
            subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
            assert (await gateway.post(make_call_log(15_000_000, seed=100, call_id="later"))).status == 202
            assert await gateway.ready() == 200
            await endpoint.start()
            await endpoint.wait_for(2 * (len(accepted) + 1), deadline=60)
            await gateway.delivered()
            assert await gateway.metric("callspool_unaccounted_records") == 0
    assert {arrival.call_id for arrival in endpoint.accepted} == {*accepted, "later"}
