"""Ten thousand spans in one post do not hold up the event loop, which everybody else waits for."""

import asyncio
import http.client
import time
from pathlib import Path

import pytest

from bench.ways import spans_in_json, spans_in_protobuf
from gateway.otlp.source import JSON, PROTOBUF
from tests.otlp.tracing import Tracing, tracing

MOST_MILLISECONDS = 10.0


def post(traces: Tracing, body: bytes, kind: str) -> int:
    """In a thread, so that sending takes nothing of the loop's time."""
    connection = http.client.HTTPConnection("127.0.0.1", traces.server.port, timeout=60)
    try:
        connection.request("POST", "/v1/traces", body, {"Content-Type": kind})
        return connection.getresponse().status
    finally:
        connection.close()


async def longest_turn(until: "asyncio.Future[int]") -> float:
    """The most CPU time in ms that the loop's thread took for anything between two turns of this function.

    CPU time, and not the clock's: that a busy machine gives the thread no core is no fault of the gateway.
    """
    longest, before = 0.0, time.thread_time()
    while not until.done():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, before = max(longest, now - before), now
    return 1000 * longest


@pytest.mark.parametrize("kind", [PROTOBUF, JSON])
async def test_ten_thousand_spans_hold_the_event_loop_for_less_than_ten_milliseconds(tmp_path: Path, kind: str) -> None:
    """Reading, cutting, storing and answering: nothing of it is one long step on the loop."""
    make = spans_in_protobuf if kind == PROTOBUF else spans_in_json
    body = make(10_000)
    async with tracing(tmp_path) as traces:
        assert (await traces.export(make(10), kind)).status == 200  # imports what it needs
        posting = asyncio.ensure_future(asyncio.to_thread(post, traces, body, kind))
        longest = await longest_turn(posting)
        assert await posting == 200
        assert sum(each.spans for each in await traces.world.spool.traces.open()) == 10_010
    assert longest < MOST_MILLISECONDS
