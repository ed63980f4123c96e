"""Fixtures: servers of S3, databases and brokers as in tests/s3, tests/stores and tests/kafka."""

from tests.kafka.clusters import _mock, broker, cluster, failing, mock, real
from tests.s3.conftest import bucket, credentials, weed
from tests.stores.postgres_server import postgres_servers

__all__ = [
    "_mock", "broker", "bucket", "cluster", "credentials", "failing", "mock", "postgres_servers", "real",
    "weed",
]  # fmt: skip
