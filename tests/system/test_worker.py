"""Real processes from the agent to the database: a sidecar that writes to Kafka, and workers that are killed."""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from bench.calllogs import make_call_log
from bench.postgres_server import PostgresServer
from tests.budget import budgeted
from tests.kafka.clusters import KAFKA, Cluster
from tests.stores.engines import Engine, PostgresEngine
from tests.system.collector import Collector
from tests.system.gateway_process import GatewayProcess
from tests.system.receivers import counted, post
from tests.system.waiting import until
from uploaders.kafka.messages import Message
from uploaders.kafka.producer import MessageProducer

PATIENCE = 90.0
TAKEOVER_SECONDS = 3.0
"""After the end of a killed worker's session."""


def session_seconds(cluster: Cluster) -> float:
    """As short as the cluster allows."""
    return 6.0 if cluster.brokers == os.environ.get(KAFKA) else 2.0


class WorkerProcess(GatewayProcess):
    """`callspool work`, one member of a group."""

    SUBCOMMAND = "work"

    def __init__(self, folder: Path, group: str, cluster: Cluster, database: str) -> None:
        folder.mkdir(exist_ok=True)
        configuration = folder / "callspool.toml"
        configuration.write_text(cluster.table)
        environment = {
            "CALLSPOOL_CONFIG": str(configuration),
            "CALLSPOOL_DATABASE_URL": database,
            "CALLSPOOL_WORK_GROUP": group,
            "CALLSPOOL_WORK_INSTANCE": folder.name,
            "CALLSPOOL_WORK_SESSION_TIMEOUT": f"{session_seconds(cluster):g}s",
        }
        super().__init__(folder, environment)


@pytest.fixture(params=["mock", "named by CALLSPOOL_TEST_KAFKA"])
def expiring(request: pytest.FixtureRequest) -> Cluster:
    """A cluster that puts out static members which died; the broker in memory keeps them for ever."""
    found: Cluster = request.getfixturevalue("failing" if request.param == "mock" else "real")
    return found


@asynccontextmanager
async def workers(
    count: int, tmp_path: Path, cluster: Cluster, database: tuple[str, Engine], **environment: str
) -> AsyncIterator[list[WorkerProcess]]:
    """So many of one group, started one after the other; what is still alive at the end drains."""
    group = f"group-{uuid.uuid4().hex[:8]}"
    made = [WorkerProcess(tmp_path / f"worker-{n}", group, cluster, database[0]) for n in range(count)]
    try:
        for worker in made:
            worker.environment.update(environment)
            await worker.start()
        yield made
        for worker in made:
            if worker.alive:
                worker.terminate()
                assert await worker.ended() == 0, worker.log
    finally:
        for worker in made:
            await worker.__aexit__(None, None, None)


async def has_rows(engine: Engine, table: str, count: int, deadline: float = PATIENCE) -> None:
    async def there() -> bool:
        return counted(engine, table) >= count

    await until(there, f"{table} has {count} rows", deadline=deadline)


async def produced(cluster: Cluster, calls: range) -> None:
    """Start and end of these calls, as another producer writes them."""
    producer = MessageProducer(cluster.options)
    messages = [
        Message(topic, b"call-%d" % n, json.dumps({"call_id": f"call-{n}", "n": n, "x": "y" * 500}).encode(), ())
        for n in calls
        for topic in (cluster.topics.started, cluster.topics.ended)
    ]
    await producer.send(messages)
    await producer.close()


