"""Fixtures: the S3 servers, buckets and credentials of tests/s3, for gateways that deliver to them."""

from tests.s3.conftest import bucket, credentials, weed

__all__ = ["bucket", "credentials", "weed"]
