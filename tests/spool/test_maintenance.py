"""Maintenance: receipts by age and number, orphan chunks, expired addresses, free space, and a round that fails."""

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from spool.db import write_connection
from spool.db.connection import PAGE_SIZE, log_of
from spool.db.sql import Row
from spool.db.transaction import Transaction
from spool.directory import DATABASE_NAME
from spool.queue import maintenance, reclaim
from spool.queue.maintenance import unaccounted, vacuum
from spool.queue.reclaim import delete_orphan_chunks
from spool.records import DeadLetter, Delivered, Fragment, Lane
from spool.store import Spool
from tests.spool.spool_parts import (
    ENDPOINT,
    HOUR,
    NOW,
    Clock,
    a_record,
    becomes,
    checkpointed,
    due,
    maintained,
    opened,
    payload,
    rows,
    without_maintenance,
    write,
)

MIB = 1 << 20


async def delivered(spool: Spool, *call_ids: str) -> None:
    for call_id in call_ids:
        accepted = await spool.accept(a_record(call_id))
        await spool.settle(accepted.ready[0], Delivered())


async def test_old_receipts_go(spool: Spool, clock: Clock, tmp_path: Path) -> None:
    """A receipt is kept for 24 hours after its record ended; what is still owed or dead is kept for ever."""
    await delivered(spool, "old")
    dead = await spool.accept(a_record("dead"))
    await spool.settle(dead.ready[0], DeadLetter("400"))
    await spool.accept(a_record("queued"))
    clock.now += 20 * HOUR
    await delivered(spool, "young")
    clock.now += 5 * HOUR
    await maintained(spool)
    assert rows(tmp_path, "SELECT call_id FROM records ORDER BY record_id") == [("dead",), ("queued",), ("young",)]
    assert rows(tmp_path, "SELECT count(*) FROM deliveries") == [(3,)]


@pytest.mark.parametrize("step", [1, 2, 500], ids=lambda step: f"{step} a step")
async def test_receipts_are_at_most_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Above the cap the oldest receipts go, whatever their age, in steps of any size."""
    monkeypatch.setattr(maintenance, "ROWS_PER_STEP", step)
    async with opened(tmp_path, receipts_max=3) as spool:
        await delivered(spool, *(f"c{number}" for number in range(8)))
        await spool.accept(a_record("queued"))
        await maintained(spool)
        left = rows(tmp_path, "SELECT call_id FROM records ORDER BY record_id")
        assert left == [("c5",), ("c6",), ("c7",), ("queued",)]
        assert spool.stats().unaccounted == 0
        assert spool.stats().lanes[ENDPOINT, Lane.CORE].delivered == 8


async def test_many_expired_addresses_go_in_one_round(
    spool: Spool, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses that nobody used are deleted when they have expired, however many; younger ones stay."""
    monkeypatch.setattr(maintenance, "ROWS_PER_STEP", 3)
    for number in range(8):
        await spool.register_upload(b"old%d" % number, f"old{number}", "c", None, NOW)
    await spool.register_upload(b"young", "young", "c", None, NOW + 26 * HOUR)
    clock.now += 25 * HOUR
    await maintained(spool)
    assert rows(tmp_path, "SELECT s3_key FROM uploads") == [("young",)]


async def test_a_delivered_giant_is_deleted_in_the_background(spool: Spool, tmp_path: Path) -> None:
    """Settling a giant is quick; its chunks go in bounded steps, at once and not at the next round."""
    accepted = await spool.accept(a_record("c", body=os.urandom(20 * MIB)))
    await spool.settle(accepted.ready[0], Delivered())
    await becomes(lambda: rows(tmp_path, "SELECT count(*) FROM orphan_chunks") == [(0,)])
    assert rows(tmp_path, "SELECT count(*) FROM chunks") == [(0,)]


