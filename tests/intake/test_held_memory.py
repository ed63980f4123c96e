"""What the intake holds in memory beside what its budget counts: nothing of a body, whatever became of it."""

import asyncio
import gc
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.intake.parse_worker import ParseWorker
from tests.intake.bodies import envelope, large_call_log
from tests.intake.running_intake import RunningIntake, running
from tests.intake.shapes import SHAPES

pytestmark = pytest.mark.usefixtures("no_collector")

MB = 1_000_000
HEAD = b"POST /v1/calls HTTP/1.1\r\nHost: x\r\n"


def for_the_worker() -> bytes:
    """What the gateway does not parse itself."""
    return SHAPES["no numbers"].body(2)


def large_views() -> list[memoryview]:
    """All large bodies that this process holds, in memory or mapped."""
    views = (each for each in gc.get_objects() if isinstance(each, memoryview))
    return [view for view in views if view.nbytes > MB // 2]


def held() -> list[int]:
    """Their sizes."""
    return [view.nbytes for view in large_views()]


def holders() -> list[str]:
    """What refers to each of them, and to what does."""
    told, views = [], large_views()
    for view in views:
        near = [each for each in gc.get_referrers(view) if each is not views]
        far = [f"{type(each).__name__} {each!r:.200}" for each in gc.get_referrers(*near)]
        told.append(f"{view.nbytes} bytes, by {far}")
    return told


BODIES: dict[str, tuple[Callable[[], bytes], dict[str, str], int]] = {
    "accepted": (large_call_log, {}, 202),
    "parts": (lambda: gzip.compress(b"") * 50_000, {"Content-Encoding": "gzip"}, 413),
    "deep": (lambda: b'{"call_id":' * 100_000, {}, 400),
    "open": (lambda: b'{"call_id":"k",' + b" " * MB, {}, 400),
    "no zstd": (lambda: b"\xff" * MB, {"Content-Encoding": "zstd"}, 400),
    "bad envelope": (lambda: envelope(b"{" * MB), {}, 400),
    "no base64": (lambda: json.dumps({"compressed": True, "data": "=" * MB}).encode(), {}, 400),
    "too complex": (lambda: SHAPES["top-level members"].body(4), {}, 413),
    "in the worker": (for_the_worker, {}, 202),
}


@pytest.mark.parametrize(("make", "headers", "status"), BODIES.values(), ids=BODIES)
async def test_nothing_of_a_body_stays_behind_its_answer(
    world: RunningIntake, make: Callable[[], bytes], headers: dict[str, str], status: int
) -> None:
    """A post that was answered holds no memory, though the cyclic collector has not run since."""
    assert (await world.post(make(), "/v1/calls", headers=headers)).status == status
    try:
        await world.until(lambda: not world.staged_files() and not held())
    except TimeoutError:
        pytest.fail(f"staged: {world.staged_files()}; held: {holders()}")


async def test_a_slow_body_is_held_nowhere_but_in_its_file(world: RunningIntake) -> None:
    """What was set aside for a body that was announced is free again once the body is slow."""
    _, writer = await world.connect()
    writer.write(HEAD + b"Content-Length: 14000000\r\n\r\n" + b" " * MB)
    await world.until(lambda: world.staged_files() and not world.intake.budget.used_bytes)
    assert not held()
    writer.transport.abort()


async def test_who_waits_for_the_parse_worker_waits_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is left to the parse worker, and the envelope that it came in, hold no memory meanwhile."""
    entered, release = asyncio.Event(), asyncio.Event()
    answered_in = ParseWorker._answered_in

    async def slowly(*arguments: Any) -> object:
        entered.set()
        await release.wait()
        return await answered_in(*arguments)

    monkeypatch.setattr(ParseWorker, "_answered_in", slowly)
    async with running(tmp_path) as world:
        body = for_the_worker()
        posting = asyncio.create_task(world.post(envelope(body)))
        await entered.wait()
        assert world.intake.budget.used_bytes == 0
        await world.until(lambda: held() == [len(body)])  # the map of its file alone
        release.set()
        assert (await posting).status == 202
