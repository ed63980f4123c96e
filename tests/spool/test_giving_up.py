"""A full spool that may give details up: the oldest go, are counted, and leave everything else as it was."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from spool.errors import SpoolFull
from spool.fsck import Severity, check
from spool.records import Accepted, DeadLetter, Delivered, DeliveryState, Form, Fragment, Lane, NewDelivery, WhenFull
from spool.store import Spool
from tests.spool.spool_parts import (
    BUCKET,
    CORE,
    DETAIL,
    ENDPOINT,
    NOTICE,
    OBJECT,
    a_record,
    due,
    maintained,
    opened,
    payload,
    rows,
    split_fragments,
    states,
)

MIB = 1 << 20
EXPIRE = WhenFull.EXPIRE_DETAILS
LARGE_WHOLE = NewDelivery(ENDPOINT, Form.WHOLE, Lane.DETAIL)


async def accept_large(spool: Spool, call_id: str, *deliveries: NewDelivery, size: int = MIB) -> Accepted:
    return await spool.accept(a_record(call_id, *deliveries, fragments=split_fragments(os.urandom(size))))


async def outcome(post: Awaitable[Accepted]) -> type:
    """The type of what a post came to."""
    (result,) = await asyncio.gather(post, return_exceptions=True)
    return type(result)


async def test_the_oldest_details_make_room_for_new_records(tmp_path: Path) -> None:
    """Everything is accepted; the oldest details are expired and counted, and every core is still there to be sent."""
    told: list[tuple[int, int]] = []
    async with opened(tmp_path, max_bytes=30 * MIB, when_full=EXPIRE) as spool:
        spool.evictor.evicted = lambda deliveries, payload_bytes: told.append((deliveries, payload_bytes))
        for number in range(45):
            await accept_large(spool, f"c{number}", CORE, DETAIL)
            assert spool.stats().used_bytes <= 30 * MIB
        await maintained(spool)
        counts = spool.stats().lanes[ENDPOINT, Lane.DETAIL]
        assert 20 < counts.expired < 45
        assert counts.expired + counts.queued == 45
        assert sum(deliveries for deliveries, _ in told) == counts.expired
        assert sum(payload_bytes for _, payload_bytes in told) >= counts.expired * MIB
        assert [one for one in check(tmp_path) if one.severity is Severity.ERROR] == []
        cores = await due(spool)
        assert [core.record.call_id for core in cores] == [f"c{number}" for number in range(45)]
        expired = [number for number in range(45) if DeliveryState.EXPIRED in await states(spool, f"c{number}")]
        assert expired == list(range(counts.expired)), "not the oldest ones"
        for core in cores:
            assert not core.record.damaged
            assert await payload(spool, core, Fragment.BASE)
            await spool.settle(core, Delivered())
        await maintained(spool)
        details = await due(spool, Lane.DETAIL)
        assert len(details) == 45 - counts.expired
        for detail in details:
            assert await payload(spool, detail, Fragment.REST)
            await spool.settle(detail, Delivered())
        await maintained(spool)
        assert spool.stats().unaccounted == 0
    assert rows(tmp_path, "SELECT (SELECT count(*) FROM chunks), (SELECT count(*) FROM orphan_chunks)") == [(0, 0)]


async def test_by_default_nothing_is_given_up(tmp_path: Path) -> None:
    """Without the policy a full spool refuses and keeps all it has."""
    async with opened(tmp_path, max_bytes=24 * MIB) as spool:
        posts = (accept_large(spool, f"c{number}", CORE, DETAIL) for number in range(45))
        results = [await outcome(post) for post in posts]
        assert SpoolFull in results
        assert spool.stats().lanes[ENDPOINT, Lane.DETAIL].expired == 0


async def test_what_may_not_be_given_up_stays(tmp_path: Path) -> None:
    """Wholes, dead letters, and details whose rest one of these needs stay; when there is nothing else, it is full."""
    async with opened(tmp_path, max_bytes=24 * MIB, when_full=EXPIRE) as spool:
        dead = (await accept_large(spool, "dead", DETAIL)).ready[0]
        await spool.settle(dead, DeadLetter("too large"))
        await accept_large(spool, "shared", CORE, DETAIL, NewDelivery(BUCKET, Form.WHOLE, Lane.DETAIL))
        await accept_large(spool, "only", LARGE_WHOLE)
        posts = (accept_large(spool, f"c{number}", LARGE_WHOLE) for number in range(40))
        assert SpoolFull in [await outcome(post) for post in posts]
        assert await states(spool, "dead") == [DeliveryState.DEAD]
        assert await states(spool, "only") == [DeliveryState.READY]
        assert DeliveryState.EXPIRED not in await states(spool, "shared")
        assert await payload(spool, dead, Fragment.REST)


async def test_a_notice_goes_with_the_object_that_will_not_come(tmp_path: Path) -> None:
    """It would tell of nothing; the core stays."""
    async with opened(tmp_path, max_bytes=24 * MIB, when_full=EXPIRE) as spool:
        for number in range(40):
            await accept_large(spool, f"c{number}", CORE, OBJECT, NOTICE)
        first = {one.form: one.state for one in (await spool.trace("c0"))[0].deliveries}
        expired = DeliveryState.EXPIRED
        assert first == {Form.CORE: DeliveryState.READY, Form.DETAIL: expired, Form.NOTICE: expired}
        await maintained(spool)
        assert spool.stats().unaccounted == 0


async def test_a_call_id_that_is_a_number_goes_with_its_detail(tmp_path: Path) -> None:
    """It is stored for the detail alone, behind it: nothing of either is left, and nothing of the core is missed."""
    async with opened(tmp_path, max_bytes=24 * MIB, when_full=EXPIRE) as spool:
        fragments = split_fragments(os.urandom(MIB))
        fragments[Fragment.CALL_ID] = [b"7"]
        (core,) = (await spool.accept(a_record("7", CORE, DETAIL, fragments=fragments))).ready
        while evicted(spool) == 0:
            await accept_large(spool, "other", CORE, DETAIL)
        await maintained(spool)
        assert await states(spool, "7") == [DeliveryState.READY, DeliveryState.EXPIRED]
        assert [one for one in check(tmp_path) if one.severity is not Severity.NOTE] == []
        await spool.settle(core, Delivered())
        await maintained(spool)
        assert [one for one in check(tmp_path) if one.severity is not Severity.NOTE] == []


async def test_a_detail_under_way_may_be_given_up(tmp_path: Path) -> None:
    """An attempt that ends after it changes nothing, and its core is sent all the same."""
    async with opened(tmp_path, max_bytes=24 * MIB, when_full=EXPIRE) as spool:
        core = (await accept_large(spool, "first", CORE, DETAIL)).ready[0]
        (under_way,) = await spool.settle(core, Delivered())
        for number in range(40):
            await accept_large(spool, f"c{number}", CORE, DETAIL)
        assert await spool.settle(under_way, Delivered()) == ()
        assert await states(spool, "first") == [DeliveryState.DELIVERED, DeliveryState.EXPIRED]
        await maintained(spool)
        assert spool.stats().unaccounted == 0


async def test_posts_that_make_room_together_do_not_give_up_more_than_needed(tmp_path: Path) -> None:
    """Many that come in at once wait for each other's room instead of each making its own."""
    async with opened(tmp_path, max_bytes=40 * MIB, when_full=EXPIRE) as spool:
        for number in range(40):
            await accept_large(spool, f"old{number}", CORE, DETAIL)
        before = spool.stats().lanes[ENDPOINT, Lane.DETAIL].expired
        await asyncio.gather(*(accept_large(spool, f"new{number}", CORE, DETAIL) for number in range(8)))
        assert spool.stats().lanes[ENDPOINT, Lane.DETAIL].expired - before <= 24


