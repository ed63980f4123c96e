"""What happens to the gateway under test, one phase after the other."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from gateway.chaos.agents import Agents
from gateway.chaos.endpoint import ChaosEndpoint, Mood
from gateway.chaos.oracle import Notes, Verdict, judge
from gateway.chaos.subject import Subject

AGENTS = 4
LARGE_EVERY = 6
FULL = "spool_full"
FILL_POSTS = 200
DRAIN_SECONDS = 120.0


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


async def run_course(
    plan: Plan, subject: Subject, endpoint: ChaosEndpoint, agents: Agents, notes: Notes, tell: Callable[[str], None]
) -> Outcome:
    """All phases. Raises `SubjectFailed` where the gateway does not start again."""
    chance = random.Random(plan.seed)
    await subject.start()
    talking = asyncio.create_task(agents.run(AGENTS, large_every=LARGE_EVERY))
    try:
        tell("killing it while call logs come and go")
        await _kill_at_random(plan, subject, chance)
        tell("cutting the connections to the endpoint, and letting it answer 503")
        moods = asyncio.create_task(_be_moody(endpoint, plan.seconds, chance))
        await _kill_at_random(plan, subject, chance)
        await moods
        tell("filling its spool while the endpoint is away")
        endpoint.mood = Mood.CUT
        agents.may_begin.clear()
        await agents.fill(lambda code: code == FULL, FILL_POSTS)
        filled = notes.refused[FULL] > 0
        await subject.kill()
        await subject.start()
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
    tell("letting it deliver what is left")
    endpoint.mood = Mood.WELL
    drained = await subject.drained(DRAIN_SECONDS)
    figures = await subject.figures()
    await subject.stop()
    dead, unaccounted = int(figures["dead_records"]), int(figures["unaccounted_records"])
    return Outcome(judge(notes), subject.starts, filled, drained, dead, unaccounted)


async def _kill_at_random(plan: Plan, subject: Subject, chance: random.Random) -> None:
    pauses = [chance.random() + 0.2 for _ in range(plan.kills + 1)]
    for pause in pauses[:-1]:
        await asyncio.sleep(pause / sum(pauses) * plan.seconds)
        await subject.kill()
        await subject.start()
    await asyncio.sleep(pauses[-1] / sum(pauses) * plan.seconds)


async def _be_moody(endpoint: ChaosEndpoint, seconds: float, chance: random.Random) -> None:
    for _ in range(6):
        endpoint.mood = chance.choice([Mood.CUT, Mood.BUSY])
        await asyncio.sleep(seconds / 12)
        endpoint.mood = Mood.WELL
        await asyncio.sleep(seconds / 12)
