"""The dispatcher with a real endpoint, real sockets and real timers."""

import asyncio

from bench.endpoint import Endpoint, Fault
from spool.records import Delivery, Fragment, Lane, system_clock
from tests.uploaders.deliveries import Payloads
from tests.uploaders.memory_queue import MemoryQueue, a_post
from uploaders.dispatch.dispatcher import DestinationPlan, Dispatcher
from uploaders.dispatch.policy import RetryPolicy
from uploaders.http.uploader import HttpOptions, HttpUploader


class Watcher:
    """An observer that can be waited for."""

    def __init__(self) -> None:
        self.changes: asyncio.Queue[bool] = asyncio.Queue()
        self.delivered = 0
        self.all_delivered = asyncio.Event()

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        self.delivered += outcome == "delivered" and delivery.attempts >= 0 and seconds >= 0
        if self.delivered == 50:
            self.all_delivered.set()

    def credential_changed(self, destination: str, credential: str, accepted: bool, reason: str) -> None:
        raise AssertionError(f"{destination}: no token was to be refused: {reason}")

    def destination_changed(self, destination: str, up: bool, reason: str) -> None:
        assert destination == "endpoint"
        assert reason
        self.changes.put_nowait(up)


async def test_an_outage_and_its_end() -> None:
    """Refused connections, then 503, then everything arrives once, under its own key."""
    queue, payloads, watcher = MemoryQueue(system_clock), Payloads(), Watcher()
    async with Endpoint() as endpoint:
        await endpoint.stop()
        uploader = HttpUploader(HttpOptions(endpoint.url), payloads, system_clock)
        plan = DestinationPlan(uploader, RetryPolicy(initial=0.02, maximum=0.1), {Lane.CORE: 4, Lane.DETAIL: 2})
        dispatcher = Dispatcher(queue, {"endpoint": plan}, system_clock, lambda: 0.5, watcher)
        dispatcher.start()
        for number in range(50):
            accepted = await queue.accept(a_post(f"c{number}"))
            payloads.store(accepted.ready[0].record.record_id, {Fragment.BODY: b'{"call_id": "c%d"}' % number})
            dispatcher.offer(accepted.ready)
        async with asyncio.timeout(20):
            assert await watcher.changes.get() is False
            endpoint.set_fault(Fault("status", 503, times=2))
            await endpoint.start()
            await watcher.all_delivered.wait()
            assert await watcher.changes.get() is True
        await dispatcher.stop(1)
        assert set(queue.states()) == {"delivered"}
        assert sorted(arrival.key for arrival in endpoint.accepted) == sorted(
            entry.delivery.idempotency_key for entry in queue.entries.values()
        )