# Room is made for bytes that came, and only where it can suffice ---------------------------------------------------


def evicted(spool: Spool) -> int:
    return spool.stats().lanes[ENDPOINT, Lane.DETAIL].expired


@asynccontextmanager
async def full(tmp_path: Path) -> AsyncIterator[Spool]:
    """A spool that details fill, from which nothing was evicted."""
    async with opened(tmp_path, max_bytes=40 * MIB, when_full=EXPIRE) as spool:
        while spool._quota.fits(3 * MIB, spool.used_bytes):
            await accept_large(spool, f"c{spool.stats().lanes.get((ENDPOINT, Lane.DETAIL), None)}", CORE, DETAIL)
        assert evicted(spool) == 0
        yield spool


async def test_nothing_is_evicted_for_what_is_only_announced(tmp_path: Path) -> None:
    """Neither a claim that does not fit nor the question whether it could be made to costs a detail."""
    async with full(tmp_path) as spool:
        for size in (10 * MIB, 30 * MIB, 10**12):
            with pytest.raises(SpoolFull):
                spool.reserve_staging(size)
            assert await spool.can_make_staging_room(size) is (size == 10 * MIB)
        assert evicted(spool) == 0


async def test_details_are_evicted_for_what_came_and_no_more(tmp_path: Path) -> None:
    """Of a body of which all can fit, each part that came gets its room."""
    async with full(tmp_path) as spool:
        before = spool.used_bytes
        for part in range(4):
            await spool.make_staging_room(MIB, rest=(9 - part) * MIB)
            spool.reserve_staging(MIB)
        assert 0 < evicted(spool) <= 12
        assert before - spool.used_bytes < 9 * MIB


@pytest.mark.parametrize("rest", [30 * MIB, 10**12])
async def test_nothing_is_evicted_for_the_first_part_of_what_will_not_fit(tmp_path: Path, rest: int) -> None:
    """A body that would need more than all details together costs none of them."""
    async with full(tmp_path) as spool:
        await spool.make_staging_room(2 * MIB, rest=rest)
        assert evicted(spool) == 0


async def test_nothing_is_evicted_for_a_record_that_is_too_large_in_the_end(tmp_path: Path) -> None:
    """Its payload is written part by part, and for the first ones room could be made."""
    async with full(tmp_path) as spool:
        with pytest.raises(SpoolFull):
            await accept_large(spool, "giant", CORE, DETAIL, size=60 * MIB)
        assert evicted(spool) == 0
        await maintained(spool)
        await accept_large(spool, "usual", CORE, DETAIL)
        assert evicted(spool) > 0


async def test_what_cannot_be_evicted_is_not_counted_on(tmp_path: Path) -> None:
    """Where wholes and dead letters fill the spool, a detail more or less would not suffice, and stays."""
    async with opened(tmp_path, max_bytes=24 * MIB, when_full=EXPIRE) as spool:
        await accept_large(spool, "small", CORE, DETAIL)
        while spool._quota.fits(3 * MIB, spool.used_bytes):
            await accept_large(spool, "only", LARGE_WHOLE)
        with pytest.raises(SpoolFull):
            await accept_large(spool, "another", CORE, DETAIL, size=8 * MIB)
        assert DeliveryState.EXPIRED not in await states(spool, "small")
