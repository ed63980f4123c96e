"""The memory budget: fair, bounded, and free of deadlocks."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.intake.memory import SMALL_POST_BYTES, BudgetExhausted, MemoryBudget, Reservation
from tests.intake.running_intake import DEADLINE

KIB = 1024
LARGE = SMALL_POST_BYTES + 1


async def _queued(budget: MemoryBudget, size: int) -> "asyncio.Task[Reservation]":
    """A post that waits."""
    before = budget.waiting
    task = asyncio.create_task(budget.reserve(size))
    while budget.waiting == before:  # noqa: ASYNC110  # the budget tells nobody who begins to wait
        await asyncio.sleep(0)
    return task


async def test_memory_is_taken_and_given_back() -> None:
    """What is reserved counts until it is released, once."""
    budget = MemoryBudget(8_000_000)
    with await budget.reserve(1_000_000) as held:
        assert budget.used_bytes == 1_000_000
        held.shrink(400_000)
        assert budget.used_bytes == held.size == 400_000
        assert held.try_grow(500_000)
        assert budget.used_bytes == 500_000
    held.release()
    assert budget.used_bytes == 0


async def test_large_posts_wait_in_their_order() -> None:
    """A large post that would fit does not overtake one that waits."""
    budget = MemoryBudget(8_000_000)
    first = await budget.reserve(6_000_000)
    big = await _queued(budget, 5_000_000)
    less = await _queued(budget, LARGE)
    assert budget.try_reserve(LARGE) is None
    first.release()
    async with asyncio.timeout(DEADLINE):
        (await big).release()
        (await less).release()
    assert budget.used_bytes == 0


async def test_small_posts_never_wait_behind_large_ones() -> None:
    """While large posts use and wait for the common part, small ones have a share of their own."""
    budget = MemoryBudget(8 * SMALL_POST_BYTES)
    held = await budget.reserve(budget.largest)
    waiting = await _queued(budget, LARGE)
    small = budget.try_reserve(SMALL_POST_BYTES)
    assert small is not None
    assert budget.try_reserve(1) is None
    small.release()
    held.release()
    (await waiting).release()


async def test_small_posts_do_not_starve_a_large_one() -> None:
    """As soon as a large post waits, small ones get nothing more of the common part."""
    budget = MemoryBudget(8 * SMALL_POST_BYTES)
    small = [await budget.reserve(SMALL_POST_BYTES) for _ in range(8)]
    large = await _queued(budget, budget.largest)
    latecomer = await _queued(budget, SMALL_POST_BYTES)
    for each in small[1:]:
        each.release()
    async with asyncio.timeout(DEADLINE):
        held = await large
    assert not latecomer.done()
    small[0].release()
    async with asyncio.timeout(DEADLINE):
        (await latecomer).release()
    held.release()
    assert budget.used_bytes == 0


async def test_growing_never_overtakes() -> None:
    """More memory is had at once or not at all, and not while a large post waits for it."""
    budget = MemoryBudget(8_000_000)
    held = await budget.reserve(3_000_000)
    assert not held.try_grow(7_500_000)
    waiting = await _queued(budget, 5_000_000)
    assert not held.try_grow(3_000_001)
    assert held.try_grow(2_000_000)
    held.release()
    (await waiting).release()


async def test_a_wait_ends() -> None:
    """A post that gets no memory in time is told so, and those behind it are served."""
    budget = MemoryBudget(8_000_000, wait_seconds=0.02)
    held = await budget.reserve(6_500_000)
    with pytest.raises(BudgetExhausted):
        await budget.reserve(1_000_000)
    assert budget.waiting == 0
    held.release()
    assert budget.used_bytes == 0


async def test_a_wait_that_ends_lets_those_behind_it_go() -> None:
    """When the first in the queue gives up, the next one is served at once, though nothing was freed."""
    budget = MemoryBudget(8_000_000)
    held = await budget.reserve(6_500_000)
    first = await _queued(budget, 6_000_000)
    second = await _queued(budget, 400_000)
    assert not second.done()
    first.cancel()
    async with asyncio.timeout(DEADLINE):
        served = await second
    assert (served.size, budget.waiting, budget.used_bytes) == (400_000, 0, 6_900_000)
    served.release()
    held.release()
    assert budget.used_bytes == 0


async def test_a_cancelled_wait_keeps_nothing() -> None:
    """A post that is cancelled in the moment in which it gets its memory gives that back."""
    budget = MemoryBudget(8_000_000)
    held = await budget.reserve(6_500_000)
    waiting = await _queued(budget, 6_000_000)
    held.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.used_bytes == 0


@given(st.lists(st.tuples(st.sampled_from(["take", "grow", "shrink", "free"]), st.integers(0, 200 * KIB))))
def test_accounts_always_balance(steps: list[tuple[str, int]]) -> None:
    """Whatever is taken, grown, shrunk and freed, the budget holds the sum of the reservations, within its total."""
    budget = MemoryBudget(512 * KIB)
    held: list[Reservation] = []
    for step, size in steps:
        if step == "take":
            held += [taken for taken in [budget.try_reserve(size)] if taken]
        elif held:
            chosen = held[size % len(held)]
            if step == "grow":
                chosen.try_grow(size)
            elif step == "shrink":
                chosen.shrink(size)
            else:
                chosen.release()
        assert budget.used_bytes == sum(each.size for each in held) <= 512 * KIB
        assert all(each.size >= 0 for each in held)