async def test_orphan_chunks_are_deleted_by_bounded_steps(spool: Spool, tmp_path: Path) -> None:
    """A step deletes up to its limit over several ranges, passes over those coming in, and says if any are left."""

    def prepare(transaction: Transaction) -> None:
        for first, last in ((10, 12), (20, 20), (30, 49), (60, 61)):
            transaction.execute("INSERT INTO orphan_chunks VALUES (?, ?)", (first, last))
            for chunk_id in range(first, last + 1):
                transaction.execute("INSERT INTO chunks VALUES (?, 0, x'')", (chunk_id,))

    def left() -> list[tuple[object, ...]]:
        return rows(tmp_path, "SELECT first_chunk, last_chunk FROM orphan_chunks ORDER BY 1")

    await without_maintenance(spool)
    await write(spool, prepare)
    step = partial(delete_orphan_chunks, incoming=frozenset({20}), limit=8)
    assert await write(spool, step) is True
    assert left() == [(20, 20), (35, 49), (60, 61)]
    assert await write(spool, step) is True
    assert await write(spool, step) is True
    assert left() == [(20, 20), (61, 61)]
    assert await write(spool, step) is False
    assert left() == [(20, 20)]
    assert rows(tmp_path, "SELECT chunk_id FROM chunks") == [(20,)]
    assert await write(spool, partial(delete_orphan_chunks, incoming=frozenset())) is False
    assert rows(tmp_path, "SELECT count(*) FROM chunks") == [(0,)]


async def test_what_a_crash_left_orphaned_is_deleted_after_the_start(tmp_path: Path) -> None:
    """Chunks of a payload whose record never came are deleted in the background, and their ids not used again."""
    async with opened(tmp_path) as spool:
        await without_maintenance(spool)

        def half(transaction: Transaction) -> None:
            transaction.execute("INSERT INTO orphan_chunks VALUES (5, 99)")
            transaction.execute("INSERT INTO chunks VALUES (5, 0, x''), (6, 0, x'')")

        await write(spool, half)
    async with opened(tmp_path) as spool:
        accepted = await spool.accept(a_record("next"))
        assert accepted.ready[0].record.first_chunk == 100
        await becomes(lambda: rows(tmp_path, "SELECT count(*) FROM orphan_chunks") == [(0,)])
        assert rows(tmp_path, "SELECT chunk_id FROM chunks") == [(100,)]
        assert await payload(spool, accepted)


async def test_what_a_spool_at_rest_gave_back_is_the_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody posts any more, the pages that maintenance frees leave the file, and the log is emptied."""
    monkeypatch.setattr(maintenance, "KEEP_FREE_BYTES", 0)
    monkeypatch.setattr(write_connection, "IDLE_SECONDS", 0.05)
    database = tmp_path / DATABASE_NAME
    async with opened(tmp_path) as spool:
        await without_maintenance(spool)
        accepted = await spool.accept(a_record("c", body=os.urandom(8 * MIB)))
        await spool.settle(accepted.ready[0], Delivered())
        await spool._orphans.delete()
        await becomes(lambda: log_of(database).stat().st_size == 0)
        before = database.stat().st_size
        await spool._maintenance._give_back_space()
        await becomes(lambda: log_of(database).stat().st_size == 0 and database.stat().st_size < before / 4)


async def test_a_spool_that_emptied_gives_its_space_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free pages beyond a reserve are returned to the file system, a bounded number a step."""
    monkeypatch.setattr(maintenance, "KEEP_FREE_BYTES", 4 * MIB)
    async with opened(tmp_path) as spool:
        accepted = await spool.accept(a_record("c", body=os.urandom(24 * MIB)))
        checkpointed(tmp_path)
        full = (tmp_path / DATABASE_NAME).stat().st_size
        await spool.settle(accepted.ready[0], Delivered())
        await spool._orphans.delete()
        free = await write(spool, free_pages)
        assert await write(spool, partial(vacuum, keep_bytes=4 * MIB)) is True
        assert free - await write(spool, free_pages) == maintenance.PAGES_PER_STEP
        await maintained(spool)
        assert 0 < await write(spool, free_pages) * PAGE_SIZE <= 4 * MIB
        checkpointed(tmp_path)
        assert (tmp_path / DATABASE_NAME).stat().st_size < full - 19 * MIB
        assert await write(spool, partial(vacuum, keep_bytes=4 * MIB)) is False


