"""A loaded gateway is killed again and again: what it acknowledged arrives, in order, whole, and hardly ever twice."""

import asyncio
import time
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from bench.endpoint import Endpoint
from config.destinations import LaneConcurrency
from tests.system import spool_files
from tests.system.acknowledged import assert_arrived
from tests.system.agents import Agents
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until
from uploaders.dispatch.lane import MOST_UNSETTLED

SIZES = (2_000, 2_000, 2_000, 500_000, 500_000, 6_000_000)
SLOTS = LaneConcurrency()
MOST_IN_FLIGHT = SLOTS.core + SLOTS.detail + 2 * MOST_UNSETTLED
"""Attempts under way, and those whose end is not written yet, in both lanes together."""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.prove)])
async def test_nothing_acknowledged_is_lost_by_sigkill(
    tmp_path: Path, record_property: Callable[[str, object], None], kills: int
) -> None:
    """Killed at random moments, it loses nothing acknowledged: all arrives, equal, in order, and hardly ever twice."""
    rng = Random(20)
    async with Endpoint() as endpoint:
        settings = {"CALLSPOOL_ENDPOINT_URL": endpoint.url}
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            agents = Agents(gateway, endpoint, most_owed=40)
            async with agents.running(SIZES):
                settled = [await _die_and_come_back(gateway, agents, rng, tmp_path / "copy") for _ in range(kills)]
            await gateway.delivered()
            assert await gateway.metric("callspool_unaccounted_records") == 0
            assert not (await gateway.destination())["dead"]
            assert await gateway.hurry() == 0
        _, at_last, faults = _look(gateway.spool, tmp_path / "copy")
    assert not faults
    assert agents.cut_off >= kills, "too few posts were under way when it was killed"
    assert any(posted.two_phase for posted in agents.acknowledged), "nothing large was acknowledged"
    for posted in agents.acknowledged:
        assert_arrived(endpoint, posted)
    assert at_last == {key for posted in agents.acknowledged for key in posted.keys} == endpoint.documents.keys()
    assert_in_order(agents, endpoint)
    record_property("told", assert_hardly_ever_twice(endpoint, gateway.starts(), settled))


async def _die_and_come_back(gateway: GatewayProcess, agents: Agents, rng: Random, copy: Path) -> set[str]:
    """Kill it at a random moment with posts under way, and start it again.

    Returns the idempotency keys of what its spool knew as delivered meanwhile.
    """
    moment = time.monotonic() + rng.uniform(0.1, 0.7)

    async def has_come() -> bool:
        return time.monotonic() > moment and agents.under_way > 0

    await until(has_come, "a post is under way")
    acknowledged = {posted.uid for posted in agents.acknowledged}
    await gateway.kill()
    accepted, settled, faults = await asyncio.to_thread(_look, gateway.spool, copy)
    assert acknowledged <= accepted, "acknowledged before it was durable"
    assert not faults
    await agents.endpoint.wait_until(lambda: not agents.endpoint.under_way)
    await gateway.start()
    return settled


def _look(spool: Path, copy: Path) -> tuple[set[str], set[str], list[str]]:
    with spool_files.copy_of(spool, copy) as database:
        return spool_files.accepted(database), spool_files.delivered(database), spool_files.faults(database)


def assert_in_order(agents: Agents, endpoint: Endpoint) -> None:
    """Per call: the core lane in the order of acknowledgement, each detail after its core, none ever turned away."""
    assert {arrival.status for arrival in endpoint.arrivals} == {200}
    order: dict[str, list[str]] = defaultdict(list)
    for posted in agents.acknowledged:
        order[posted.call_id].append(posted.keys[0])
    core_lane: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for arrival in endpoint.arrivals:
        if arrival.kind == "detail":
            assert arrival.key.replace("-detail", "-core") in seen
        elif core_lane[arrival.call_id][-1:] != [arrival.key]:
            core_lane[arrival.call_id].append(arrival.key)
        seen.add(arrival.key)
    assert core_lane == order


def assert_hardly_ever_twice(endpoint: Endpoint, starts: list[float], settled: list[set[str]]) -> str:
    """What came twice is what was in flight at a kill: taken by the endpoint, and not yet written down as delivered.

    Returns the figures, in a sentence.
    """
    assert not endpoint.conflicts
    lives = [list[str]() for _ in starts]
    for arrival in endpoint.arrivals:
        lives[bisect(starts, arrival.at) - 1].append(arrival.key)
    assert all(len(life) == len(set(life)) for life in lives), "the same process sent it twice"
    in_flight = [set(life) - known for life, known in zip(lives, settled, strict=False)]
    distinct = len(endpoint.documents)
    repeats = len(endpoint.arrivals) - distinct
    assert repeats <= sum(map(len, in_flight))
    assert sum(map(len, in_flight)) >= len(settled) // 2, "too few deliveries were under way when it was killed"
    assert max(map(len, in_flight)) <= MOST_IN_FLIGHT
    sent = sum(arrival.sent_bytes for arrival in endpoint.arrivals) / 1e6
    return (
        f"{len(settled)} kills, {distinct} deliveries of {sent:.0f} MB, {repeats} of them made twice; "
        f"in flight at the kills: {sum(map(len, in_flight))}, at most {max(map(len, in_flight))} at one"
    )
