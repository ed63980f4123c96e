"""Kafka clusters of the tests: a real broker in memory, a real Kafka where one is named, and one that fails at command.

Each test has topics of its own, so that one broker serves all tests of a session.
"""

import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from bench.kafka_servers import KafkaServer, MockCluster, create_topics
from uploaders.kafka.options import KafkaOptions, Topics

KAFKA = "CALLSPOOL_TEST_KAFKA"
"""Names a broker of a real Kafka, as host:port, for the tests that do not need one to fail."""
PARTITIONS = 4
READ_SECONDS = 20.0


def fresh_topics() -> Topics:
    """Names that no other test uses."""
    end = uuid.uuid4().hex[:12]
    return Topics(f"call_started-{end}", f"call_ended-{end}", f"call_details-{end}", f"calls_dead-{end}")


@dataclass(frozen=True)
class KafkaMessage:
    """What a topic holds."""

    topic: str | None
    key: str
    value: bytes
    headers: dict[str, bytes]

    @classmethod
    def of(cls, message: Message) -> Self:
        """As the client's library gives it."""
        headers = {str(each[0]): each[1] for each in message.headers() or () if isinstance(each[1], bytes)}
        return cls(message.topic(), (message.key() or b"").decode(), message.value() or b"", headers)


@dataclass(frozen=True)
class Cluster:
    """Where a cluster is, and topics that exist there."""

    brokers: str
    topics: Topics = field(default_factory=fresh_topics)
    access: Mapping[str, Any] = field(default_factory=dict)
    """The options by which it lets a client in."""

    @property
    def options(self) -> KafkaOptions:
        return KafkaOptions((self.brokers,), self.topics, delivery_timeout=10.0, **self.access)

    @property
    def table(self) -> str:
        """The cluster and its topics, as a table of a file."""
        topics = self.topics
        return (
            f'[[destinations]]\nname = "kafka"\ntype = "kafka"\nbrokers = "{self.brokers}"\n'
            f'topics = {{started = "{topics.started}", ended = "{topics.ended}", details = "{topics.details}", '
            f'dead = "{topics.dead}"}}\n'
        )

    def messages(self, *topics: str) -> list[KafkaMessage]:
        """All that there is in these topics, or in those that workers read; oldest first in each partition."""
        return read_all(self.brokers, topics or self.topics.read)


def read_all(brokers: str, topics: tuple[str, ...]) -> list[KafkaMessage]:
    """Every message of topics with `PARTITIONS` partitions."""
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": f"tests-{uuid.uuid4().hex}", "enable.partition.eof": True,
         "enable.auto.commit": False, "fetch.wait.max.ms": 10}
    )  # fmt: skip
    waiting = {(topic, number) for topic in topics for number in range(PARTITIONS)}
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for topic, number in waiting])
    found: list[KafkaMessage] = []
    try:
        while waiting:
            message = consumer.poll(READ_SECONDS)
            assert message is not None, f"nothing came of {waiting}"
            error = message.error()
            if error is None:
                found.append(KafkaMessage.of(message))
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                waiting.discard((message.topic(), message.partition()))
    finally:
        consumer.close()
    return found


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """A broker in memory that keeps what is written, and leads groups."""
    server = KafkaServer()
    server.start()
    yield server.brokers
    server.stop()


def _on(brokers: str) -> Cluster:
    made = Cluster(brokers)
    create_topics(brokers, [*made.topics.read, made.topics.dead], PARTITIONS)
    return made


@pytest.fixture
def real() -> Cluster:
    """Fresh topics on a real Kafka, for what no other broker does as Kafka does."""
    brokers = os.environ.get(KAFKA, "")
    if not brokers:
        pytest.skip(f"{KAFKA} names no broker")
    return _on(brokers)


@pytest.fixture(params=["in memory", "named by CALLSPOOL_TEST_KAFKA"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Fresh topics on a broker; on a real Kafka too where there is one."""
    if request.param == "in memory":
        return _on(request.getfixturevalue("broker"))
    found: Cluster = request.getfixturevalue("real")
    return found


@pytest.fixture(scope="session")
def _mock() -> Iterator[MockCluster]:
    with MockCluster() as mock:
        yield mock


@pytest.fixture
def mock(_mock: MockCluster) -> MockCluster:
    """A cluster that fails as it is told; it is to be up again at the end of a test."""
    return _mock


@pytest.fixture
def failing(mock: MockCluster) -> Cluster:
    """Fresh topics on it."""
    return on_mock(mock)


def on_mock(mock: MockCluster) -> Cluster:
    """Fresh topics on a mock cluster."""
    made = Cluster(mock.brokers)
    mock.create(*made.topics.read, made.topics.dead, partitions=PARTITIONS)
    return made
