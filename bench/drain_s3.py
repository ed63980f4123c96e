"""Drain to S3: callspool beside aioboto3's own `upload_fileobj` of the same stored bytes.

Both send to the same SeaweedFS on loopback, in turn, round after round, two objects at a time. callspool does more
meanwhile: it reads the spool, computes and sends checksums, writes down each part of a large object before and after
it is sent, compares the checksum that the server tells, and settles the delivery durably. Both run on uvloop.
"""

import asyncio
import hashlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aioboto3
import uvloop

from bench.calllogs import make_call_log
from bench.figures import Figure, over
from bench.s3_server import ACCESS_KEY, SECRET_KEY, Server, seaweedfs
from spool.records import Delivered, Delivery, Form, Fragment, Lane, NewDelivery, NewRecord
from spool.store import Spool, SpoolOptions
from uploaders.s3.options import S3Options
from uploaders.s3.uploader import S3Uploader

if TYPE_CHECKING:
    from aiobotocore.session import ClientCreatorContext
    from types_aiobotocore_s3 import S3Client

DESTINATION = "objects"
AT_ONCE = 2
"""As the detail lane has it."""
REGION = "us-east-1"
SAME = {"ServerSideEncryption": "AES256", "ContentType": "application/json", "ContentEncoding": "zstd"}
"""The peer's objects are stored like callspool's."""


@dataclass(frozen=True, slots=True)
class DrainSize:
    """One size of call log, and how many are drained in a round."""

    name: str
    raw_bytes: int
    count: int


SIZES = (DrainSize("15 MB", 15_000_000, 16), DrainSize("300 MB", 300_000_000, 1))
QUICK_SIZES = (DrainSize("15 MB", 15_000_000, 4), DrainSize("100 MB", 100_000_000, 1))


@dataclass(frozen=True, slots=True)
class DrainComparison:
    """One size over all rounds. Rates are MB/s of stored (compressed) bytes; `ratio` is taken within each round."""

    size: str
    stored_bytes: int
    """Of one round."""
    callspool: Figure
    upload_fileobj: Figure
    ratio: Figure


def measure(folder: Path, *, rounds: int, sizes: tuple[DrainSize, ...] = SIZES) -> tuple[DrainComparison, ...]:
    """Start a server below `folder`, which must be on a disk, and measure every size."""
    with (
        tempfile.TemporaryDirectory(prefix="drain-s3-", dir=folder) as name,
        seaweedfs(Path(name)) as server,
        _cores_apart(server.pid),
    ):
        return tuple(uvloop.run(_compare(Path(name), server, size, rounds)) for size in sizes)


@contextmanager
def _cores_apart(server: int) -> Iterator[None]:
    """Half of the cores for the server, half for the senders, as if the server had a machine of its own.

    On the same cores whatever a sender does besides sending would be taken from the server's speed, too.
    """
    if sys.platform != "linux":
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    if half:
        for thread in Path(f"/proc/{server}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores[:half])
        os.sched_setaffinity(0, cores[half:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


async def _compare(folder: Path, server: Server, size: DrainSize, rounds: int) -> DrainComparison:
    bodies = [make_call_log(size.raw_bytes, seed=seed, call_id="drained") for seed in range(1, min(size.count, 3) + 1)]
    callspool, peer, stored_bytes = [], [], 0
    async with _client(server) as client:
        await client.create_bucket(Bucket=f"warm-{size.raw_bytes}")
        await client.put_object(Bucket=f"warm-{size.raw_bytes}", Key="first", Body=b"makes the server's volumes")
        for number in range(rounds):
            bucket = f"drain-{size.raw_bytes}-{number}"
            await client.create_bucket(Bucket=bucket)
            spool = await _filled(folder / bucket, bodies, size.count + 1)
            due = (await spool.due(DESTINATION, Lane.DETAIL, now=_now(), limit=1000)).deliveries
            stored = [await _stored(spool, delivery) for delivery in due]
            stored_bytes = sum(map(len, stored[1:]))
            # In turn first: what the server still does for the first one slows the second.
            if number % 2:
                callspool.append(stored_bytes / 1e6 / await _callspool_seconds(spool, server, bucket, due))
            peer.append(stored_bytes / 1e6 / await _peer_seconds(client, bucket, stored))
            if not number % 2:
                callspool.append(stored_bytes / 1e6 / await _callspool_seconds(spool, server, bucket, due))
            await spool.close()
    ratios = [ours / theirs for ours, theirs in zip(callspool, peer, strict=True)]
    return DrainComparison(size.name, stored_bytes, over(callspool), over(peer), over(ratios))


async def _callspool_seconds(spool: Spool, server: Server, bucket: str, due: tuple[Delivery, ...]) -> float:
    uploader = S3Uploader(S3Options(bucket, endpoint_url=server.endpoint, region=REGION), spool, spool.uploader_state)

    async def one(delivery: Delivery) -> None:
        outcome = await uploader.deliver(delivery)
        if getattr(outcome, "location", None) is None:
            raise RuntimeError(f"not delivered: {outcome}")
        await spool.settle(delivery, Delivered())

    works = [partial(one, delivery) for delivery in due]
    try:
        return await _timed(works)
    finally:
        await uploader.close()


async def _peer_seconds(client: "S3Client", bucket: str, stored: list[bytes]) -> float:
    works = [
        partial(client.upload_fileobj, io.BytesIO(data), bucket, f"peer-{number}", ExtraArgs=SAME)
        for number, data in enumerate(stored)
    ]
    return await _timed(works)


async def _timed(works: Sequence[Callable[[], Awaitable[None]]]) -> float:
    """The first one makes connections and is not counted."""
    first, *rest = works
    await first()
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(work: Callable[[], Awaitable[None]]) -> None:
        async with slots:
            await work()

    started = time.perf_counter()
    await asyncio.gather(*map(one, rest))
    return time.perf_counter() - started


async def _filled(folder: Path, bodies: list[bytes], count: int) -> Spool:
    spool = await Spool.open(SpoolOptions(folder, max_bytes=8 << 30), [DESTINATION], _now, _NoCommits())
    for number in range(count):
        body = bodies[number % len(bodies)]
        members = memoryview(body.strip())[1:-1]
        call_id = f"call-{number}"
        await spool.accept(
            NewRecord(
                call_id=call_id,
                agent_id="agent",
                event="call_ended",
                environment=None,
                digest=hashlib.sha256(call_id.encode()).digest(),
                raw_bytes=len(body),
                token=None,
                fragments={Fragment.BASE: [b'"call_id": "%s"' % call_id.encode()], Fragment.REST: [members]},
                deliveries=(NewDelivery(DESTINATION, Form.DETAIL, Lane.DETAIL, ordered=False),),
            )
        )
    return spool


async def _stored(spool: Spool, delivery: Delivery) -> bytes:
    return b"".join([frame async for frame in spool.frames(delivery.record, Fragment.REST)])


def _client(server: Server) -> "ClientCreatorContext[S3Client]":
    session = aioboto3.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)
    os.environ.update(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY)
    return session.client("s3", endpoint_url=server.endpoint)


def _now() -> int:
    return time.time_ns() // 1_000_000


class _NoCommits:
    def committed(self, seconds: float, batch: int) -> None:
        """Nobody asks."""


if __name__ == "__main__":
    for comparison in measure(Path(), rounds=3):
        print(comparison)
