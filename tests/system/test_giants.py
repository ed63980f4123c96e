"""A giant goes in, through both phases, and out, in memory that does not grow with it."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from bench.memory import PeakMemory
from tests.budget import budgeted
from tests.system.gateway_process import GatewayProcess
from tests.system.giants import (
    PLAIN,
    WAYS,
    OtherAgent,
    Way,
    assert_holds_all,
    giant_endpoint,
    make_giant,
    memory_limit,
    p99,
    send,
)

MB = 1_000_000
ANONYMOUS_MAX = 250 * MB
CGROUP_MAX = 256 << 20
ACK_MS = 50.0
SLOWER_AT_MOST = 3
"""On a machine that is busy otherwise: so many times as long as the same post to a bare server takes meanwhile."""
LONGEST_SHARE = 0.2
"""No post of another agent waits for such a part of the giant's way: what holds up the event loop does."""
CONFIGURATION = """
[[destinations]]
name = "endpoint"
type = "http"
url = "{url}"
encoding = "zstd"
max_request_bytes = "4GB"
"""


async def _through(tmp_path: Path, size: int, way: Way) -> str:
    """Send a giant through a gateway beside another agent, check what arrived, and tell the figures."""
    posted = make_giant(tmp_path / "giant.json", size)
    packed = way.pack(posted)
    taken, configuration = tmp_path / "taken", tmp_path / "callspool.toml"
    arguments = ("--config", str(configuration))
    async with giant_endpoint(taken) as url, giant_endpoint(tmp_path / "bare", "--sync") as yardstick:
        configuration.write_text(CONFIGURATION.format(url=url), encoding="utf-8")
        with memory_limit(CGROUP_MAX) as limit:
            gateway = GatewayProcess(tmp_path / "gateway", arguments=arguments, prefix=limit)
            async with gateway:
                other = OtherAgent(gateway.intake_url + "/v1/calls", yardstick)
                began = time.perf_counter()
                with PeakMemory(gateway.process.pid) as memory:
                    async with other.posting():
                        answer = await send(gateway, packed, way)
                        assert answer["status"] in {200, 202}, answer
                        await gateway.delivered(deadline=300)
                        passage = time.perf_counter() - began
                assert gateway.alive
                assert not list((gateway.spool / "staging").iterdir())
    uid = answer["body"]["record_id"]
    assert_holds_all(posted, taken / f"{uid}-core.zstd", taken / f"{uid}-detail.zstd")
    assert memory.peak.anonymous is not None
    assert memory.peak.anonymous < ANONYMOUS_MAX
    usual, bare = (median(seconds) * 1000 for seconds in (other.seconds, other.yardstick_seconds))
    assert usual < max(ACK_MS, SLOWER_AT_MOST * bare)
    longest = max(other.seconds)
    assert longest < max(LONGEST_SHARE * passage, SLOWER_AT_MOST * max(other.yardstick_seconds))
    return (
        f"{size // MB} MB: {memory.peak.anonymous / MB:.0f} MB of anonymous memory at most, "
        f"{(memory.idle.anonymous or 0) / MB:.0f} MB before, {'in a' if limit else 'no'} memory group of 256 MiB; "
        f"{len(other.seconds)} acks of 2 KB meanwhile, p50 {usual:.0f} ms, p99 {p99(other.seconds):.0f} ms "
        f"(a bare server: {bare:.0f} ms and {p99(other.yardstick_seconds):.0f} ms)"
    )


@pytest.mark.slow
async def test_a_giant_needs_no_memory(disk_path: Path, record_property: Callable[[str, object], None]) -> None:
    """64 MB go in and out beside another agent, whose posts are acknowledged as before."""
    record_property("told", await _through(disk_path, 64 * MB, PLAIN))


@pytest.mark.prove
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
async def test_a_gigabyte_needs_no_memory(
    disk_path: Path, way: Way, record_property: Callable[[str, object], None]
) -> None:
    """A call log of 1 GB goes in, however it is packed and sent, through both phases and out, in less than 250 MB."""
    record_property("told", await _through(disk_path, budgeted(small=200, full=1000) * MB, way))
