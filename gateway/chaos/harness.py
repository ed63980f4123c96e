"""The gateway under test, and the scenario of faults that it goes through, phase by phase."""

import asyncio
import pickle
import random
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from config.loader import Loaded
from config.settings import Settings
from config.values import ListenAddress
from gateway.chaos.oracle import Notes, Verdict, judge
from gateway.chaos.traffic import Agents, ChaosEndpoint, FaultMode
from gateway.logs import configure_logging
from gateway.process import send_signal
from gateway.runtime.lifecycle import serve
from spool.sandbox import module_command

# The gateway under test: a process of its own, started again and again over the same spool.

START_SECONDS = 30.0
LOOK_SECONDS = 0.05


def free_address() -> ListenAddress:
    """An address of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return ListenAddress("127.0.0.1", int(probe.getsockname()[1]))


class GatewayFailed(Exception):
    """The gateway did not do what it had to; the message says what, and where its log lies."""


class GatewayUnderTest:
    """Starts and kills `python -m gateway.chaos.harness`, which takes its settings from standard input."""

    def __init__(self, settings: Settings, admin_url: str, log: Path) -> None:
        self._settings = pickle.dumps(settings)
        self._admin_url = admin_url
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self.starts = 0

    async def start(self) -> None:
        """Start it and wait until it takes posts. Raises `GatewayFailed` where it ends, or takes too long."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *module_command("gateway.chaos.harness"),
                stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log,
            )  # fmt: skip
        self.starts += 1
        assert self._process.stdin is not None
        self._process.stdin.write(self._settings)
        self._process.stdin.close()
        await self._until(lambda status, _: status == 200, "/readyz", START_SECONDS, "did not become ready")

    async def kill(self) -> None:
        """SIGKILL: it can do nothing about it."""
        await self._end(signal.SIGKILL)

    async def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT so much later, as when a container or a machine is paused."""
        assert self._process is not None, "started before"
        send_signal(self._process, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            send_signal(self._process, signal.SIGCONT)

    async def stop(self) -> None:
        """End it at once, but in order."""
        await self._end(signal.SIGTERM)

    async def drained(self, seconds: float) -> bool:
        """Wait until nothing is queued any more; returns whether that came in time."""
        try:
            await self._until(lambda _, text: _backlog(text) == 0, "/metrics", seconds, "did not drain")
        except GatewayFailed:
            return False
        return True

    async def figures(self) -> dict[str, float]:
        """The sums of some metrics: `dead_records` and `unaccounted_records`. Raises `GatewayFailed`."""
        url = f"{self._admin_url}/metrics"
        try:
            async with aiohttp.ClientSession(trust_env=False) as session, session.get(url) as got:
                text = await got.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise GatewayFailed(f"the gateway under test no longer answers; its log is {self._log}") from error
        return {name: _sum(text, f"callspool_{name}") for name in ("dead_records", "unaccounted_records")}

    async def _end(self, how: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        send_signal(self._process, how)
        async with asyncio.timeout(START_SECONDS):
            await self._process.wait()

    async def _until(self, enough: Callable[[int, str], bool], path: str, seconds: float, failure: str) -> None:
        assert self._process is not None, "started before"
        deadline = asyncio.get_running_loop().time() + seconds
        async with aiohttp.ClientSession(trust_env=False, timeout=aiohttp.ClientTimeout(total=5)) as session:
            while asyncio.get_running_loop().time() < deadline:
                if self._process.returncode is not None:
                    break
                # It may not be there yet, or not any more: it is looked at again until the deadline.
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self._admin_url}{path}") as got:
                        if enough(got.status, await got.text()):
                            return
                await asyncio.sleep(LOOK_SECONDS)
        raise GatewayFailed(f"the gateway under test {failure} within {seconds:g} s; its log is {self._log}")


def _backlog(metrics: str) -> float:
    return _sum(metrics, "callspool_backlog_records")


def _sum(metrics: str, name: str) -> float:
    """The sum of a metric over all its labels."""
    lines = (line for line in metrics.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


AGENTS = 4
LARGE_EVERY = 6
FULL = "spool_full"
FILL_POSTS = 200
DRAIN_SECONDS = 120.0
PAUSE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done. Times in seconds."""

    seconds: float = 30.0
    """For each of the two phases with kills."""
    kills: int = 5
    """In each of them, at random moments."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check came to."""

    verdict: Verdict
    starts: int
    filled: bool
    """Whether the spool was filled until it refused, and went on afterwards."""
    drained: bool
    dead: int
    unaccounted: int

    @property
    def passed(self) -> bool:
        """Whether every promise was kept."""
        return self.verdict.clean and self.drained and self.dead == 0 and self.unaccounted == 0


