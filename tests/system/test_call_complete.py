"""Subscriptions to `call_complete`: real receivers, one or two on a database, killed while calls become complete."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint
from bench.postgres_server import PostgresServer
from tests.stores.engines import ClickHouseEngine, PostgresEngine, SqliteEngine
from tests.system.receivers import PATIENCE, Receiver, post
from tests.system.waiting import until

SUBSCRIBER = """
[[destinations]]
name = "subscriber"
type = "http"
url = "{url}"
events = ["call_complete"]
encoding = "identity"
"""


def a_receiver(folder: Path, database: str, endpoint: Endpoint) -> Receiver:
    """A receiver on this database whose complete calls are announced to `endpoint`."""
    receiver = Receiver(folder, database)
    receiver.configure(SUBSCRIBER.format(url=endpoint.url))
    return receiver


def announced(endpoint: Endpoint) -> Counter[str]:
    """Under how many idempotency keys a call was announced: one, however often an announcement had to be sent."""
    documents = endpoint.call_logs
    assert all(document["wcall_event"] == "call_complete" for document in documents)
    return Counter(document["call_id"] for document in documents)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "clickhouse"])
async def test_a_subscriber_gets_the_complete_call_once(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """Nothing before a call is complete, then one call log with its columns and both documents as they were posted;
    a repeated end, a late update and a kill between add none."""
    engine: SqliteEngine | ClickHouseEngine = SqliteEngine(tmp_path)
    queued, database, variable = "true", f"sqlite:///{tmp_path}/calls/store.db", "CALLSPOOL_DATABASE_URL"
    if kind == "clickhouse":
        engine = ClickHouseEngine(request.getfixturevalue("clickhouse_server"), f"test_{uuid.uuid4().hex}")
        queued, database, variable = "not told", engine.url, "CALLSPOOL_CLICKHOUSE_URL"
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(Endpoint())
        receiver = a_receiver(tmp_path / "receiver", database, endpoint)
        receiver.environment[variable] = receiver.environment.pop("CALLSPOOL_DATABASE_URL")
        await stack.enter_async_context(receiver)
        start = make_call_log(2_000, seed=1, call_id="c", event="call_started")
        end = make_call_log(2_000, seed=2, call_id="c")
        await post(receiver, start)
        await receiver.has("c", "open")
        for _ in range(2):
            await post(receiver, end)
        (arrival,) = await endpoint.wait_for(1)
        document = json.loads(endpoint.documents[arrival.key])
        assert (document["call_id"], document["state"], document["late"]) == ("c", "complete", False)
        assert (document["start"], document["end"]) == (json.loads(start), json.loads(end))
        await receiver.kill()
        await receiver.start()
        await post(receiver, {"call_id": "c", "update_type": "recording_ready", "recording_url": "https://r"})
        await post(receiver, make_call_log(2_000, seed=3, call_id="d", event="call_log"))
        await endpoint.wait_until(lambda: "d" in announced(endpoint))
        await receiver.delivered()
        assert announced(endpoint) == {"c": 1, "d": 1}
        assert engine.rows(f"select count(*) from completions where {queued}") == [(0,)]


@pytest.mark.slow
async def test_two_receivers_announce_each_call_once(
    tmp_path: Path, postgres_servers: Callable[[str], PostgresServer]
) -> None:
    """Start and end come through different receivers of one database, which are killed meanwhile: every call is
    announced, by one of them, under one key."""
    rng = Random(5)
    url = PostgresEngine(postgres_servers("18"), f"test_{uuid.uuid4().hex}").url
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(Endpoint())
        pair = [await stack.enter_async_context(a_receiver(tmp_path / name, url, endpoint)) for name in ("one", "two")]

        async def talk(number: int) -> None:
            starting, ending = pair if number % 2 else reversed(pair)
            await post(starting, make_call_log(2_000, seed=number, call_id=f"c{number}", event="call_started"))
            await post(ending, make_call_log(2_000, seed=number, call_id=f"c{number}"))

        for round_ in range(3):
            await asyncio.gather(*[talk(number) for number in range(20 * round_, 20 * round_ + 20)])
            victim = rng.choice(pair)
            await victim.kill()
            await victim.start()

        async def all_announced() -> bool:
            return len(announced(endpoint)) == 60

        await until(all_announced, "every call is announced", deadline=PATIENCE)
        for receiver in pair:
            await receiver.delivered(deadline=PATIENCE)
        assert set(announced(endpoint).values()) == {1}
