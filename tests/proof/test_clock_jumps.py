"""A wall clock that is set, forwards and backwards by hours, while a real spool is emptied by the real dispatcher."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from spool.fsck import Severity, check
from spool.records import Delivery, DeliveryState, Fragment, Lane
from spool.store import Spool
from tests.budget import budgeted
from tests.spool.spool_parts import ENDPOINT, HOUR, NOW, Clock, a_record, becomes, decoded, opened
from tests.system.waiting import until
from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.dispatch.dispatcher import DestinationPlan, Dispatcher
from uploaders.dispatch.policy import RetryPolicy
from uploaders.dispatch.scheduling import Timer, TimerHandle

MINUTE = HOUR // 60
LONGEST_JUMP = 60 * HOUR
"""More than twice as long as a record is tried for."""
FOR_EVER = 100_000 * HOUR
SLOTS = {Lane.CORE: 4, Lane.DETAIL: 1}
FAILING = "-3"
"""How the id of a call ends that fails until the endpoint is well, while others pass."""
POLICY = RetryPolicy(initial=0.01, maximum=0.05, probe_initial=0.02, probe_maximum=0.05)


class RunningClock(Clock, Timer):
    """Goes on as time does, and can be set."""

    def __init__(self) -> None:
        super().__init__()
        self._began = asyncio.get_running_loop().time()

    def __call__(self) -> int:
        return self.now + round((asyncio.get_running_loop().time() - self._began) * 1000)

    def call_at(self, when: int, callback: Callable[[], None]) -> TimerHandle:
        """A `Timer` whose callee looks at the clock soon after it was set: within 20 ms, and not within a minute."""
        seconds = (when - self()) / 1000
        return asyncio.get_running_loop().call_later(min(max(seconds, 0.001), 0.02), callback)


@dataclass
class Endpoint:
    """An uploader that takes a part of what it gets, and answers each of the other ways now and then."""

    chance: Random
    spool: Spool | None = None
    well: bool = False
    """Whether it takes everything from now on."""
    puts_off: bool = False
    """Whether it asks for everything to be sent again an hour later."""
    arrived: set[str] = field(default_factory=set)
    """The calls whose bytes it has."""
    refused: set[str] = field(default_factory=set)
    bodies: dict[str, bytes] = field(default_factory=dict)

    async def deliver(self, delivery: Delivery) -> Outcome:
        assert self.spool is not None
        call_id = delivery.record.call_id
        body = decoded(b"".join([frame async for frame in self.spool.frames(delivery.record, Fragment.BODY)]))
        assert body == self.bodies[call_id]
        if self.puts_off:
            return RetryLater("HTTP 429", Scope.RECORD, HOUR / 1000)
        answer = 1.0 if call_id.endswith(FAILING) else self.chance.random()
        if self.well or answer < 0.5:
            self.arrived.add(call_id)
            return Delivered()
        if answer < 0.55:
            self.refused.add(call_id)
            return Refused("HTTP 422")
        if answer < 0.7:
            return RetryLater("HTTP 503", Scope.DESTINATION)
        if answer < 0.75:
            return RetryLater("HTTP 429", Scope.RECORD, self.chance.choice([0.01, 60.0, 3600.0]))
        return RetryLater("HTTP 500")

    async def close(self) -> None:
        """Nothing is kept open."""


class Unobserved:
    """A `DispatchObserver` for nobody."""

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        assert seconds >= 0

    def destination_changed(self, destination: str, up: bool, reason: str) -> None: ...

    def credential_changed(self, destination: str, credential: str, accepted: bool, reason: str) -> None: ...


@asynccontextmanager
async def delivering(folder: Path, clock: RunningClock, endpoint: Endpoint) -> AsyncIterator[Spool]:
    """One life of a gateway: a spool, and a dispatcher that empties it."""
    async with opened(folder, clock=clock, duplicate_window=FOR_EVER, receipts_keep=FOR_EVER) as spool:
        endpoint.spool = spool
        dispatcher = Dispatcher(
            spool,
            {ENDPOINT: DestinationPlan(endpoint, POLICY, SLOTS)},
            clock,
            endpoint.chance.random,
            Unobserved(),
            clock,
        )
        spool.listener = dispatcher.offer
        dispatcher.start()
        try:
            yield spool
        finally:
            spool.listener = None
            await dispatcher.stop(1)


async def states(spool: Spool, endpoint: Endpoint) -> dict[str, DeliveryState]:
    """The state of each acknowledged call. Nothing is missing, expired, or called delivered without being there."""
    found = {}
    for call_id in endpoint.bodies:
        ((delivery,),) = [record.deliveries for record in await spool.trace(call_id)]
        found[call_id] = delivery.state
    assert {call_id for call_id, state in found.items() if state is DeliveryState.DELIVERED} <= endpoint.arrived
    assert {call_id for call_id, state in found.items() if state is DeliveryState.DEAD} <= endpoint.refused
    given_up = {DeliveryState.EXPIRED, DeliveryState.DISCARDED}
    assert given_up.isdisjoint(found.values())
    return found


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(budgeted(small=2, full=20)))
async def test_a_clock_that_jumps_loses_nothing_and_gives_up_nothing(tmp_path: Path, seed: int) -> None:
    """Whatever the clock says, while it runs or between two runs: what was acknowledged arrives, or was refused.

    A record that failed for some seconds is not given up because the clock says that it was days; and what waits for
    a time that a clock ahead has written does not wait until then, whether that was set back between two runs or while
    nothing else happened.
    """
    chance = Random(seed)
    clock, endpoint = RunningClock(), Endpoint(chance)
    for life in range(budgeted(small=6, full=30)):
        async with delivering(tmp_path, clock, endpoint) as spool:
            for number in range(chance.randrange(5, 25)):
                call_id = f"{life}-{number}"
                endpoint.bodies[call_id] = chance.randbytes(chance.randrange(1, 3000))
                await spool.accept(a_record(call_id, body=endpoint.bodies[call_id]))
                if chance.random() < 0.3:
                    clock.now += chance.randrange(-LONGEST_JUMP, LONGEST_JUMP)
            await states(spool, endpoint)
        clock.now += chance.choice([-1, 0, 1]) * chance.randrange(LONGEST_JUMP)
    clock.now = NOW - 100 * HOUR
    endpoint.well = True
    async with delivering(tmp_path, clock, endpoint) as spool:

        def drained() -> bool:
            clock.now += MINUTE  # an hour is the longest wait that an answer may ask for, or that a breaker keeps
            return not any(lane.queued for lane in spool.stats().lanes.values())

        await becomes(drained)
        endpoint.puts_off, endpoint.bodies["put off"] = True, b"{}"
        await spool.accept(a_record("put off", body=b"{}"))

        async def deferred() -> bool:
            return (await spool.trace("put off"))[0].deliveries[0].attempts == 1

        await until(deferred, "it is to be sent again in an hour", deadline=20)
        endpoint.puts_off = False
        clock.now -= LONGEST_JUMP
        set_back_to = clock.now
        await becomes(drained)
        assert clock.now - set_back_to < 3 * HOUR, "it waited for the time that the clock showed before"
        found = await states(spool, endpoint)
        assert endpoint.arrived | {one for one, state in found.items() if state is DeliveryState.DEAD} == set(found)
        assert spool.stats().unaccounted == 0
    assert [one for one in check(tmp_path) if one.severity is not Severity.NOTE] == []
