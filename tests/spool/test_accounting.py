"""The books: after any operations, the counters are what a recount finds, and so are the uses of tokens."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spool.db.sql import decode_fragments
from spool.db.transaction import DeliveryCounters, Transaction
from spool.records import (
    FRAGMENTS_OF,
    DeadLetter,
    Delivered,
    Delivery,
    DeliveryKey,
    DeliveryState,
    Form,
    Fragment,
    Hold,
    Lane,
    RetryAt,
    Settlement,
)
from spool.stats import LaneCounts
from spool.store import Spool
from tests.budget import budgeted
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
    a_record,
    discard,
    due,
    maintained,
    opened,
    replay,
    rows,
    split_fragments,
    write,
)

PLANS = ((WHOLE,), (CORE, DETAIL), (CORE, OBJECT, NOTICE), (OBJECT,))
SETTLEMENTS: tuple[Callable[[Delivery], Settlement], ...] = (
    lambda _: Delivered("s3://somewhere"),
    lambda _: RetryAt(NOW + HOUR, "500"),
    lambda delivery: Hold("401", delivery.record.token_id),
    lambda _: DeadLetter("400"),
)

accepts = st.tuples(
    st.just("accept"), st.sampled_from("ab"), st.sampled_from(range(len(PLANS))), st.sampled_from([None, "t", "u"])
)
settles = st.tuples(st.just("settle"), st.integers(0, 50), st.sampled_from(range(len(SETTLEMENTS))), st.none())
orders = st.tuples(st.sampled_from(["replay", "discard"]), st.integers(0, 50), st.just(0), st.none())
releases = st.tuples(st.sampled_from(["release", "fail", "maintain"]), st.just(0), st.just(0), st.none())
operations = st.lists(accepts | settles | settles | orders | releases, min_size=5, max_size=60)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(operations=operations)
def test_the_books_are_what_a_recount_finds(operations: list[tuple[str, object, int, str | None]]) -> None:
    """Whatever is accepted, settled, replayed, discarded, released and failed: counters and tokens stay right."""
    recounted(operations)


@pytest.mark.prove
@settings(max_examples=budgeted(small=40, full=1000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(operations=operations)
def test_the_books_of_many_runs_are_what_a_recount_finds(
    operations: list[tuple[str, object, int, str | None]],
) -> None:
    """The same, many times."""
    recounted(operations)


def recounted(operations: list[tuple[str, object, int, str | None]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory), operations))


async def run(directory: Path, operations: list[tuple[str, object, int, str | None]]) -> None:
    known: list[Delivery] = []
    async with opened(directory) as spool:
        for operation in operations:
            await one(spool, known, *operation)
        await maintained(spool)
        check(spool, directory)
        at_the_end = spool.stats()
        assert at_the_end.unaccounted == 0
    async with opened(directory) as spool:
        assert spool.stats().lanes == at_the_end.lanes
        check(spool, directory)


async def one(spool: Spool, known: list[Delivery], what: str, which: object, choice: int, token: str | None) -> None:
    """One operation of the random run; `known` collects every delivery that was ever seen ready."""
    if what == "accept":
        accepted = await spool.accept(a_record(str(which), *PLANS[choice], fragments=split_fragments(), token=token))
        known += accepted.ready
    elif what == "settle" and known:
        delivery = known[int(str(which)) % len(known)]
        known += await spool.settle(delivery, SETTLEMENTS[choice](delivery))
    elif what in ("replay", "discard"):
        key = DeliveryKey(1 + int(str(which)) % 8, ENDPOINT, (Form.CORE, Form.DETAIL)[int(str(which)) % 2])
        known += await {"replay": replay, "discard": discard}[what](spool, [key])
    elif what == "release":
        for token_id in await spool.held_tokens(ENDPOINT):
            known += await spool.release(ENDPOINT, token_id)
    elif what == "maintain":
        await maintained(spool)
    elif what == "fail":
        await asyncio.gather(spool.accept(a_record("f", token="t")), write(spool, fail), return_exceptions=True)


def fail(transaction: Transaction) -> None:
    """An operation that changes both books, and fails."""
    transaction.counters.enqueue(1, Lane.CORE, DeliveryState.READY, 1000)
    transaction.tokens.use(transaction.connection, "never")
    raise LookupError("not today")


def check(spool: Spool, directory: Path) -> None:
    """Counters, tokens and payloads against what lies in the tables."""
    names = {1: ENDPOINT, 2: BUCKET}
    counted: Counter[tuple[str, str, int]] = Counter()
    queued: Counter[tuple[str, str]] = Counter()
    for destination_id, lane, state, form, fragments in rows(
        directory, "SELECT destination_id, lane, state, form, fragments FROM deliveries JOIN records USING (record_id)"
    ):
        key = names[destination_id], lane
        counted[*key, state] += 1
        sizes = {part: one.raw_bytes for part, one in decode_fragments(fragments).items()}
        carried = sum(sizes.get(part, 0) for part in FRAGMENTS_OF[Form(form)])
        queued[key] += carried if state <= DeliveryState.HELD else 0
    for (destination, lane_name), counts in spool.stats().lanes.items():
        found = [counted[destination, lane_name, state] for state in DeliveryState]
        expected = LaneCounts(sum(found), *found)
        assert counts == replace(expected, queued_bytes=queued[destination, lane_name])
        assert counts.unaccounted == 0
    assert rows(
        directory, "SELECT token_id, count(*) FROM records WHERE token_id IS NOT NULL GROUP BY token_id ORDER BY 1"
    ) == rows(directory, "SELECT token_id, uses FROM tokens ORDER BY 1")
    assert rows(directory, "SELECT count(*) FROM chunks") == rows(
        directory, "SELECT 3 * count(*) FROM records WHERE settled_at IS NULL AND call_id <> 'f'"
    ) or rows(directory, "SELECT count(*) FROM records WHERE call_id = 'f'") != [(0,)]


async def test_counts_are_of_each_lane(spool: Spool) -> None:
    """Every destination and lane has counts of its own, each byte in one of them; what is owed nothing has none."""
    assert spool.stats().lanes == {}
    new = a_record("c", CORE, DETAIL, fragments=split_fragments())
    await spool.accept(new)
    rest = sum(map(len, new.fragments[Fragment.REST]))
    assert spool.stats().lanes == {
        (ENDPOINT, Lane.CORE): LaneCounts(owed=1, ready=1, queued_bytes=new.raw_bytes - rest),
        (ENDPOINT, Lane.DETAIL): LaneCounts(owed=1, waiting=1, queued_bytes=rest),
    }


async def test_figures_are_told_when_they_are_durable(spool: Spool) -> None:
    """What is counted was committed: a group that fails changes no figure."""
    with pytest.raises(LookupError):
        await write(spool, fail)
    assert spool.stats().lanes == {}


async def test_waiting_is_seen_within_its_own_transaction(spool: Spool) -> None:
    """A delivery that was accepted in this very commit counts as waiting for those settled after it."""

    def look(transaction: Transaction) -> tuple[bool, bool, bool]:
        book: DeliveryCounters = transaction.counters
        before = book.any_waiting_or_held()
        book.enqueue(1, Lane.DETAIL, DeliveryState.WAITING, 1)
        during = book.any_waiting_or_held()
        book.move(1, Lane.DETAIL, DeliveryState.WAITING, DeliveryState.READY, 1)
        return before, during, book.any_waiting_or_held()

    assert await write(spool, look) == (False, True, False)


async def test_the_clock_does_not_change_the_books(spool: Spool, clock: Clock) -> None:
    """A clock that goes back by a day loses nothing."""
    accepted = await spool.accept(a_record("c"))
    clock.now -= 24 * HOUR
    await spool.settle(accepted.ready[0], Delivered())
    await spool.accept(a_record("d"))
    await maintained(spool)
    assert spool.stats().unaccounted == 0
    assert [one.record.call_id for one in await due(spool, now=clock.now)] == ["d"]
