"""Payloads that were just accepted: read from memory, by each delivery once, within a bound."""

import random
from pathlib import Path

import pytest

from spool.payload.frames import LIMIT_BYTES, SHARE
from spool.queue.ingest import INLINE_BYTES
from spool.records import Delivered, Form, Fragment, Lane, NewDelivery
from spool.store import Spool
from tests.spool.spool_parts import BUCKET, CORE, DETAIL, WHOLE, a_record, decoded, payload, rows, split_fragments

ALSO_WHOLE = NewDelivery(BUCKET, Form.WHOLE, Lane.CORE)


@pytest.mark.parametrize(
    ("deliveries", "fragments"),
    [
        ((WHOLE,), {Fragment.BODY: [b"{}", b"and more"]}),
        ((WHOLE,), {Fragment.BODY: [bytes(100_000)]}),
        ((CORE, DETAIL), split_fragments()),
    ],
)
async def test_what_was_just_accepted_is_not_read_back(
    spool: Spool, tmp_path: Path, deliveries: tuple[NewDelivery, ...], fragments: dict[Fragment, list[bytes]]
) -> None:
    """The first attempt gets the stored frames from memory, the next one the same from the disk."""
    accepted = await spool.accept(a_record("call", *deliveries, fragments=fragments))
    record = accepted.ready[0].record
    kept = [fragment for fragment in fragments if fragment is not Fragment.REST]
    stored = sum(record.fragments[fragment].stored_bytes for fragment in kept)
    raw = sum(record.fragments[fragment].raw_bytes for fragment in kept)
    assert spool._cache.byte_count == stored + (raw if record.raw_bytes <= INLINE_BYTES else 0)
    from_memory = [decoded(await payload(spool, accepted.ready[0], fragment)) for fragment in kept]
    assert spool._cache.byte_count == 0
    assert from_memory == [b"".join(fragments[fragment]) for fragment in kept]
    assert [decoded(await payload(spool, accepted.ready[0], fragment)) for fragment in kept] == from_memory


async def test_each_delivery_may_read_it(spool: Spool) -> None:
    """A payload stays until each of the deliveries that were ready has read it."""
    accepted = await spool.accept(a_record("call", WHOLE, ALSO_WHOLE, fragments={Fragment.BODY: [b"body"]}))
    for left in (True, False):
        assert decoded(await payload(spool, accepted)) == b"body"
        assert bool(spool._cache.byte_count) is left


async def test_memory_for_fresh_payloads_is_bounded(spool: Spool) -> None:
    """While nothing is delivered the oldest go, a large one is not kept, and all are still read from the disk."""
    noise = random.Random(1)
    half = LIMIT_BYTES // SHARE // 2
    taken = [await spool.accept(a_record(f"c{number}", body=noise.randbytes(half))) for number in range(20)]
    assert LIMIT_BYTES // 2 < spool._cache.byte_count <= LIMIT_BYTES
    large = await spool.accept(a_record("large", body=noise.randbytes(LIMIT_BYTES // SHARE + 1)))
    assert spool._cache.byte_count <= LIMIT_BYTES
    for accepted in (taken[0], taken[-1], large):
        read = decoded(await payload(spool, accepted))
        assert len(read) == accepted.raw_bytes


async def test_a_duplicate_keeps_nothing(spool: Spool, tmp_path: Path) -> None:
    """What is not sent is not kept."""
    first = await spool.accept(a_record("call", digest=b"d" * 32))
    await payload(spool, first)
    await spool.settle(first.ready[0], Delivered())
    assert (await spool.accept(a_record("call", digest=b"d" * 32))).duplicate
    assert spool._cache.byte_count == 0
    assert rows(tmp_path, "SELECT count(*) FROM records") == [(1,)]