async def run_scenario(
    plan: Plan,
    gateway: GatewayUnderTest,
    endpoint: ChaosEndpoint,
    agents: Agents,
    notes: Notes,
    tell: Callable[[str], None],
) -> Outcome:
    """All phases. Raises `GatewayFailed` where the gateway does not start again."""
    chance = random.Random(plan.seed)
    await gateway.start()
    talking = asyncio.create_task(agents.run(AGENTS, large_every=LARGE_EVERY))
    try:
        tell("killing it while call logs come and go")
        await _kill_at_random(plan, gateway, chance)
        tell("pausing it while call logs come and go")
        await gateway.pause(min(PAUSE_SECONDS, plan.seconds / 4))
        tell("cutting the connections to the endpoint, and letting it fail in every way")
        faults = asyncio.create_task(_inject_faults(endpoint, plan.seconds, chance))
        await _kill_at_random(plan, gateway, chance)
        await faults
        tell("filling its spool while the endpoint is away")
        endpoint.fault_mode = FaultMode.DISCONNECT
        agents.may_begin.clear()
        await agents.fill(lambda code: code == FULL, FILL_POSTS)
        filled = notes.refused[FULL] > 0
        await gateway.kill()
        await gateway.start()
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
    tell("letting it deliver what is left")
    endpoint.fault_mode = FaultMode.NONE
    drained = await gateway.drained(DRAIN_SECONDS)
    figures = await gateway.figures()
    await gateway.stop()
    dead, unaccounted = int(figures["dead_records"]), int(figures["unaccounted_records"])
    return Outcome(judge(notes), gateway.starts, filled, drained, dead, unaccounted)


async def _kill_at_random(plan: Plan, gateway: GatewayUnderTest, chance: random.Random) -> None:
    pauses = [chance.random() + 0.2 for _ in range(plan.kills + 1)]
    for pause in pauses[:-1]:
        await asyncio.sleep(pause / sum(pauses) * plan.seconds)
        await gateway.kill()
        await gateway.start()
    await asyncio.sleep(pauses[-1] / sum(pauses) * plan.seconds)


async def _inject_faults(endpoint: ChaosEndpoint, seconds: float, chance: random.Random) -> None:
    modes: list[FaultMode] = [mode for mode in FaultMode if mode not in {FaultMode.NONE, FaultMode.HTTP_404}]
    chance.shuffle(modes)
    modes.append(FaultMode.HTTP_404)  # pauses the destination for a minute, or until the next start
    for mode in modes:
        endpoint.fault_mode = mode
        await asyncio.sleep(seconds / len(modes) / 2)
        endpoint.fault_mode = FaultMode.NONE
        await asyncio.sleep(seconds / len(modes) / 2)


# The process of the gateway under test: `python -m gateway.chaos.harness`.
#
# Its settings are read, pickled, from standard input, which only the process that started this one writes to: a file or
# variables could not say all of them without saying the operator's own destinations too.


def main() -> int:
    """Run a gateway with the given settings."""
    settings = pickle.loads(sys.stdin.buffer.read())  # see above: from the parent process alone
    assert isinstance(settings, Settings)
    configure_logging(settings.log.level, as_text=settings.log.format.as_text)
    loaded = Loaded(settings, {}, ())
    return serve(loaded, lambda: loaded)


if __name__ == "__main__":
    sys.exit(main())
