"""The load generator: what it posts, what it counts, and when it gives up."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from bench.connection import BadAnswer
from bench.load import Measured, Plan, run
from bench.requests import PLACEHOLDER, call_id, render

BODY = json.dumps({"call_id": PLACEHOLDER.decode(), "text": "x" * 1000}).encode()
PLAN = Plan(port=0, path="/v1/calls", bodies=(BODY,), connections=3, seconds=30.0, warmup=0.0, max_posts=20, first=1)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """A real server on a free port that answers /v1/calls."""
    app = web.Application(client_max_size=0)
    app.router.add_post("/v1/calls", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def load(port: int, **changes: Any) -> Measured:
    return await asyncio.to_thread(run, dataclasses.replace(PLAN, port=port, **changes))


async def test_every_post_is_another_call() -> None:
    """Each post carries another call id, so that none is answered as a duplicate, and its body is valid JSON."""
    seen = []

    async def take(request: web.Request) -> web.Response:
        seen.append((await request.json())["call_id"])
        return web.json_response({}, status=202)

    async with serving(take) as port:
        measured = await load(port)
    assert sorted(seen) == [call_id(number) for number in range(1, 21)]
    assert (measured.posts, measured.refused, measured.latency.count) == (20, 0, 20)


async def test_a_refused_post_is_not_counted_as_acknowledged() -> None:
    """Only 2xx answers make the rate and the latency; the others are counted by their status."""
    statuses = iter([202, 503] * 10)

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({}, status=next(statuses))

    async with serving(take) as port:
        measured = await load(port)
    assert (measured.posts, measured.refused) == (10, 10)
    assert measured.statuses == {202: 10, 503: 10}
    assert measured.latency.count == 10


async def accept(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response({}, status=202)


async def test_the_load_ends_by_itself_when_its_time_is_over() -> None:
    """The time bounds a load, whatever the number of posts may be."""
    async with serving(accept) as port:
        measured = await load(port, seconds=0.2, max_posts=1_000_000)
    assert measured.posts > 0
    assert 0 < measured.seconds < 5


async def test_what_is_answered_while_warming_up_is_not_measured() -> None:
    """Posts before the end of the warm-up count nowhere."""
    async with serving(accept) as port:
        measured = await load(port, warmup=30.0, max_posts=5)
    assert (measured.posts, measured.statuses, measured.per_second) == (0, {}, 0.0)


async def test_a_body_larger_than_the_socket_buffers_arrives_whole() -> None:
    """A large body is sent in as many steps as the socket asks for, and not a byte is lost."""
    body = json.dumps({"call_id": PLACEHOLDER.decode(), "text": "x" * 20_000_000}).encode()
    sizes = []

    async def take(request: web.Request) -> web.Response:
        sizes.append(len(await request.read()))
        return web.json_response({}, status=202)

    async with serving(take) as port:
        measured = await load(port, bodies=(body,), connections=2, max_posts=4)
    assert sizes == [len(body)] * 4
    assert measured.posts == 4


async def test_a_server_that_closes_the_connection_ends_the_load() -> None:
    """A broken server is an error, not a rate."""

    async def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serving(cut) as port:
        with pytest.raises((BadAnswer, ConnectionError)):
            await load(port)


def test_a_body_without_the_placeholder_is_refused() -> None:
    """A body whose call id cannot be changed would make duplicates of all posts but one."""
    with pytest.raises(ValueError, match="does not contain the call id"):
        render(b'{"call_id": "other"}', path="/")


def test_a_header_is_numbered_with_the_body() -> None:
    """An idempotency key changes with the call id."""
    template = render(BODY, path="/", headers=(("Idempotency-Key", PLACEHOLDER.decode()),))
    request = bytes(template.numbered(42))
    assert request.count(b"bench-0000000042") == 2
    assert PLACEHOLDER not in request
    assert request.endswith(BODY.replace(PLACEHOLDER, b"bench-0000000042"))
