"""One destination's trouble never touches another's: a real dispatcher, real uploaders, real sockets."""

import asyncio

import pytest

from bench.endpoint import Endpoint
from spool.records import Delivery, Form, Fragment, Lane, NewDelivery, system_clock
from tests.uploaders.deliveries import Payloads
from tests.uploaders.dispatcher_stage import LONE_DETAIL, Gate, a_stage
from tests.uploaders.fake_time import turns
from tests.uploaders.memory_queue import MemoryQueue, a_post
from tests.uploaders.rogue_server import HEAD, Behaviour, Rogue, never_answers, read_request
from uploaders.base import Delivered, RetryLater, Scope
from uploaders.dispatch.dispatcher import DestinationPlan, Dispatcher
from uploaders.dispatch.policy import RetryPolicy
from uploaders.http.uploader import HttpOptions, HttpUploader

CALLS = 40


class Watcher:
    """Waits until the well-behaved destination has everything."""

    def __init__(self) -> None:
        self.delivered = 0
        self.all_delivered = asyncio.Event()

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        self.delivered += (delivery.destination, outcome) == ("well", "delivered") and seconds >= 0
        if self.delivered == CALLS:
            self.all_delivered.set()

    def credential_changed(self, destination: str, credential: str, accepted: bool, reason: str) -> None:
        raise AssertionError(f"{destination}: no token was to be refused: {reason}")

    def destination_changed(self, destination: str, up: bool, reason: str) -> None:
        assert destination == "rogue", f"{destination} was touched: {up}, {reason}"


async def cuts(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(HEAD + b"Content-Length: 5000000000\r\n\r\n{")
    while True:
        writer.write(b"f" * 65536)
        await writer.drain()


async def redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


@pytest.mark.parametrize("behaviour", [never_answers, cuts, floods, redirects])
async def test_others_get_everything_meanwhile(behaviour: Behaviour) -> None:
    """While one destination hangs, breaks off, floods or redirects, another one gets everything at once."""
    queue, payloads, watcher = MemoryQueue(system_clock), Payloads(), Watcher()
    async with Endpoint() as well, Rogue(behaviour) as rogue:
        plans = {
            name: DestinationPlan(
                HttpUploader(HttpOptions(url), payloads, system_clock), RetryPolicy(), {Lane.CORE: 2, Lane.DETAIL: 1}
            )
            for name, url in (("rogue", rogue.url), ("well", well.url))
        }
        dispatcher = Dispatcher(queue, plans, system_clock, lambda: 0.5, watcher)
        dispatcher.start()
        for number in range(CALLS):
            owed = [NewDelivery(name, Form.WHOLE, Lane.CORE) for name in plans]
            accepted = await queue.accept(a_post(f"c{number}", *owed))
            payloads.store(accepted.ready[0].record.record_id, {Fragment.BODY: b'{"call_id": "c%d"}' % number})
            dispatcher.offer(accepted.ready)
        async with asyncio.timeout(20):
            await watcher.all_delivered.wait()
        await dispatcher.stop(0)
    assert rogue.connections >= 1


async def test_details_make_room_while_cores_go_on() -> None:
    """With fewer details allowed at once, the lane keeps to that at its next turn; cores are never held back."""
    allowed: list[int | None] = [1]
    async with a_stage(core_slots=3, detail_slots=3, details_at_once=lambda: allowed[0]) as stage:
        slow = Gate()
        stage.uploader.answer = slow
        for number in range(6):
            await stage.post(f"d{number}", LONE_DETAIL)
        await stage.post_all("a", "b", "c")
        assert stage.uploader.running == {Lane.CORE: 3, Lane.DETAIL: 1}
        assert stage.dispatcher.status()[0].slots == {Lane.CORE: 3, Lane.DETAIL: 1}
        allowed[0] = None
        catching_up = Gate()
        stage.uploader.answer = catching_up
        slow.open()
        await turns()
        assert stage.uploader.running == {Lane.CORE: 0, Lane.DETAIL: 3}
        catching_up.open()
        await turns()
        assert set(stage.queue.states()) == {"delivered"}


async def test_a_lane_that_is_throttled_takes_fewer_at_once() -> None:
    """After a 429 the destination gets half as many at once, each lane by its own experience."""
    async with a_stage(core_slots=8, detail_slots=4) as stage:
        stage.uploader.answer = RetryLater("HTTP 429", Scope.DESTINATION, 5)
        await stage.post_all("a")
        assert stage.dispatcher.status()[0].slots == {Lane.CORE: 4, Lane.DETAIL: 4}
        slow = Gate()
        stage.uploader.answer = Delivered()
        await stage.time.advance(5)
        stage.uploader.answer = slow
        await stage.post_all(*(f"c{number}" for number in range(10)))
        assert stage.uploader.running[Lane.CORE] == 4
        slow.open()
        await turns()
