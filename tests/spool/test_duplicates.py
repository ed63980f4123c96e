"""Promise 3: the same call id, event and digest is acknowledged once it is durable, and not spooled again."""

import asyncio
from pathlib import Path

import pytest

from spool.records import DeadLetter, Delivered, DeliveryKey, DeliveryState, Form
from spool.store import Spool
from tests.spool.spool_parts import (
    CORE,
    DETAIL,
    ENDPOINT,
    HOUR,
    Clock,
    a_digest,
    a_record,
    discard,
    due,
    opened,
    rows,
    split_fragments,
    states,
)

SAME = bytes(range(32))


async def test_a_repeated_post_is_a_duplicate_of_the_first(spool: Spool, tmp_path: Path) -> None:
    """A repetition is told the first one's identity and sizes, and stores nothing."""
    first = await spool.accept(a_record("c", body=b"0123456789" * 50, digest=SAME))
    again = await spool.accept(a_record("c", body=b"0123456789" * 50, digest=SAME))
    assert (again.duplicate, again.ready) == (True, ())
    assert (again.uid, again.raw_bytes, again.stored_bytes) == (first.uid, first.raw_bytes, first.stored_bytes)
    assert len(await due(spool)) == 1
    assert rows(tmp_path, "SELECT (SELECT count(*) FROM chunks), (SELECT count(*) FROM records)") == [(1, 1)]


async def test_repetitions_within_one_commit_are_duplicates(spool: Spool) -> None:
    """Of equal posts that share a transaction, one is stored."""
    results = await asyncio.gather(*(spool.accept(a_record("c", digest=SAME)) for _ in range(20)))
    assert [result.duplicate for result in results] == [False] + [True] * 19
    assert len({result.uid for result in results}) == 1


@pytest.mark.parametrize(
    ("call_id", "event", "digest"),
    [
        pytest.param("other", "call_ended", SAME, id="call id"),
        pytest.param("c", "recording_ready", SAME, id="event"),
        pytest.param("c", "call_ended", a_digest(), id="digest"),
    ],
)
async def test_what_differs_is_no_duplicate(spool: Spool, call_id: str, event: str, digest: bytes) -> None:
    """Call id, event and digest must all be the same."""
    await spool.accept(a_record("c", event="call_ended", digest=SAME))
    assert not (await spool.accept(a_record(call_id, event=event, digest=digest))).duplicate


@pytest.mark.parametrize(
    ("hours", "duplicate"),
    [pytest.param(23, True, id="within the window"), pytest.param(25, False, id="after it")],
)
async def test_the_window_counts_for_what_has_ended(spool: Spool, clock: Clock, hours: int, duplicate: bool) -> None:
    """A delivered original counts for 24 hours from its acceptance."""
    accepted = await spool.accept(a_record("c", digest=SAME))
    await spool.settle(accepted.ready[0], Delivered())
    clock.now += hours * HOUR
    assert (await spool.accept(a_record("c", digest=SAME))).duplicate is duplicate


async def test_what_is_still_owed_is_an_original_however_old(spool: Spool, clock: Clock) -> None:
    """A backlog of days is not spooled twice."""
    await spool.accept(a_record("c", digest=SAME))
    clock.now += 100 * HOUR
    assert (await spool.accept(a_record("c", digest=SAME))).duplicate


async def test_a_dead_letter_is_an_original(spool: Spool) -> None:
    """A dead letter keeps its payload, so a repetition adds nothing."""
    accepted = await spool.accept(a_record("c", digest=SAME))
    await spool.settle(accepted.ready[0], DeadLetter("400"))
    assert (await spool.accept(a_record("c", digest=SAME))).duplicate


async def test_a_discarded_original_does_not_count(spool: Spool) -> None:
    """What an operator gave up may be sent in again."""
    accepted = await spool.accept(a_record("c", digest=SAME))
    await discard(spool, [accepted.ready[0].key])
    again = await spool.accept(a_record("c", digest=SAME))
    assert not again.duplicate
    assert again.uid != accepted.uid


async def test_a_partly_discarded_original_does_not_count(spool: Spool) -> None:
    """A record of which a part was given up was not delivered whole."""
    accepted = await spool.accept(a_record("c", CORE, DETAIL, fragments=split_fragments(), digest=SAME))
    await discard(spool, [DeliveryKey(accepted.ready[0].record.record_id, ENDPOINT, Form.DETAIL)])
    assert await states(spool, "c") == [DeliveryState.READY, DeliveryState.DISCARDED]
    assert not (await spool.accept(a_record("c", digest=SAME))).duplicate


async def test_a_duplicate_says_how_its_original_is_stored(spool: Spool) -> None:
    """`two_phase` of a duplicate is that of the first, whatever the repetition would have been."""
    await spool.accept(a_record("c", CORE, DETAIL, fragments=split_fragments(), digest=SAME))
    assert (await spool.accept(a_record("c", digest=SAME))).two_phase
    await spool.accept(a_record("d", digest=SAME))
    assert not (await spool.accept(a_record("d", CORE, DETAIL, fragments=split_fragments(), digest=SAME))).two_phase


async def test_duplicates_are_known_after_a_restart(tmp_path: Path) -> None:
    """What makes a duplicate is on disk."""
    async with opened(tmp_path) as spool:
        first = await spool.accept(a_record("c", digest=SAME))
    async with opened(tmp_path) as spool:
        assert (await spool.accept(a_record("c", digest=SAME))).uid == first.uid


async def test_a_superseded_start_is_an_original(spool: Spool) -> None:
    """A late start that is posted twice is recorded once."""
    await spool.accept(a_record("c"))
    for duplicate in (False, True):
        late = await spool.accept(a_record("c", event="call_started", superseded_by="call_ended", digest=SAME))
        assert late.duplicate is duplicate
