"""Agents that post the call logs of one call after the other, and post again what was cut off, as an outbox does.

They keep pace with what arrives: no more than so many deliveries are owed at any time, so that there is always
something under way and never a backlog that takes long to drain.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint
from tests.system.acknowledged import Acknowledged, acknowledged
from tests.system.gateway_process import GatewayProcess, Reply
from tests.system.waiting import until

STUCK_SECONDS = 60.0


@dataclass
class Agents:
    """The load. After `running` ends, everything that was posted has been acknowledged."""

    gateway: GatewayProcess
    endpoint: Endpoint
    most_owed: int
    """Deliveries that may be owed while another post is begun."""
    acknowledged: list[Acknowledged] = field(default_factory=list)
    """In the order of the acknowledgements."""
    cut_off: int = 0
    """Posts that ended without an answer because the gateway was gone."""
    under_way: int = 0
    """Posts whose answer is waited for."""

    def __post_init__(self) -> None:
        self._owed = 0
        self._stop = asyncio.Event()

    @asynccontextmanager
    async def running(self, sizes: tuple[int, ...]) -> AsyncIterator[None]:
        """One agent for each size, which is that of its calls' ends."""
        async with asyncio.TaskGroup() as agents:
            for number, size in enumerate(sizes):
                agents.create_task(self._talk(number, size))
            try:
                yield
            finally:
                self._stop.set()

    async def _talk(self, agent: int, size: int) -> None:
        call = 0
        while not self._stop.is_set():
            call += 1
            for body in _call_logs(f"call-{agent}-{call}", size, seed=1000 * agent + call):
                await self.endpoint.wait_until(self._may_post, deadline=STUCK_SECONDS)
                self._note(acknowledged(body, await self._insist(body)))

    def _may_post(self) -> bool:
        return self._stop.is_set() or self._owed - len(self.endpoint.documents) < self.most_owed

    async def _insist(self, body: bytes) -> Reply:
        """Post until it is answered; while nothing answers, wait for the next start."""
        while True:
            self.under_way += 1
            try:
                return await self.gateway.post(body)
            except aiohttp.ClientError:
                self.cut_off += 1
                await until(self._answers, "a gateway answers again", deadline=STUCK_SECONDS)
            finally:
                self.under_way -= 1

    async def _answers(self) -> bool:
        return await self.gateway.ready() == 200

    def _note(self, posted: Acknowledged) -> None:
        self.acknowledged.append(posted)
        self._owed += len(posted.keys)


def _call_logs(call_id: str, size: int, *, seed: int) -> Iterator[bytes]:
    yield make_call_log(2_000, seed=seed, call_id=call_id, event="call_started")
    yield make_call_log(size, seed=seed, call_id=call_id, event="call_ended")
    yield make_call_log(2_000, seed=seed, call_id=call_id, event="recording_ready")
