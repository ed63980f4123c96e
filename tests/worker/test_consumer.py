"""The consumer: the database before the offsets, one member of a group through outages and rebalances."""

import asyncio
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from bench.kafka_servers import MockCluster
from gateway.worker.consumer import ConsumerFailed, TopicConsumer, known_offsets
from gateway.worker.messages import Batch, Ledger
from gateway.worker.writer import BatchWriter
from tests.kafka.clusters import PARTITIONS, Cluster, on_mock
from tests.stores.engines import SqliteEngine
from tests.stores.writing import Counts
from tests.system.waiting import until
from tests.worker.groups import PATIENCE, Group
from uploaders.kafka.messages import Message
from uploaders.kafka.options import connection_settings
from uploaders.kafka.producer import MessageProducer

HEARTBEAT = 12
OFFSET_COMMIT = 8
"""The API key of the request by which a member of a group says that it lives."""


async def owns(consumer: TopicConsumer, count: int) -> None:
    async def there() -> bool:
        return consumer.figures.partitions == count

    await until(there, f"it has {count} partitions", deadline=PATIENCE)


@pytest.fixture
def group(failing: Cluster) -> Group:
    return Group(failing)


async def test_what_is_there_is_written_at_once_and_committed(group: Group) -> None:
    """A full batch does not wait, and neither does a rest when there is nothing more to read."""
    await group.produce(range(250))
    async with group.worker(batch_wait=2 * PATIENCE) as consumer:
        await owns(consumer, 3 * PARTITIONS)
        await group.has_written(250)  # sooner than a rest would be that waits for more
    assert sorted(group.written) == list(range(250))
    assert group.batches[0] <= 100
    assert await group.committed() == 250


async def test_what_arrives_while_a_batch_is_written_shares_the_next(group: Group) -> None:
    """A slow commit bounds how many transactions there are, not how many messages: the next grows, fivefold at most."""
    await group.produce(range(130))
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def write(batch: Batch) -> None:
        begun.set()
        await goes_on.wait()
        await group.write(batch)

    async with group.worker(write=write, batch_max=10) as consumer:
        await begun.wait()

        async def gathered() -> bool:
            return consumer.figures.paused

        await until(gathered, "it has all that it takes, and waits", deadline=PATIENCE)
        goes_on.set()
        await group.has_written(130)
    assert group.batches[:2] == [10, 50]


@pytest.mark.slow
async def test_offsets_are_committed_after_the_write(group: Group) -> None:
    """While a batch is being written nothing of it is committed; a worker that dies then has it read again."""
    await group.produce(range(10))
    seen: list[int] = []

    async def write(batch: Batch) -> None:
        seen.append(await group.committed())
        raise RuntimeError("the power is cut")

    _, ended = group.start("one", write)
    with pytest.raises(RuntimeError, match="power is cut"):
        await asyncio.wait_for(ended, PATIENCE)
    group.ledgers.clear()  # that worker is dead, and took its books along
    assert set(seen) == {0}
    async with group.worker():
        await group.has_written(10)
    assert sorted(group.written) == list(range(10))


@pytest.mark.slow
async def test_a_kill_between_the_commits_changes_nothing(group: Group, tmp_path: Path) -> None:
    """The database has the batch, Kafka does not know: it comes again, all of it duplicates, each row once."""
    engine, ledger = SqliteEngine(tmp_path), Ledger()
    store, producer = engine.store(), MessageProducer(group.cluster.options)
    topics = group.cluster.topics
    writer = BatchWriter(store, "db", topics, producer, ledger, Counts())
    calls = [b'{"call_id": "call-%d"}' % number for number in range(30)]
    await producer.send([Message(topic, b"k", call, ()) for topic in (topics.started, topics.ended) for call in calls])

    async def killed(batch: Batch) -> None:
        await writer.write(batch)
        raise RuntimeError("killed after the database's commit")

    consumer = TopicConsumer(group.cluster.options, group.rule("one"), killed, ledger)
    with pytest.raises(RuntimeError, match="killed after"):
        await asyncio.wait_for(consumer.run(), PATIENCE)
    committed_once = len(engine.rows("select 1 from call_parts"))
    assert committed_once > 0
    assert await group.committed() == 0
    consumer = TopicConsumer(group.cluster.options, group.rule("one"), writer.write, ledger)
    running = asyncio.create_task(consumer.run())

    async def done() -> bool:
        return await group.committed() == 60

    await until(done, "everything is committed", deadline=PATIENCE)
    consumer.stop(PATIENCE)
    await running
    assert engine.rows("select count(*), count(distinct digest) from call_parts where kind = 2") == [(30, 30)]
    assert engine.rows("select count(*) from calls_complete where completed_at is not null") == [(30,)]
    assert (ledger.entry().new, ledger.entry().duplicate) == (60, committed_once)
    await producer.close()
    await store.close()


