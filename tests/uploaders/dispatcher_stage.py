"""A dispatcher under full control: a fake clock, a queue in memory, and uploaders that do as they are told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from spool.records import Delivery, Form, Lane, NewDelivery
from tests.uploaders.fake_time import FakeTime, turns
from tests.uploaders.memory_queue import MemoryQueue, a_post
from uploaders.base import Delivered, Outcome
from uploaders.dispatch.dispatcher import DestinationPlan, Dispatcher
from uploaders.dispatch.policy import FallbackStep, RetryPolicy

POLICY = RetryPolicy(initial=1, maximum=300, failures_before_back_off=5, refusals_before_pause=20)
WHOLE = NewDelivery("endpoint", Form.WHOLE, Lane.CORE)
CORE = NewDelivery("endpoint", Form.CORE, Lane.CORE)
DETAIL = NewDelivery("endpoint", Form.DETAIL, Lane.DETAIL)
LONE_DETAIL = NewDelivery("endpoint", Form.DETAIL, Lane.DETAIL, ordered=False)

Answer = Outcome | Callable[[Delivery], Outcome | Awaitable[Outcome]]


@dataclass
class Observed:
    """What the dispatcher reported."""

    attempts: list[str] = field(default_factory=list)
    attempted_calls: list[str] = field(default_factory=list)
    changes: list[tuple[str, bool, str]] = field(default_factory=list)
    credentials: list[tuple[str, str, bool, str]] = field(default_factory=list)

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.attempts.append(outcome)
        self.attempted_calls.append(delivery.record.call_id)

    def destination_changed(self, destination: str, up: bool, reason: str) -> None:
        self.changes.append((destination, up, reason))

    def credential_changed(self, destination: str, credential: str, accepted: bool, reason: str) -> None:
        self.credentials.append((destination, credential, accepted, reason))


class ToldUploader:
    """Answers every delivery with `answer`; notes what it was given, when, and how much at once."""

    def __init__(self, time: FakeTime) -> None:
        self.answer: Answer = Delivered()
        self.given: list[Delivery] = []
        self.times: list[int] = []
        self.running: dict[Lane, int] = dict.fromkeys(Lane, 0)
        self.most: dict[Lane, int] = dict.fromkeys(Lane, 0)
        self.closed = False
        self.cancelled = 0
        self._time = time

    @property
    def calls(self) -> list[str]:
        """The calls whose deliveries were attempted, in order."""
        return [delivery.record.call_id for delivery in self.given]

    async def deliver(self, delivery: Delivery) -> Outcome:
        assert not self.closed
        self.given.append(delivery)
        self.times.append(self._time.now)
        self.running[delivery.lane] += 1
        self.most[delivery.lane] = max(self.most[delivery.lane], self.running[delivery.lane])
        try:
            answer = self.answer(delivery) if callable(self.answer) else self.answer
            return await answer if isinstance(answer, Awaitable) else answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running[delivery.lane] -= 1

    async def close(self) -> None:
        assert not any(self.running.values()), "closed with attempts under way"
        self.closed = True


def names(count: int, start: int = 0) -> list[str]:
    """Call ids in their order."""
    return [f"c{number:04}" for number in range(start, start + count)]


class Gate:
    """An answer that is given when the test opens the gate."""

    def __init__(self, outcome: Outcome = Delivered()) -> None:  # noqa: B008 - a frozen value
        self._opened = asyncio.Event()
        self._outcome = outcome

    async def __call__(self, _delivery: Delivery) -> Outcome:
        await self._opened.wait()
        return self._outcome

    def open(self) -> None:
        self._opened.set()


@dataclass
class Stage:
    """A running dispatcher with all its parts."""

    time: FakeTime
    queue: MemoryQueue
    uploader: ToldUploader
    observed: Observed
    dispatcher: Dispatcher
    other: ToldUploader

    async def post(self, call_id: str, *deliveries: NewDelivery, token: str | None = None, **fields: Any) -> None:
        """Accept a record as the gateway would, and offer what is ready."""
        new = replace(a_post(call_id, *deliveries, token=token), **{"event": "e", **fields})
        accepted = await self.queue.accept(new)
        self.dispatcher.offer(accepted.ready)

    async def post_all(self, *call_ids: str) -> None:
        for call_id in call_ids:
            await self.post(call_id)
        await turns()


@asynccontextmanager
async def a_stage(
    *,
    policy: RetryPolicy = POLICY,
    core_slots: int = 1,
    detail_slots: int = 1,
    jitter: float = 0.5,
    shared_token: bool = False,
    when_too_large: tuple[FallbackStep, ...] = (),
    details_at_once: Callable[[], int | None] = lambda: None,
    answer: Answer | None = None,
    uploader: Callable[[FakeTime], "ToldUploader"] | None = None,
    queue: MemoryQueue | None = None,
    time: FakeTime | None = None,
) -> AsyncIterator[Stage]:
    """A started dispatcher for `endpoint` and `other`; stopped at the end, with nothing left running."""
    time = time or FakeTime()
    queue = queue or MemoryQueue(time.clock)
    told, other, observed = (uploader or ToldUploader)(time), ToldUploader(time), Observed()
    told.answer = answer or told.answer
    slots = {Lane.CORE: core_slots, Lane.DETAIL: detail_slots}
    dispatcher = Dispatcher(
        queue,
        {
            "endpoint": DestinationPlan(told, policy, slots, shared_token, when_too_large, "http", details_at_once),
            "other": DestinationPlan(other, policy, slots, type="file"),
        },
        time.clock,
        lambda: jitter,
        observed,
        time,
    )
    dispatcher.start()
    await turns()
    yield Stage(time, queue, told, observed, dispatcher, other)
    await dispatcher.stop(0)
    assert told.closed
    assert len(asyncio.all_tasks()) == 1, "a task outlived the dispatcher"


def only(*bad: str, answer: Outcome) -> Answer:
    """This answer to these calls; the others are delivered."""
    return lambda delivery: answer if delivery.record.call_id in bad else Delivered()


def seconds(stage: Stage, since: int) -> list[float]:
    """When attempts were made, after a moment."""
    return [(when - since) / 1000 for when in stage.uploader.times]
