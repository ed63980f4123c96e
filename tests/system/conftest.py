"""Fixtures: the S3 servers, buckets and credentials of tests/s3, and the database servers of tests/stores."""

from tests.s3.conftest import bucket, credentials, weed
from tests.stores.postgres_server import postgres_servers

__all__ = ["bucket", "credentials", "postgres_servers", "weed"]
