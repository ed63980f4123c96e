"""Batches of messages become parts of calls; what no store takes is among the dead, with its reason."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.kafka_servers import MockCluster
from gateway.worker.messages import Batch, Incoming, Ledger
from gateway.worker.writer import BatchWriter
from tests.kafka.clusters import Cluster
from tests.stores.calls import document_of
from tests.stores.engines import SqliteEngine
from tests.stores.writing import Counts, RefusingStore
from uploaders.kafka.messages import BadMessage, read_message
from uploaders.kafka.producer import MessageProducer
from uploaders.stores.completion import CallState
from uploaders.stores.parts import Part, PartKind
from uploaders.stores.store import Store, StoreRefused, StoreUnavailable, Written

TELEMETRY = {"session_traces": [{"name": "llm"}, {"name": "tts"}]}


@dataclass
class Bench:
    """A writer on the embedded store, and what it did."""

    cluster: Cluster
    engine: SqliteEngine
    store: Store
    writer: BatchWriter
    ledger: Ledger
    counts: Counts

    def batch(self, *messages: Incoming) -> Batch:
        batch = self.ledger.begin()
        for message in messages:
            self.ledger.read(batch, message)
        return batch

    async def write(self, *messages: Incoming) -> None:
        batch = self.batch(*messages)
        await self.writer.write(batch)
        self.ledger.end(batch, written=True)

    def message(self, event: str, number: int = 1, **fields: object) -> Incoming:
        topics = self.cluster.topics
        kinds = {"call_started": topics.started, "call_ended": topics.ended}
        document = json.dumps({"call_id": f"call-{number}", "wcall_event": event, **fields}).encode()
        headers = (
            ("v", b"1"), ("event", event.encode()), ("form", b"whole"), ("accepted-at", b"5"),
            ("digest", number.to_bytes(32).hex().encode()), ("idempotency-key", b"spool1-%d-whole" % number),
        )  # fmt: skip
        topic, key = kinds.get(event, topics.details), b"call-%d" % number
        part = read_message(topic, key, document, headers, 7, topics)
        return Incoming(topic, 0, number, key, document, headers, part)


@pytest.fixture
async def bench(failing: Cluster, tmp_path: Path) -> AsyncIterator[Bench]:
    engine, ledger, counts = SqliteEngine(tmp_path), Ledger(), Counts()
    store, dead = engine.store(), MessageProducer(failing.options)
    yield Bench(failing, engine, store, BatchWriter(store, "db", failing.topics, dead, ledger, counts), ledger, counts)
    await dead.close()
    await store.close()


async def test_a_batch_is_one_transaction(bench: Bench) -> None:
    """Start and end of a call, read together, are a complete call; read again they are duplicates."""
    messages = [bench.message("call_started"), bench.message("call_ended", turns=2)]
    for _ in range(2):
        await bench.write(*messages)
    call = await bench.store.call("", "call-1")
    assert call is not None
    assert call.summary.state is CallState.COMPLETE
    assert {part.source_uid for part in call.parts} == {"spool1-1"}
    assert bench.counts.batches == [2, 2]
    entry = bench.ledger.entry()
    assert (entry.read, entry.new, entry.duplicate, entry.unaccounted) == (4, 2, 2, 0)


async def test_a_large_batch_is_several_transactions_with_all_of_a_call_in_one(bench: Bench) -> None:
    """Shares of a batch are written side by side; start and end of a call would wait for each other in two of them."""
    counts = Counts()
    dead = MessageProducer(bench.cluster.options)
    writer = BatchWriter(bench.store, "db", bench.cluster.topics, dead, bench.ledger, counts, share=5, at_once=4)
    events = ("call_started", "call_ended")
    batch = bench.batch(*[bench.message(event, number) for event in events for number in range(40)])
    await writer.write(batch)
    bench.ledger.end(batch, written=True)
    assert 1 < len(counts.batches) <= 4
    assert sum(counts.batches) == 80
    assert not any(size % 2 for size in counts.batches)
    assert (await bench.store.status()).calls == {CallState.COMPLETE: 40}
    assert (bench.ledger.entry().new, bench.ledger.entry().unaccounted) == (80, 0)


@pytest.mark.parametrize("event", ["call_detail", "call_ended"])
async def test_telemetry_gets_its_spans(bench: Bench, event: str) -> None:
    """A detail as a message of its own, and a whole that holds telemetry, are stored as details, each span once."""
    for _ in range(2):
        await bench.write(bench.message(event, telemetry_data=TELEMETRY))
    assert json.loads(await document_of(bench.store.detail("", "call-1")))["telemetry_data"] == TELEMETRY
    assert bench.engine.rows("select name from spans order by seq") == [("llm",), ("tts",)]
    assert (bench.ledger.entry().new, bench.ledger.entry().duplicate) == (1, 1)


async def test_a_core_is_no_detail_whatever_it_speaks_of(bench: Bench) -> None:
    """Its detail, which has the same digest, is stored when it comes."""
    await bench.write(bench.message("call_ended", metadata={"telemetry_data": {}}))
    await bench.write(bench.message("call_detail", telemetry_data=TELEMETRY))
    assert json.loads(await document_of(bench.store.detail("", "call-1")))["telemetry_data"] == TELEMETRY


async def test_what_cannot_be_read_is_among_the_dead(bench: Bench) -> None:
    """The others of its batch are stored; it is there as it came, with its reason and where it was."""
    foreign = Incoming(
        bench.cluster.topics.ended, 3, 9, None, b"[1, 2]", (("origin", b"x"),), BadMessage("not a JSON object")
    )
    await bench.write(bench.message("call_started", 1), foreign, bench.message("call_started", 2))
    (dead,) = await asyncio.to_thread(bench.cluster.messages, bench.cluster.topics.dead)
    assert (dead.value, dead.headers["origin"]) == (b"[1, 2]", b"x")
    assert b"not a JSON object" in dead.headers["dead-reason"]
    assert dead.headers["dead-origin"].endswith(b"[3] at offset 9")
    entry = bench.ledger.entry()
    assert (entry.new, entry.dead, entry.unaccounted) == (2, 1, 0)


async def test_one_poison_message_takes_nobody_along(bench: Bench, tmp_path: Path) -> None:
    """The batch is halved until the guilty one is alone; that one is among the dead, all others are stored."""
    refusing = RefusingStore(tmp_path, {"call-7"})
    dead = MessageProducer(bench.cluster.options)
    writer = BatchWriter(refusing, "db", bench.cluster.topics, dead, bench.ledger, bench.counts)
    batch = bench.batch(*[bench.message("call_started", number) for number in range(1, 21)])
    await writer.write(batch)
    await dead.close()
    assert refusing.kept == [f"call-{number}" for number in range(1, 21) if number != 7]
    assert bench.counts.refused == [PartKind.START]
    (buried,) = await asyncio.to_thread(bench.cluster.messages, bench.cluster.topics.dead)
    assert (buried.key, buried.headers["dead-reason"]) == ("call-7", b"the database refuses a value (22P05)")
    assert (bench.ledger.entry().new, bench.ledger.entry().dead, bench.ledger.entry().unaccounted) == (19, 1, 0)


async def test_a_dead_message_that_is_too_large_keeps_its_key(bench: Bench, mock: MockCluster) -> None:
    """Where its topic takes no message of this size, the headers say what and where it was."""
    mock.fail(0, 10)
    await bench.write(Incoming(bench.cluster.topics.ended, 0, 1, b"k", b"{", (), BadMessage("no JSON")))
    (dead,) = await asyncio.to_thread(bench.cluster.messages, bench.cluster.topics.dead)
    assert (dead.key, dead.value) == ("k", b"")
    assert bench.ledger.entry().dead == 1


@pytest.mark.parametrize("error", [StoreUnavailable("it is down"), StoreRefused("no grant")])
async def test_a_database_that_takes_nothing_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nothing is dead, nothing is skipped: the batch waits for the database, and the reason shows."""
    monkeypatch.setattr("gateway.worker.writer.FIRST_WAIT_SECONDS", 0.001)
    seen: list[str | None] = []
    write = bench.store.write

    async def failing(parts: Sequence[Part]) -> Written:
        seen.append(bench.writer.obstacle)
        if len(seen) < 4:
            raise error
        return await write(parts)

    monkeypatch.setattr(bench.store, "write", failing)
    await bench.write(bench.message("call_started"))
    assert seen == [None, str(error), str(error), str(error)]
    assert bench.writer.obstacle is None
    assert (bench.ledger.entry().new, bench.ledger.entry().dead) == (1, 0)
