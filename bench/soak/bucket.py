"""A bucket of a real S3 server on loopback that gets everything, where that server can be started."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aioboto3

from bench.processes import ServerFailed
from bench.s3_server import ACCESS_KEY, SECRET_KEY, Server, seaweedfs
from bench.soak.gateway import BucketAddress

if TYPE_CHECKING:
    from aiobotocore.session import ClientCreatorContext
    from types_aiobotocore_s3 import S3Client

_NAME = "soaked"


class Bucket:
    """One bucket of a running server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.address = BucketAddress(_NAME, server.endpoint)

    async def make(self) -> None:
        """Create it."""
        async with self._client() as client:
            await client.create_bucket(Bucket=_NAME)

    async def keys(self) -> set[str]:
        """The keys of all its objects."""
        async with self._client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=_NAME)
            return {one["Key"] async for page in pages for one in page.get("Contents", ())}

    def _client(self) -> "ClientCreatorContext[S3Client]":
        session = aioboto3.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
        return session.client("s3", endpoint_url=self._server.endpoint)


@contextmanager
def a_bucket(folder: Path) -> Iterator[Bucket | str]:
    """A bucket until the block ends; where the server does not start, why it does not.

    Its credentials are in this process's environment meanwhile, where the gateway's come from.
    """
    place = folder / "s3"
    place.mkdir()
    with ExitStack() as stack:
        try:
            server = stack.enter_context(seaweedfs(place))
        except ServerFailed as error:
            yield str(error)
            return
        stack.enter_context(_credentials())
        yield Bucket(server)


@contextmanager
def _credentials() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY, AWS_EC2_METADATA_DISABLED="true")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
