"""Builds what the tests of S3 deliver: call logs in a real spool, and clients that look at what arrived."""

import base64
import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import aioboto3

from bench.s3_server import ACCESS_KEY, SECRET_KEY, Server
from spool.records import DeadLetter, Delivered, Delivery, Form, Fragment, Lane, NewDelivery, NewRecord, system_clock
from spool.store import Spool, SpoolOptions
from tests.spool.spool_parts import decoded
from uploaders.s3.client import client_config
from uploaders.s3.options import S3Options
from uploaders.s3.uploader import S3Uploader

DESTINATION = "objects"
MakeUploader = Callable[[S3Options], S3Uploader]
"""Makes an uploader over the store of a test, which is closed after it."""
MEBIBYTE = 1 << 20
LANES = {Form.WHOLE: Lane.CORE, Form.CORE: Lane.CORE, Form.DETAIL: Lane.DETAIL}


class NoCommits:
    """Hears of commits, and forgets them."""

    def committed(self, seconds: float, batch: int) -> None:
        """Nothing."""


@cache
def _noise() -> bytes:
    return base64.b64encode(random.Random(1).randbytes(3 * MEBIBYTE))


@lru_cache(maxsize=4)
def rest_of(size: int) -> bytes:
    """JSON members of `size` bytes that zstd cannot make smaller than three quarters: frames know no repetition."""
    begin, end = b'"telemetry_data": "', b'"'
    length = size - len(begin) - len(end)
    return begin + (_noise() * (length // len(_noise()) + 1))[:length] + end


@dataclass
class Store:
    """A spool with one destination."""

    spool: Spool
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def large(self, rest_bytes: int, *, token: str | None = None, **names: Any) -> Delivery:
        """The detail of a large call log that was just accepted."""
        fragments = {
            Fragment.BASE: [b'"call_id": "large", "n": 1.10'],
            Fragment.DERIVED: [b'"summary_metrics": {"total_turns": 2}'],
            Fragment.REST: [rest_of(rest_bytes)],
        }
        return await self.accept(fragments, Form.DETAIL, token=token, **names)

    async def small(self, body: bytes = b'{"call_id": "small"}', **names: Any) -> Delivery:
        """The whole of a small call log."""
        return await self.accept({Fragment.BODY: [body]}, Form.WHOLE, **names)

    async def accept(
        self, fragments: Mapping[Fragment, list[bytes]], form: Form, *, token: str | None = None, **names: Any
    ) -> Delivery:
        """Accept a record that owes one delivery, and return that as the queue gives it."""
        number = next(self._numbers)
        values = {"call_id": f"call-{number}", "agent_id": "agent-1", "event": "call_ended"} | names
        new = NewRecord(
            environment="dev",
            digest=hashlib.sha256(f"{number} {values}".encode()).digest(),
            raw_bytes=sum(len(piece) for pieces in fragments.values() for piece in pieces),
            token=token,
            fragments=fragments,
            deliveries=(NewDelivery(DESTINATION, form, LANES[form], ordered=False),),
            **values,
        )
        accepted = await self.spool.accept(new)
        (delivery,) = accepted.ready
        return delivery

    async def due(self, lane: Lane = Lane.DETAIL) -> tuple[Delivery, ...]:
        """What is to be delivered."""
        return (await self.spool.due(DESTINATION, lane, now=system_clock(), limit=100)).deliveries

    async def delivered(self, delivery: Delivery) -> None:
        """Settle it as delivered."""
        await self.spool.settle(delivery, Delivered())

    async def discarded(self, delivery: Delivery) -> None:
        """Give it up, as an operator may with a dead letter."""
        await self.spool.settle(delivery, DeadLetter("given up"))
        await self.spool.admin.discard([delivery.key])


@asynccontextmanager
async def opened_store(directory: Path) -> AsyncIterator[Store]:
    """A spool in `directory`, new or as it was left."""
    spool = await Spool.open(SpoolOptions(directory, max_bytes=4 << 30), [DESTINATION], system_clock, NoCommits())
    try:
        yield Store(spool)
    finally:
        await spool.close()


def options(server: Server, bucket: str, **changes: Any) -> S3Options:
    """How to deliver to a bucket of a server of the tests."""
    return S3Options(**({"bucket": bucket, "endpoint_url": server.endpoint, "region": "us-east-1"} | changes))


@cache
def _session() -> aioboto3.Session:
    """One for all: each would read the descriptions of S3 anew, 0.1 s of CPU."""
    return aioboto3.Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name="us-east-1")


@asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[Any]:
    """A client of the tests' own, to look at what is there."""
    config = client_config(options(server, "any"))
    async with _session().client("s3", endpoint_url=server.endpoint, config=config) as client:
        yield client


@dataclass(frozen=True)
class Stored:
    """An object as a reader finds it."""

    key: str
    data: bytes
    headers: Mapping[str, Any]

    @property
    def document(self) -> bytes:
        """What it holds, decoded as its `Content-Encoding` says."""
        encoding = self.headers.get("ContentEncoding")
        if encoding == "zstd":
            return decoded(self.data)
        if encoding == "gzip":
            import gzip

            return gzip.decompress(self.data)
        return self.data


async def objects(server: Server, bucket: str) -> list[Stored]:
    """All objects of a bucket, by key."""
    found = []
    async with client_of(server) as client:
        listed = await client.list_objects_v2(Bucket=bucket)
        for one in listed.get("Contents", ()):
            told = await client.get_object(Bucket=bucket, Key=one["Key"])
            found.append(Stored(one["Key"], await told["Body"].read(), told))
    return sorted(found, key=lambda one: one.key)


async def uploads(server: Server, bucket: str) -> list[str]:
    """The ids of the uploads in parts that are under way."""
    async with client_of(server) as client:
        listed = await client.list_multipart_uploads(Bucket=bucket)
        return [one["UploadId"] for one in listed.get("Uploads", ())]


@dataclass
class Heard:
    """What an uploader said of its work."""

    parts: list[tuple[int, bool]] = field(default_factory=list)
    """Size of each part sent, and whether it was sent before."""
    resumed: int = 0
    delivered: int = 0
    sizes: list[tuple[int, bool]] = field(default_factory=list)
    """Of the objects delivered, and whether each was one of the detail lane."""
    aborted: int = 0
    not_aborted: int = 0
    bytes_read_back: int = 0

    def part_sent(self, destination: str, size: int, *, repeated: bool) -> None:
        self.parts.append((size, repeated))

    def parts_resumed(self, destination: str, count: int) -> None:
        self.resumed += count

    def object_delivered(self, destination: str, size: int, seconds: float, *, large: bool) -> None:
        assert seconds >= 0
        self.delivered += 1
        self.sizes.append((size, large))

    def uploads_aborted(self, destination: str, count: int, *, failed: int) -> None:
        self.aborted += count
        self.not_aborted += failed

    def read_back(self, destination: str, size: int) -> None:
        self.bytes_read_back += size
