"""What the spool's tests share: records to accept, a clock to turn, and short ways of asking."""

import asyncio
import os
import resource
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import zstandard

from spool.admin.query import Selection
from spool.db import write_connection
from spool.db.connection import log_of
from spool.db.transaction import Operation, Result, Transaction
from spool.db.write_connection import WritePoint
from spool.directory import DATABASE_NAME
from spool.errors import SpoolFull, SpoolUnavailable
from spool.records import (
    Accepted,
    Buffer,
    DeadLetter,
    Delivered,
    Delivery,
    DeliveryKey,
    DeliveryState,
    Form,
    Fragment,
    Lane,
    NewDelivery,
    NewRecord,
)
from spool.stats import OpenDelivery, TracedDelivery
from spool.store import Spool, SpoolOptions
from tests.system.waiting import until

NOW = 1_750_000_000_000
HOUR = 3_600_000
ENDPOINT, BUCKET = "endpoint", "bucket"

WHOLE = NewDelivery(ENDPOINT, Form.WHOLE, Lane.CORE)
CORE = NewDelivery(ENDPOINT, Form.CORE, Lane.CORE)
DETAIL = NewDelivery(ENDPOINT, Form.DETAIL, Lane.DETAIL)
OBJECT = NewDelivery(BUCKET, Form.DETAIL, Lane.DETAIL, ordered=False)
NOTICE = NewDelivery(ENDPOINT, Form.NOTICE, Lane.CORE, after=BUCKET)

_digests = count(1)


class Clock:
    """Time that a test turns, in milliseconds."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class Commits:
    """Counts commits and the operations in them."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def committed(self, seconds: float, batch: int) -> None:
        assert seconds >= 0
        self.batches.append(batch)


