"""A run of the spool in which everything is done once, one thing after the other, and that is killed on the way.

As a program: `python -m tests.spool.crash_scenario`; each line of its input, `DIRECTORY POINT OPERATION NUMBER KEY`, is
a run, in a process of its own, that dies when it reaches that write point in that operation for that time (0: never).
KEY encrypts the spool, if it is not `-`. In DIRECTORY.told lie the points that it reached and what it was acknowledged.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path

from spool.db import write_connection
from spool.db.write_connection import WritePoint
from spool.db.writer import Request
from spool.keys import KeyRing
from spool.records import (
    DeadLetter,
    Delivered,
    Delivery,
    DeliveryKey,
    Form,
    Hold,
    Lane,
    PartProgress,
    Redirect,
    RetryAt,
    Settlement,
    UploadProgress,
)
from spool.store import Spool
from tests.spool.spool_parts import (
    BUCKET,
    CORE,
    DETAIL,
    ENDPOINT,
    HOUR,
    NOTICE,
    NOW,
    OBJECT,
    WHOLE,
    Clock,
    a_digest,
    a_record,
    due,
    looked_into,
    maintained,
    opened,
    split_fragments,
    without_maintenance,
)

QUOTA = 48 << 20
"""A small one makes the log small, so that it is reset on the way."""
LARGE = 9 << 20


@cache
def body_of(call_id: str) -> bytes:
    """What a call's record holds; "large" ones take several transactions, and do not compress."""
    seed = call_id.encode()
    return seed * 100 if "large" not in call_id else seed + random.Random(call_id).randbytes(LARGE)


class Witness:
    """Writes down what was reached and acknowledged, and dies at the chosen point."""

    def __init__(self, told: Path, point: str, operation: str, number: int) -> None:
        self._told = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._fatal = point, operation
        self._left = number

    def tell(self, *words: str) -> None:
        os.write(self._told, (" ".join(words) + "\n").encode())

    def hear(self, point: WritePoint, group: Sequence[object]) -> None:
        operation = "+".join(_name(request) for request in group) or "log"
        self.tell("reached", point, operation)
        if self._fatal == (point, operation):
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _name(request: object) -> str:
    assert isinstance(request, Request)
    operation = request.operation
    function = operation.func if isinstance(operation, partial) else operation
    return str(getattr(function, "__qualname__", "")).partition(".<locals>")[0]


async def everything(directory: Path, witness: Witness, keys: KeyRing) -> None:
    """All that a spool does."""
    clock = Clock()
    async with opened(
        directory, clock=clock, keys=keys, max_bytes=QUOTA, expire_after=100 * HOUR, receipts_keep=HOUR
    ) as spool:
        await without_maintenance(spool)
        witness.tell("open")
        # While this reads, no checkpoint can start the log anew, however far it comes: the writer has to.
        with closing(looked_into(directory)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM records").fetchone()
            await accept_all(spool, witness)
        await upload_parts(spool)
        await settle_all(spool, witness)
        await order_all(spool, witness)
        for destination in (ENDPOINT, BUCKET):
            await spool.make_due(destination, now=NOW)
        clock.now += 2 * HOUR
        await maintained(spool)
        clock.now += 200 * HOUR
        witness.tell("expiring")
        await maintained(spool)


async def accept_all(spool: Spool, witness: Witness) -> None:
    """Small and large ones, in several forms, with tokens, through an upload address, again, and superseded."""
    await spool.register_upload(b"hash", "key", "through-address", "t", NOW + HOUR)
    same = a_digest()
    for call_id, plan, options in (
        ("plain", (WHOLE,), {"digest": same}),
        ("plain", (WHOLE,), {"digest": same}),
        ("refused", (WHOLE,), {}),
        ("held", (WHOLE,), {"token": "t"}),
        ("retried", (WHOLE,), {"token": "u"}),
        ("through-address", (WHOLE,), {"upload_key_hash": b"hash"}),
        ("large", (WHOLE,), {"token": "t"}),
        ("object-large", (OBJECT, NOTICE), {}),
        ("plain", (WHOLE,), {"event": "call_started", "superseded_by": "call_ended"}),
    ):
        await spool.accept(a_record(call_id, *plan, body=body_of(call_id), **options))
        witness.tell("accepted", call_id)
    await spool.accept(a_record("split", CORE, DETAIL, fragments=split_fragments()))
    witness.tell("accepted", "split")


async def upload_parts(spool: Spool) -> None:
    """A multipart upload that comes to one part, one that is given up, and one that was abandoned."""
    (delivery,) = await due(spool, Lane.DETAIL, destination=BUCKET)
    for upload_id in ("first", "second"):
        await spool.uploader_state.begin_upload(UploadProgress(delivery.key, BUCKET, "key", upload_id, 5 << 20, {}))
        await spool.uploader_state.write_parts(delivery.key, {1: PartProgress(5 << 20, b"m" * 16, '"etag"')})
        await spool.uploader_state.upload_progress(delivery.key)
    await spool.uploader_state.forget_upload(delivery.key)
    await spool.uploader_state.abandoned_uploads(BUCKET)


async def settle_all(spool: Spool, witness: Witness) -> None:
    """Each kind of settlement."""

    async def settle(delivery: Delivery, settlement: Settlement) -> tuple[Delivery, ...]:
        freed = await spool.settle(delivery, settlement)
        if isinstance(settlement, Delivered):
            witness.tell("delivered", delivery.record.call_id, delivery.form)
        return freed

    by_call = {one.record.call_id: one for one in await due(spool)}
    await settle(by_call["plain"], Delivered())
    await settle(by_call["refused"], DeadLetter("400"))
    await settle(by_call["held"], Hold("401", by_call["held"].record.token_id))
    await settle(by_call["retried"], RetryAt(NOW + 10 * HOUR, "503"))
    await settle(by_call["large"], Delivered())
    (detail,) = await settle(by_call["split"], Delivered())
    await settle(detail, Redirect("413", (OBJECT, NOTICE), keep=False))
    for delivery in await due(spool, Lane.DETAIL, destination=BUCKET):
        await settle(delivery, Delivered("s3://bucket/key"))


async def order_all(spool: Spool, witness: Witness) -> None:
    """What operators do."""
    (held,) = await spool.held_tokens(ENDPOINT)
    await spool.release(ENDPOINT, held)
    await spool.admin.replay([await key_of(spool, "refused")])
    witness.tell("discarding", "through-address")
    await spool.admin.discard([await key_of(spool, "through-address")])


async def key_of(spool: Spool, call_id: str) -> DeliveryKey:
    (record,) = [one.record for one in await spool.trace(call_id)]
    return DeliveryKey(record.record_id, ENDPOINT, Form.WHOLE)


def ring_of(key: str) -> KeyRing:
    return KeyRing() if key == "-" else KeyRing.parse([key])


def one_run(directory: Path, *fatal: str) -> int:
    """In a process of its own; returns how that ended, as the shell tells it."""
    child = os.fork()
    if child == 0:
        point, operation, number, key = fatal
        witness = Witness(directory.with_suffix(".told"), point, operation, int(number))
        write_connection.hook = witness.hear
        asyncio.run(everything(directory, witness, ring_of(key)))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """See above. For each line of input there is one of output: the exit code of the run."""
    for call_id in ("large", "object-large"):
        body_of(call_id)  # once, for all runs
    for line in sys.stdin:
        directory, *fatal = line.split()
        print(one_run(Path(directory), *fatal), flush=True)  # noqa: T201  # this is what the program is for


if __name__ == "__main__":
    main()
