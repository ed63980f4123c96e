"""Hostile clients beside honest ones: nobody is killed, nothing acknowledged is lost, and the honest are answered."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from urllib.request import Request, urlopen

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings, target
from hypothesis import strategies as st

from bench.calllogs import make_call_log
from bench.memory import PeakMemory
from tests.budget import budgeted
from tests.intake.shapes import SHAPES, SPANS, TURNS, WAYS, WORST, Shape
from tests.processes import cpu_seconds
from tests.system import spool_files
from tests.system.gateway_process import GatewayProcess
from tests.system.giants import giant_endpoint, memory_limit

REPOSITORY = Path(__file__).parents[2]
MIB = 1 << 20
SHIPPED_LIMIT = 512 * MIB
"""What the files in deploy/ set."""
ANONYMOUS_MAX = 300 * MIB
CPU_SECONDS = 4.0
"""What any body of up to 16 MiB may cost, gateway and parse worker together."""
LARGE = 5_000_000
SMALL_SECONDS, LARGE_SECONDS = 1.0, 3.0
SLOWER_AT_MOST = 3
"""On a machine that is busy otherwise: so many times as long as the same post to a bare server takes meanwhile."""


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`tests.system.hostile` with these arguments, ended at the end."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.system.hostile", *arguments, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def line_of(child: asyncio.subprocess.Process, seconds: float = 30.0) -> str:
    """What it prints next."""
    assert child.stdout is not None
    async with asyncio.timeout(seconds):
        return (await child.stdout.readline()).decode().strip()


class HonestAgent:
    """Posts call logs of a size now and then, and notes what it was answered, and how soon.

    Each is posted to `yardstick` too, a bare server that writes and syncs it: what a busy machine adds is in both.
    """

    def __init__(self, gateway: GatewayProcess, yardstick: str, size: int, pause: float) -> None:
        self.seconds: list[float] = []
        self.yardstick_seconds: list[float] = []
        self.accepted: set[str] = set()
        self.rejected: list[object] = []
        self._gateway = gateway
        self._yardstick = yardstick
        self._size = size
        self._pause = pause

    async def post_until(self, ended: asyncio.Event) -> None:
        """Post at least three times."""
        while not ended.is_set() or len(self.seconds) < 3:
            number = len(self.seconds)
            body = make_call_log(self._size, seed=number, call_id=f"honest-{self._size}-{number}")
            began = time.perf_counter()
            reply = await self._gateway.post(body, headers={"x-pype-token": "honest"})
            self.seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
            await asyncio.to_thread(_posted, self._yardstick, body, number)
            self.yardstick_seconds.append(time.perf_counter() - began)
            if reply.status == 202:
                self.accepted.add(reply.json["record_id"])
            else:
                self.rejected.append(reply)
            await asyncio.sleep(self._pause)

    @property
    def told(self) -> str:
        """How long the answers took."""
        return (
            f"{len(self.seconds)} posts, median {median(self.seconds):.2f} s, at most {max(self.seconds):.2f} s "
            f"(a bare server {max(self.yardstick_seconds):.2f} s)"
        )

    def assert_answered_within(self, seconds: float) -> None:
        """All were accepted, each in so much time, or as fast as the machine is."""
        assert not self.rejected
        assert max(self.seconds) < max(seconds, SLOWER_AT_MOST * max(self.yardstick_seconds))


def _posted(url: str, body: bytes, number: int) -> None:
    request = Request(url, data=body, headers={"Idempotency-Key": f"{len(body)}-{number}"})
    with urlopen(request, timeout=30) as response:
        response.read()


@pytest.mark.prove
@pytest.mark.parametrize("seconds", [budgeted(small=15, full=300)])
async def test_the_hostile_hold_up_nobody(
    disk_path: Path, record_property: Callable[[str, object], None], seconds: int
) -> None:
    """All hostile inputs at once, beside honest ones, at the memory that is shipped."""
    async with process("sink") as sink, giant_endpoint(disk_path / "bare", "--sync") as bare:
        environment = {"CALLSPOOL_ENDPOINT_URL": f"http://127.0.0.1:{await line_of(sink)}/send-call-log"}
        with memory_limit(SHIPPED_LIMIT) as limit:
            async with GatewayProcess(disk_path / "gateway", environment, prefix=limit) as gateway:
                pid = gateway.process.pid
                small, large = HonestAgent(gateway, bare, 2_000, 0.05), HonestAgent(gateway, bare, LARGE, 0.7)
                ended = asyncio.Event()
                ports = (url.rpartition(":")[2] for url in (gateway.intake_url, gateway.admin_url))
                with PeakMemory(pid) as memory:
                    async with process(*ports, str(seconds), "1") as hostile, asyncio.TaskGroup() as group:
                        for agent in (small, large):
                            group.create_task(agent.post_until(ended))
                        attempts = await line_of(hostile, seconds + 60)
                        ended.set()
                assert gateway.alive
                assert gateway.process.pid == pid
                acknowledged = small.accepted | large.accepted
                assert await gateway.metric("callspool_unaccounted_records") == 0
                await gateway.kill()
            with spool_files.copy_of(gateway.spool, disk_path / "copy") as database:
                assert acknowledged <= spool_files.accepted(database)
                assert not spool_files.faults(database)
    assert memory.peak.anonymous is not None
    record_property(
        "told",
        f"{attempts} hostile attempts in {seconds} s {'in a' if limit else 'without a'} memory group of 512 MiB; "
        f"{memory.peak.anonymous / MIB:.0f} MiB of anonymous memory at most; 2 KB: {small.told}; 5 MB: {large.told}",
    )
    small.assert_answered_within(SMALL_SECONDS)
    large.assert_answered_within(LARGE_SECONDS)
    assert memory.peak.anonymous < ANONYMOUS_MAX


async def cost_of(gateway: GatewayProcess, shape: Shape, way: str) -> float:
    """The seconds of CPU that it costs to post a body of this shape, until nothing works on it any more."""
    chosen, pid, method_path = WAYS[way], gateway.process.pid, WAYS[way].path
    if way == "upload":
        wanted = {"call_id": "k", "content_type": "application/json"}
        given = await gateway.post(wanted, "/get-upload-url")
        method_path = str(given.json["upload_url"]).removeprefix(gateway.intake_url)
    body = await asyncio.to_thread(lambda: chosen.pack(shape.body()))
    before = cpu_seconds(pid)
    method = "PUT" if way == "upload" else "POST"
    status, answer = await gateway.answer_to(body, method_path, chosen.headers, method=method)
    assert status in {200, 202, 400, 413}, status
    assert b"decompression_bomb" not in answer, "it was not even decoded"
    return cpu_seconds(pid) - before


@pytest.mark.prove
@pytest.mark.parametrize("way", WAYS)
async def test_no_shape_costs_more_than_four_seconds(
    tmp_path: Path, record_property: Callable[[str, object], None], way: str
) -> None:
    """Whatever way a body comes in, it costs at most 4 s of CPU, gateway and parse worker together."""
    names = tuple(SHAPES)[: budgeted(small=0, full=len(SHAPES))] or WORST[: len(WORST) if way == "plain" else 1]
    async with GatewayProcess(tmp_path / "gateway", {"CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/"}) as gateway:
        costs = {name: await cost_of(gateway, SHAPES[name], way) for name in names}
    worst = max(costs, key=lambda name: costs[name])
    record_property("told", f"{way}: {worst} costs the most, {costs[worst]:.1f} s")
    assert costs[worst] < CPU_SECONDS, costs


UNITS = (
    "1,", "[],", "{},", "[1],", '"a":1,', '"%d":0,', '"\\ud800",', "NaN,", '"\\n",', "-Infinity,", '"\\u0041",', "1e9,",
    '{"duration_ms":-1},', '{"user_transcript":1},', '{"name":"\\ud800"},', '{"exceptions":[1]},', "[[[[", '{"a":',
    " ", "\n",
)  # fmt: skip
PLACES = (
    ('{"call_id":"k",', '"z":0}'),
    ('{"call_id":"k","m":[', "1]}"),
    ('{"call_id":"k","s":"\\ud800","m":[', "1]}"),
    ('{"call_id":"k","s":NaN,"m":[', "1]}"),
    ('{"call_id":"k","m":{', '"z":0}}'),
    (TURNS, "{}]}"),
    (TURNS + '{"user_transcript":1},', "{}]}"),
    (TURNS + '{"user_transcript":"\\ud800"},', "{}]}"),
    (SPANS, "{}]}}"),
    (SPANS + '{"duration_ms":-1},', "{}]}}"),
)
shapes = st.builds(
    lambda place, units, megabytes: Shape(place[0], "".join(units), place[1], megabytes),
    st.sampled_from(PLACES),
    st.lists(st.sampled_from(UNITS), min_size=1, max_size=3),
    st.sampled_from([15.9, 5.3, 1.0]),
)


@pytest.mark.prove
def test_a_search_finds_no_costlier_shape(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Hypothesis looks for the bytes that cost the most, and finds none above 4 s."""
    costs: dict[tuple[Shape, str], float] = {}

    async def search() -> None:
        async with GatewayProcess(tmp_path / "gateway", {"CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/"}) as gateway:
            loop = asyncio.get_running_loop()

            @settings(
                max_examples=budgeted(small=12, full=400),
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.explicit, Phase.generate, Phase.target],
                suppress_health_check=list(HealthCheck),
            )
            @given(shape=shapes, way=st.sampled_from(list(WAYS)))
            @example(shape=SHAPES[WORST[0]], way="plain")
            def looks(shape: Shape, way: str) -> None:
                cost = asyncio.run_coroutine_threadsafe(cost_of(gateway, shape, way), loop).result()
                costs[shape, way] = cost
                target(cost)
                assert cost < CPU_SECONDS

            await asyncio.to_thread(looks)

    asyncio.run(search())
    worst = max(costs, key=lambda found: costs[found])
    record_property("told", f"{len(costs)} shapes; the costliest: {worst}, {costs[worst]:.2f} s")


@pytest.mark.slow
async def test_the_costliest_shapes_cost_little_and_hold_up_nobody(tmp_path: Path) -> None:
    """Of the shapes that were found to cost the most, one after the other: bounded, and others are answered."""
    async with (
        giant_endpoint(tmp_path / "bare", "--sync") as bare,
        GatewayProcess(tmp_path / "gateway", {"CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/"}) as gateway,
    ):
        honest, ended = HonestAgent(gateway, bare, 2_000, 0.05), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(honest.post_until(ended))
            tried = zip(WORST[:2], ("envelope of a page", "gzip"), strict=True)
            costs = [await cost_of(gateway, SHAPES[name], way) for name, way in tried]
            ended.set()
    assert max(costs) < CPU_SECONDS
    honest.assert_answered_within(SMALL_SECONDS)
