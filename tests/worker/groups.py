"""Workers of one group, as tests of consumers start and watch them."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from confluent_kafka import Consumer, TopicPartition

from gateway.worker.consumer import ConsumerRule, TopicConsumer
from gateway.worker.messages import Batch, Ledger
from tests.kafka.clusters import PARTITIONS, Cluster
from tests.system.waiting import until
from uploaders.kafka.messages import Message
from uploaders.kafka.options import connection_settings
from uploaders.kafka.producer import MessageProducer

PATIENCE = 30.0


@dataclass
class Group:
    """Workers of one group on one cluster, whose writes are noted, and what they have committed."""

    cluster: Cluster
    name: str = field(default_factory=lambda: f"group-{uuid.uuid4().hex[:8]}")
    written: list[int] = field(default_factory=list)
    """The numbers of the messages in the order in which they were written."""
    batches: list[int] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)

    def rule(self, instance: str, **changes: object) -> ConsumerRule:
        rule = ConsumerRule(self.name, instance, session_timeout=2.0, batch_max=100, batch_wait=5.0)
        return replace(rule, **changes)  # type: ignore[arg-type]  # its fields

    async def write(self, batch: Batch) -> None:
        """Write it, as if a database had taken it."""
        self.note(batch)

    def note(self, batch: Batch) -> None:
        numbers = [int(message.value or b"-1") for message in batch.messages]
        self.written += numbers
        self.batches.append(len(numbers))
        for ledger in self.ledgers:
            if batch in ledger._batches:
                ledger.stored(batch, len(numbers), new=len(numbers))

    def start(
        self, instance: str, write: Callable[[Batch], Awaitable[None]] | None = None, **changes: object
    ) -> tuple[TopicConsumer, asyncio.Task[None]]:
        """One more worker, and its end."""
        ledger = Ledger()
        self.ledgers.append(ledger)
        consumer = TopicConsumer(self.cluster.options, self.rule(instance, **changes), write or self.write, ledger)
        return consumer, asyncio.create_task(consumer.run())

    @asynccontextmanager
    async def worker(
        self, instance: str = "one", write: Callable[[Batch], Awaitable[None]] | None = None, **changes: object
    ) -> AsyncIterator[TopicConsumer]:
        """One that reads, stopped at the end with time for what it has in hand."""
        consumer, ended = self.start(instance, write, **changes)
        try:
            yield consumer
            consumer.stop(PATIENCE)
            await asyncio.wait_for(ended, PATIENCE)
        finally:
            consumer.stop(0.0)
            await asyncio.wait({ended}, timeout=PATIENCE)
        assert all(ledger.entry().unaccounted == 0 for ledger in self.ledgers)

    async def produce(self, numbers: range) -> None:
        """Write messages with these numbers, spread over the partitions."""
        producer = MessageProducer(self.cluster.options)
        topics = self.cluster.topics.read
        await producer.send([Message(topics[n % 3], b"key-%d" % n, b"%d" % n, ()) for n in numbers])
        await producer.close()

    async def committed(self) -> int:
        """How many messages the group is done with, by its committed offsets."""
        return await asyncio.to_thread(self._committed)

    def _committed(self) -> int:
        consumer = Consumer({**connection_settings(self.cluster.options), "group.id": self.name})
        places = [TopicPartition(topic, n) for topic in self.cluster.topics.read for n in range(PARTITIONS)]
        try:
            return sum(max(0, each.offset) for each in consumer.committed(places, timeout=10))
        finally:
            consumer.close()

    async def has_written(self, count: int) -> None:
        async def there() -> bool:
            return len(set(self.written)) >= count

        await until(there, f"{count} messages are written", deadline=PATIENCE)