async def cancelled_once_durable(work: Coroutine[Any, Any, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what commits something, and cancel it when that is durable, before it knows: its client goes away then."""
    loop = asyncio.get_running_loop()
    working = asyncio.ensure_future(work)

    def go_away(point: WritePoint, group: Sequence[Any]) -> None:
        if point is WritePoint.COMMITTED and any(one.byte_count for one in group):
            loop.call_soon_threadsafe(working.cancel)

    with monkeypatch.context() as hooked:
        hooked.setattr(write_connection, "hook", go_away)
        with pytest.raises(asyncio.CancelledError):
            await working


def a_digest() -> bytes:
    return next(_digests).to_bytes(32, "big")


def a_record(
    call_id: str = "call",
    *deliveries: NewDelivery,
    body: bytes = b'{"call_id": "call"}',
    fragments: Mapping[Fragment, Sequence[Buffer]] | None = None,
    event: str = "call_ended",
    digest: bytes | None = None,
    token: str | None = None,
    superseded_by: str | None = None,
    upload_key_hash: bytes | None = None,
    principal: str = "",
    happened_at: int | None = None,
    idempotency_key: str | None = None,
    via: str | None = None,
    tenant: str | None = None,
) -> NewRecord:
    """A record that is unlike every other one; with the given deliveries, or one WHOLE."""
    if fragments is None:
        fragments = {Fragment.BODY: [body]}
    return NewRecord(
        call_id=call_id,
        agent_id="agent",
        event=event,
        environment=None,
        digest=digest or a_digest(),
        raw_bytes=sum(len(piece) for pieces in fragments.values() for piece in pieces),
        token=token,
        fragments=fragments,
        deliveries=deliveries or (WHOLE,),
        superseded_by=superseded_by,
        tenant=tenant,
        upload_key_hash=upload_key_hash,
        principal=principal,
        happened_at=happened_at,
        idempotency_key=idempotency_key,
        via=via,
    )


def split_fragments(rest: Buffer = b'"rest": 1') -> dict[Fragment, list[Buffer]]:
    return {Fragment.BASE: [b'"base": 1'], Fragment.DERIVED: [b'"derived": 1'], Fragment.REST: [rest]}


@asynccontextmanager
async def opened(
    directory: Path,
    *,
    clock: Clock | None = None,
    commits: Commits | None = None,
    destinations: Iterable[str] = (ENDPOINT, BUCKET),
    **options: object,
) -> AsyncIterator[Spool]:
    """A spool in `directory` that is closed afterwards."""
    spool = await Spool.open(
        SpoolOptions(directory, **options),  # type: ignore[arg-type]  # each option has its own type
        destinations,
        clock or Clock(),
        commits or Commits(),
    )
    try:
        yield spool
    finally:
        await spool.close()


async def due(
    spool: Spool, lane: Lane = Lane.CORE, *, destination: str = ENDPOINT, now: int = NOW, limit: int = 10_000
) -> list[Delivery]:
    return list((await spool.due(destination, lane, now=now, limit=limit)).deliveries)


async def payload(spool: Spool, accepted: Accepted | Delivery, fragment: Fragment = Fragment.BODY) -> bytes:
    """The stored frames of a fragment of the first ready delivery's record."""
    delivery = accepted if isinstance(accepted, Delivery) else accepted.ready[0]
    return b"".join([frame async for frame in spool.frames(delivery.record, fragment)])


async def traced(spool: Spool, call_id: str = "call") -> list[TracedDelivery]:
    """All deliveries of a call, the oldest record's first."""
    return [delivery for record in await spool.trace(call_id) for delivery in record.deliveries]


async def states(spool: Spool, call_id: str = "call") -> list[DeliveryState]:
    return [delivery.state for delivery in await traced(spool, call_id)]


async def replay(spool: Spool, keys: Iterable[DeliveryKey]) -> tuple[Delivery, ...]:
    """Replay; returns what may be sent because of it."""
    return (await spool.admin.replay(keys)).ready


async def discard(spool: Spool, keys: Iterable[DeliveryKey]) -> tuple[Delivery, ...]:
    """Give up; returns what may be sent because of it."""
    return (await spool.admin.discard(keys)).ready


async def dead(
    spool: Spool, destination: str | None, *, limit: int, after: DeliveryKey | None = None
) -> tuple[OpenDelivery, ...]:
    """A page of dead letters."""
    page = await spool.admin.find(Selection(destination=destination), limit=limit, after=after)
    return page.found


async def write(spool: Spool, operation: Operation[Result]) -> Result:
    """Run an operation of the test's own through the spool's writer."""
    return await spool._writer.submit(operation)


@asynccontextmanager
async def writer_held_up(spool: Spool) -> AsyncIterator[None]:
    """The writer is busy for as long; what is submitted meanwhile is committed together afterwards."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(_: Transaction) -> None:
        begun.set()
        go_on.wait(30)

    held_up = spool._writer.submit(wait)
    await asyncio.to_thread(begun.wait, 30)
    try:
        yield
    finally:
        go_on.set()
        await held_up


async def without_maintenance(spool: Spool) -> None:
    """Let nobody write but the test."""
    spool._maintaining.cancel()
    await asyncio.gather(spool._maintaining, return_exceptions=True)
    await write(spool, lambda _: None)  # behind what maintenance had submitted


async def maintained(spool: Spool) -> None:
    """One round of maintenance, now."""
    await spool._orphans.delete()
    await spool._maintenance.round()
    assert spool.maintenance_failure is None


def looked_into(directory: Path) -> sqlite3.Connection:
    """The database of a spool that is closed, or beside the spool for reading."""
    return sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)


def rows(directory: Path, statement: str) -> list[tuple[Any, ...]]:
    """What a statement reads there."""
    with closing(looked_into(directory)) as connection:
        return connection.execute(statement).fetchall()


def change(directory: Path, statement: str) -> None:
    """Change what a spool that is closed has written."""
    with closing(looked_into(directory)) as connection:
        connection.execute(statement)


def log_size(directory: Path) -> int:
    """Of the write-ahead log."""
    return log_of(directory / DATABASE_NAME).stat().st_size


def checkpointed(directory: Path, mode: str = "TRUNCATE") -> None:
    """What the background does after a while in which nobody writes."""
    for _ in range(1000):
        ((busy, _, _),) = rows(directory, f"PRAGMA wal_checkpoint({mode})")
        if not busy:
            return
    raise AssertionError("something was always in the way of the checkpoint")


async def becomes(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until it is true, for what other threads do; raises `TimeoutError` after `seconds`."""

    async def is_true() -> bool:
        return condition()

    await until(is_true, "it was true", deadline=seconds)


def decoded(frames: bytes) -> bytes:
    """What a reader of concatenated frames gets, and every standard tool too."""
    with zstandard.ZstdDecompressor().stream_reader(frames, read_across_frames=True) as reader:
        return bytes(reader.readall())


async def accepted_again(spool: Spool, call_id: str) -> None:
    """Try until the spool takes a record again, as a sender would; raises `TimeoutError` after 20 s."""

    async def is_taken() -> bool:
        with suppress(SpoolUnavailable):
            await spool.accept(a_record(call_id))
            return True
        return False

    await until(is_taken, "the spool took a record again", deadline=20)


@contextmanager
def files_no_larger_than(byte_count: int) -> Iterator[None]:
    """Let every write of this process beyond `byte_count` of a file fail, as on a disk with an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (byte_count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def one_of_everything(spool: Spool) -> None:
    """A spool in which everything is: all forms, all states, a large payload, tokens, an upload address."""
    for number in range(3):
        await spool.accept(a_record("call", CORE, DETAIL, fragments=split_fragments(os.urandom(2000)), token="t"))
        await spool.accept(a_record(f"whole-{number}", token=f"token-{number}"))
    await spool.accept(a_record("bucket", OBJECT, NOTICE, fragments=split_fragments(os.urandom(3 << 20))))
    await spool.register_upload(b"hash", "key", "call", "t", NOW)
    first, second, third, *_ = await due(spool)
    await spool.settle(first, Delivered())
    await spool.settle(second, DeadLetter("made to fail"))
    await spool.settle(third, Delivered())
    (object_delivery,) = await due(spool, Lane.DETAIL, destination=BUCKET)
    assert object_delivery.record.call_id == "bucket"


async def accept_until_full(spool: Spool, size: int, prefix: str = "c") -> list[Accepted]:
    """Accept records of this size until the disk has no room for one."""
    accepted = []
    for number in range(5000):
        try:
            accepted.append(await spool.accept(a_record(f"{prefix}{number}", body=os.urandom(size))))
        except SpoolFull:
            return accepted
    raise AssertionError("the disk was never full")
