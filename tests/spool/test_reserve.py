"""The reserve for cores: what a spool that is full of details still takes."""

import os
from pathlib import Path

import pytest

from spool.errors import SpoolFull
from spool.records import Delivered, Lane
from spool.space import Quota, reserve_of
from spool.store import Spool
from tests.spool.spool_parts import (
    CORE,
    DETAIL,
    ENDPOINT,
    NOTICE,
    OBJECT,
    a_record,
    due,
    maintained,
    opened,
    split_fragments,
)

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "wanted", "reserve"),
    [(1000, None, 50), (1000, 300, 300), (1000, 0, 0), (1000, 900, 500)],
    ids=["a twentieth", "as wanted", "none", "at most half"],
)
def test_the_size_of_the_reserve(limit: int, wanted: int | None, reserve: int) -> None:
    """By default a twentieth of the quota, never more than half of it."""
    assert reserve_of(limit, wanted) == reserve


def test_the_reserve_is_for_cores_only() -> None:
    """What may use it fits up to the limit; anything else, staging files included, only up to the reserve."""
    quota = Quota(100, 20)
    with quota.reserve(80, 0):
        with pytest.raises(SpoolFull, match="20 of them kept for cores"), quota.reserve(1, 0):
            pass
        with pytest.raises(SpoolFull):
            quota.stage(1, 0)
        with quota.reserve(20, 0, core=True):
            assert not quota.fits(1, 0, core=True)


def test_a_refusal_says_for_how_long_the_oldest_has_waited() -> None:
    """Whoever reads it learns whether anything moves at all."""
    quota = Quota(100, waited=lambda: 90_000)
    with pytest.raises(SpoolFull, match="waited for 90 s"), quota.reserve(101, 0):
        pass


async def filled_with_details(spool: Spool) -> int:
    """Accept large records until one is refused; returns how many were taken."""
    for number in range(100):
        rest = os.urandom(MIB)
        try:
            await spool.accept(a_record(f"large-{number}", CORE, DETAIL, fragments=split_fragments(rest)))
        except SpoolFull:
            return number
    raise AssertionError("it was never full")


async def test_a_spool_full_of_details_takes_and_forwards_cores(tmp_path: Path) -> None:
    """Large records are refused; what owes no detail is taken, settled, and counted as ever."""
    async with opened(tmp_path, max_bytes=30 * MIB, reserve_for_cores=6 * MIB) as spool:
        taken = await filled_with_details(spool)
        assert taken > 5
        assert spool.stats().used_bytes < 24 * MIB + 2 * MIB
        for number in range(20):
            accepted = await spool.accept(a_record(f"small-{number}", body=os.urandom(100_000)))
            await spool.settle(accepted.ready[0], Delivered())
        with pytest.raises(SpoolFull):
            await spool.accept(a_record("large", OBJECT, NOTICE, fragments=split_fragments(os.urandom(7 * MIB))))
        await maintained(spool)
        counts = spool.stats().lanes[ENDPOINT, Lane.CORE]
        assert (counts.delivered, counts.queued) == (20, taken)
        assert len(await due(spool)) == taken


async def test_the_figures_say_that_only_the_reserve_is_left(tmp_path: Path) -> None:
    """Operators see from the figures why large records are refused."""
    async with opened(tmp_path, max_bytes=30 * MIB, reserve_for_cores=12 * MIB) as spool:
        assert spool.stats().reserve_bytes == 12 * MIB
        assert not spool.stats().full_of_details
        while not spool.stats().full_of_details:
            await spool.accept(a_record(os.urandom(8).hex(), body=os.urandom(MIB)))
        assert spool.stats().used_bytes >= 16 * MIB
        with pytest.raises(SpoolFull):
            await spool.accept(a_record("large", CORE, DETAIL, fragments=split_fragments(os.urandom(3 * MIB))))