@pytest.mark.slow
async def test_calls_go_from_the_agent_through_kafka_to_the_database(
    tmp_path: Path, cluster: Cluster, database: tuple[str, Engine]
) -> None:
    """Start, end and a Phase 2 body become one complete call with its spans; the worker's books balance, and the spans
    of its batches are linked to those of the sidecar's attempts."""
    engine = database[1]
    ended = make_call_log(2_000, seed=2, call_id="small")
    large = make_call_log(1_500_000, seed=3, call_id="large")
    spans = json.loads(large)["telemetry_data"]["session_traces"]
    detail = {
        "call_id": "small", "update_type": "detailed_telemetry",
        "telemetry_data": {"session_traces": [{"name": "llm"}]},
    }  # fmt: skip
    table = cluster.table.replace("[[destinations]]\n", "[[destinations]]\nmax_message_bytes = 2000000\n")
    async with (
        Collector() as collector,
        GatewayProcess(tmp_path / "sidecar", collector.settings, settings=table) as sidecar,
        workers(1, tmp_path, cluster, database, **collector.settings) as (worker,),
    ):
        await post(sidecar, detail)
        await post(sidecar, make_call_log(2_000, seed=1, call_id="small", event="call_started"))
        await post(sidecar, ended, "/dev/send-call-log")
        await post(sidecar, large)
        await has_rows(engine, "call_parts", 5)
        await has_rows(engine, "spans", 1 + len(spans))
        assert await worker.metric("callspool_work_unaccounted") == 0
        assert await worker.metric("callspool_work_dead_total") == 0

        async def linked() -> bool:
            links = {link.span_id for batch in collector.named("write batch") for link in batch.links}
            return len(links) == 4 and links == {attempt.span_id for attempt in collector.named("attempt")}

        await until(linked, "batches are linked to the attempts that wrote their messages")
    ((document,),) = engine.rows("select cast(core as text) from call_parts where kind = 2 and call_id = 'small'")
    assert json.loads(document) == json.loads(ended)
    states = dict(engine.rows("select call_id, state from calls_complete"))
    assert (states["small"], states["large"]) == (3, 2)
    assert counted(engine, "spans") == 1 + len(spans)


@pytest.mark.slow
async def test_a_killed_workers_partitions_are_taken_over(
    tmp_path: Path,
    expiring: Cluster,
    postgres_servers: Callable[[str], PostgresServer],
    record_property: Callable[[str, object], None],
) -> None:
    """One of two is killed with SIGKILL while both write: every call is there once, soon after its session is over."""
    engine, loop = PostgresEngine(postgres_servers("18"), f"test_{uuid.uuid4().hex}"), asyncio.get_running_loop()
    session = session_seconds(expiring)
    async with workers(2, tmp_path, expiring, (engine.url, engine)) as (one, two):
        await produced(expiring, range(500))
        await has_rows(engine, "call_parts", 300)
        await one.kill()
        killed_at = loop.time()
        await produced(expiring, range(500, 1000))
        await has_rows(engine, "call_parts", 2000)
        seconds = loop.time() - killed_at
        record_property("told", f"{seconds:.1f} s from the kill to the last row, session {session:g} s")
        # The mock cluster waits a session less a second for members to join again, whoever has joined.
        assert seconds < session + TAKEOVER_SECONDS + (session - 1)
        assert await two.metric("callspool_work_unaccounted") == 0
    assert counted(engine, "call_parts") == 2000
    assert engine.rows("select count(*) from calls_complete where completed_at is not null") == [(1000,)]


@pytest.mark.prove
async def test_nothing_is_lost_or_doubled_by_kills_at_random_points(
    tmp_path: Path, expiring: Cluster, postgres_servers: Callable[[str], PostgresServer]
) -> None:
    """Workers are killed again and again while calls come in: each part is there once, each call complete."""
    engine = PostgresEngine(postgres_servers("18"), f"test_{uuid.uuid4().hex}")
    chance, kills, count = Random(7), budgeted(small=4, full=200), 0
    async with workers(2, tmp_path, expiring, (engine.url, engine)) as both:
        for _ in range(kills):
            await produced(expiring, range(count, count + 200))
            count += 200
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            victim = chance.choice(both)
            await victim.kill()
            await victim.spawn()
        await has_rows(engine, "call_parts", 2 * count, deadline=PATIENCE + kills)
        for worker in both:
            await worker.until_ready(deadline=PATIENCE)
            assert await worker.metric("callspool_work_unaccounted") == 0
    assert counted(engine, "call_parts") == 2 * count
    assert engine.rows("select count(*) from calls_complete where completed_at is not null") == [(count,)]
