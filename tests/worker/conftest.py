"""What the tests of the worker share."""

from tests.kafka.clusters import _mock, broker, cluster, failing, mock, real

__all__ = ["_mock", "broker", "cluster", "failing", "mock", "real"]