def free_pages(transaction: Transaction) -> int:
    return int(transaction.execute("PRAGMA freelist_count").fetchone()[0])


async def test_free_pages_are_used_again(tmp_path: Path) -> None:
    """A spool with a steady flow does not grow."""
    async with opened(tmp_path) as spool:
        sizes = []
        for number in range(6):
            accepted = await spool.accept(a_record(f"c{number}", body=os.urandom(6 * MIB)))
            await spool.settle(accepted.ready[0], Delivered())
            await maintained(spool)
            checkpointed(tmp_path)
            sizes.append((tmp_path / DATABASE_NAME).stat().st_size)
        assert max(sizes) - sizes[0] < MIB


@pytest.mark.slow
async def test_what_fails_is_told_and_keeps_nothing_else_from_being_done(
    spool: Spool, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that fails, for whatever reason, can be seen and is tried again; the others are done meanwhile."""

    def fail(_transaction: Transaction, **_: object) -> bool:
        raise LookupError("not today")

    await delivered(spool, "old")
    clock.now += 25 * HOUR
    with monkeypatch.context() as patched:
        patched.setattr(maintenance, "vacuum", fail)
        patched.setattr(reclaim, "delete_orphan_chunks", fail)
        patched.setattr(maintenance, "EVERY_SECONDS", 0.01)
        spool._orphans.appeared.set()
        await becomes(lambda: len(spool._maintenance._failures) == 2)
        await becomes(lambda: rows(tmp_path, "SELECT count(*) FROM records") == [(0,)])
        assert spool.maintenance_failure is not None
        assert "giving back space failed: not today" in spool.maintenance_failure
    spool._orphans.appeared.set()
    await becomes(lambda: spool.maintenance_failure is None)
    assert spool.stats().failure is None, "posts can be accepted all the same"


async def test_closing_ends_maintenance_that_was_just_woken(tmp_path: Path) -> None:
    """A cancellation that comes together with a wake-up is not lost: the task is over, and the directory free."""
    for _ in range(10):
        async with opened(tmp_path, lock_timeout=0.0) as spool:
            await asyncio.sleep(0)
            spool._orphans.appeared.set()
            async with asyncio.timeout(20):
                await spool.close()
            assert spool._maintaining.cancelled()


@pytest.mark.parametrize(
    ("recount", "expected"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param([(1, 1, "core", 5), (0, 1, "core", 2), (0, 1, "core", 3)], 0, id="all there"),
        pytest.param([(1, 1, "core", 5), (0, 1, "core", 3)], 2, id="two lost"),
        pytest.param([(1, 1, "core", 5), (0, 1, "core", 6)], 1, id="one too many"),
        pytest.param([(1, 1, "core", 1), (0, 2, "core", 1)], 2, id="a shortage and a surplus do not hide each other"),
    ],
)
def test_what_is_unaccounted_for(recount: list[Row], expected: int) -> None:
    """The difference between the books and the deliveries that are there, over all lanes."""
    assert unaccounted(recount) == expected


async def test_a_lost_delivery_is_seen(spool: Spool) -> None:
    """Promise 2: a delivery that vanishes shows in the gauge that must read 0."""
    await spool.accept(a_record("c"))
    await maintained(spool)
    assert spool.stats().unaccounted == 0
    await write(spool, lambda transaction: transaction.execute("DELETE FROM deliveries") and None)
    spool._maintenance._next_recount = 0.0
    await maintained(spool)
    assert spool.stats().unaccounted == 1


async def test_frames_may_be_given_up_half_way(spool: Spool) -> None:
    """A reader that stops early holds nothing: the log can be reset, and the spool closed."""
    await spool.accept(a_record("c", body=os.urandom(8 * MIB)))
    (delivery,) = await due(spool)
    frames = spool.frames(delivery.record, Fragment.BODY)
    assert await anext(frames)
