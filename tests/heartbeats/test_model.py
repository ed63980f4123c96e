"""Heartbeats, turns, ends, silence and restarts in any order: the gateway against a model of what should be."""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from tests.budget import budgeted
from tests.heartbeats.watching import LOST_AFTER, Watching, watching

CALLS = ("a", "b/c", "d")
STEPS = 60


@dataclass
class ModelCall:
    """What one call should be by now."""

    live: bool = False
    lost: bool = False
    ended: bool = False
    silent: float = 0.0
    turns: dict[int, str] = field(default_factory=dict)
    first_at: int = 0
    last_at: int = 0
    said: set[tuple[int, str]] = field(default_factory=set)
    """What call logs of a lost agent said: the same again, after a clock was set back, is no news."""
    logs: list[tuple[str, list[str]]] = field(default_factory=list)
    """The call logs that were accepted of it: why it ended, and what was said."""

    def hear(self, turns: dict[int, str], now: int) -> bool:
        """A heartbeat, or turns; whether the call is live."""
        if self.ended:
            return False
        self.live, self.lost, self.silent = True, False, 0.0
        self.first_at = self.first_at or now
        self.last_at = max(self.first_at, now)
        self.turns.update(turns)
        return True

    def end(self, reason: str) -> None:
        """The agent posts the end of its call, with nothing of what was said."""
        self.live = self.lost = False
        self.ended = True
        self.turns = {}
        self.logs.append((reason, []))

    def wait(self, seconds: float) -> None:
        """Time passes."""
        if self.live:
            self.silent += seconds
            if self.silent >= LOST_AFTER:
                self.live, self.lost = False, True
                words = [self.turns[index] for index in sorted(self.turns)]
                if (self.last_at, str(words)) not in self.said:
                    self.logs.append(("agent_lost", words))
                self.said.add((self.last_at, str(words)))

    def restart(self) -> None:
        """Nobody listened for a while: that is no silence."""
        self.silent = 0.0


async def step(calls: Watching, model: dict[str, ModelCall], chance: Random, number: int) -> None:
    """One thing that happens, to both."""
    call_id = chance.choice(CALLS)
    call, path = model[call_id], call_id.replace("/", "%2F")
    what = chance.random()
    if what < 0.3:
        indices = chance.sample(range(6), chance.randint(1, 3))
        said = {index: f"{index} of {number}" if chance.random() < 0.3 else str(index) for index in indices}
        turns = [{"index": index, "content": content} for index, content in said.items()]
        repeats = 1 + (chance.random() < 0.2)
        for _ in range(repeats):
            reply = await calls.turns(*turns, call_id=path)
        assert (reply.status == 200) == call.hear(said, calls.world.clock.now)
        assert reply.status != 200 or reply.json["turns"] == len(call.turns)
    elif what < 0.55:
        assert (await calls.beat(path)).json["live"] == call.hear({}, calls.world.clock.now)
    elif what < 0.63 and not call.ended:
        assert (await calls.end(call_id, reason=f"end {number}")).status == 202
        call.end(f"end {number}")
    elif what < 0.7:
        calls.world.clock.now += chance.choice((-1, 1)) * chance.randrange(300_000)
    else:
        seconds = chance.choice((1, 7, LOST_AFTER / 2, LOST_AFTER - 1, LOST_AFTER, LOST_AFTER + 5))
        await calls.later(seconds)
        for each in model.values():
            each.wait(seconds)


async def compare(calls: Watching, model: dict[str, ModelCall]) -> None:
    """Both say the same."""
    for call_id, call in model.items():
        logs = [
            (log["call_ended_reason"], [turn["content"] for turn in log.get("transcript_json", [])])
            for log in await calls.call_logs(call_id)
        ]
        assert logs == call.logs, call_id
    assert {(each.call_id, each.state) for each in calls.watch.calls()} == {
        (call_id, "live" if call.live else "lost") for call_id, call in model.items() if call.live or call.lost
    }
    assert await calls.rows() == (
        sum(call.live or call.lost for call in model.values()), sum(len(call.turns) for call in model.values())
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(budgeted(small=4, full=300)))
async def test_what_becomes_of_calls_is_what_a_model_says(tmp_path: Path, seed: int) -> None:
    """Every call log, and every row that is kept, whatever happened before, over restarts in between."""
    chance, number = Random(seed), 0
    model = {call_id: ModelCall() for call_id in CALLS}
    for _ in range(3):
        async with watching(tmp_path) as calls:
            for _ in range(STEPS // 3):
                number += 1
                await step(calls, model, chance, number)
            await compare(calls, model)
        for call in model.values():
            call.restart()