@pytest.mark.slow
async def test_a_database_that_is_down_pauses_and_rebalances_nothing(group: Group) -> None:
    """The worker stays a member, reads no more than it can hold, and goes on where it was."""
    await group.produce(range(300))
    is_up = asyncio.Event()

    async def write(batch: Batch) -> None:
        await is_up.wait()
        group.note(batch)

    async with group.worker(write=write, session_timeout=1.0) as consumer:

        async def paused() -> bool:
            return consumer.figures.paused and sum(consumer.figures.lags.values()) == 300

        await until(paused, "it pauses, and shows what waits", deadline=PATIENCE)
        rebalances = consumer.figures.rebalances
        assert group.written == []
        await asyncio.sleep(2.5)  # more than two session timeouts: the group would have put it out by now
        is_up.set()
        await group.has_written(300)
        assert consumer.figures.rebalances == rebalances
    assert sorted(group.written) == list(range(300))


@pytest.mark.slow
async def test_lost_partitions_are_dropped_and_not_committed(group: Group, mock: MockCluster) -> None:
    """They belong to another worker: what is being written of them commits nothing, what is in hand is forgotten."""
    await group.produce(range(100))
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def write(batch: Batch) -> None:
        if not begun.is_set():
            begun.set()
            mock.fail(HEARTBEAT, KafkaError.UNKNOWN_MEMBER_ID)
        await goes_on.wait()
        group.note(batch)

    async with group.worker(write=write, batch_max=20) as consumer:

        async def lost() -> bool:
            return consumer.figures.rebalances >= 2

        await until(lost, "it has lost its partitions", deadline=PATIENCE)
        assert await group.committed() == 0
        goes_on.set()
        await group.has_written(100)
        assert consumer.figures.commit_failures == 0, "it tried to commit what it had lost"
    assert await group.committed() == 100
    # The batch that was on its way is written twice: by the one that lost it, and by the one who has it now.
    assert len(group.written) > 100


async def test_what_could_not_be_committed_is_committed_later(group: Group, mock: MockCluster) -> None:
    """A group that is being rebalanced takes no commit; nothing has to come for it to be tried again."""
    mock.fail(OFFSET_COMMIT, KafkaError.REBALANCE_IN_PROGRESS)
    await group.produce(range(50))
    async with group.worker() as consumer:

        async def done() -> bool:
            return await group.committed() == 50

        await until(done, "all is committed", deadline=PATIENCE)
        assert consumer.figures.commit_failures >= 1
    assert sorted(group.written) == list(range(50))


def test_an_offset_that_the_broker_withholds_is_not_known(failing: Cluster) -> None:
    """It counts neither as 0, as where nothing is committed, nor against the offsets of other partitions."""
    topic = failing.topics.ended
    consumer = Consumer({**connection_settings(failing.options), "group.id": "g", "isolation.level": "read_committed"})
    try:
        consumer.commit(offsets=[TopicPartition(topic, 0, 5)], asynchronous=False)
        asked = [TopicPartition(topic, number) for number in (0, 1, PARTITIONS)]
        answers = consumer.committed(asked, timeout=PATIENCE)
    finally:
        consumer.close()
    assert answers[-1].error is not None, "there is no such partition"
    assert known_offsets(answers) == {(topic, 0): 5, (topic, 1): 0}


async def handed_over(group: Group) -> bool:
    """A second worker joins while the first one writes; whether all that the first one committed was taken.

    The mock cluster refuses a member whose SyncGroup comes after the leader's, which Kafka answers: that member joins
    once more, and what another one commits meanwhile is refused. Then this, and nothing else, comes twice.
    """
    await group.produce(range(200))

    async def committed() -> bool:
        return await group.committed() == 200

    async def giving_up() -> bool:
        return one.figures.rebalances > 1

    async def write(batch: Batch) -> None:
        """What comes after the first 200 is on its way until the group wants partitions back."""
        if len(group.written) >= 200:
            await until(giving_up, "it is to give up partitions", deadline=PATIENCE)
        group.note(batch)

    async with group.worker("one", write) as one:
        await until(committed, "all of it is committed", deadline=PATIENCE)
        await group.produce(range(200, 201))
        async with group.worker("two") as two:
            await owns(two, 3 * PARTITIONS // 2)
            await owns(one, 3 * PARTITIONS // 2)
            await group.produce(range(201, 400))
            await group.has_written(400)
    refused = one.figures.commit_failures > 0
    assert sorted(group.written) in ([*range(400)], *([[*range(200), 200, *range(200, 400)]] if refused else []))
    assert await group.committed() == 400
    return not refused


@pytest.mark.slow
async def test_partitions_go_to_a_second_worker_after_their_messages(mock: MockCluster) -> None:
    """When one joins, the first writes and commits what it has of what it gives up: nothing comes twice."""
    async with asyncio.timeout(4 * PATIENCE):
        while not await handed_over(Group(on_mock(mock))):
            pass


async def test_two_workers_of_one_name_are_told(real: Cluster) -> None:
    """The group fences the one that was there first, and that says what to change."""
    group = Group(real)
    async with group.worker("same", session_timeout=6.0) as first:
        await owns(first, 3 * PARTITIONS)
        _, ended = group.start("same", session_timeout=6.0)
        with pytest.raises(ConsumerFailed, match=r"same, too: give each its own work\.instance"):
            await asyncio.wait_for(ended, PATIENCE)
