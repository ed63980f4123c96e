"""What the tests with Kafka share."""

from tests.kafka.clusters import _mock, broker, cluster, failing, mock, real

__all__ = ["_mock", "broker", "cluster", "failing", "mock", "real"]
