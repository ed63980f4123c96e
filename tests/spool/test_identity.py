"""Whose a post is decides what it may repeat, follow and supersede (promises 3 and 4).

Tables of what one principal, another one, and one that is not known (accepted before version 6) post of the same call.
"""

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from spool.db.transaction import Transaction
from spool.records import Accepted, DeadLetter, Delivered, DeliveryState, Hold, principal_of
from spool.store import Spool
from tests.spool.spool_parts import (
    NOW,
    a_record,
    due,
    opened,
    states,
    write,
)

A, B = b"a" * 32, b"b" * 32
MINE, OTHER = principal_of(None, "my key"), principal_of(None, "another key")
READY, WAITING, HELD = DeliveryState.READY, DeliveryState.WAITING, DeliveryState.HELD


def forget_principals(transaction: Transaction) -> None:
    """As if all was accepted before version 6."""
    transaction.execute("UPDATE records SET principal = NULL, checksum = NULL")


def test_principals_differ_where_their_owners_do() -> None:
    """A tenant wins over a key, no key is nobody in particular, and nothing of a key can be read in its principal."""
    named = [principal_of(tenant, key) for tenant in (None, "", "t", "key") for key in (None, "k", "t", "\ud800")]
    by_key = [principal_of(None, key) for key in ("k", "t", "\ud800")]
    assert len({"", *by_key, *named}) == 1 + 3 + 3
    assert principal_of(None, None) == principal_of(None, "") == ""
    assert principal_of("t", "k") == principal_of("t", "other")
    assert "secret" not in principal_of(None, "secret")


# Duplicates -------------------------------------------------------------------------------------------------------

SEQUENCES = [
    # what was posted before, as (digest, delivered, idempotency key), then the post, and whether it is a duplicate
    ("again", [(A, True, None)], (A, None), True),
    ("changed", [(A, True, None)], (B, None), False),
    ("changed back, all delivered", [(A, True, None), (B, True, None)], (A, None), False),
    ("changed back, the change still owed", [(A, True, None), (B, False, None)], (A, None), False),
    ("the first is still owed", [(A, False, None), (B, True, None)], (A, None), True),
    ("changed back and forth", [(A, True, None), (B, True, None), (A, True, None)], (B, None), False),
    ("the newest of several", [(A, True, None), (B, True, None), (A, True, None)], (A, None), True),
    ("the same key", [(A, True, "1")], (A, "1"), True),
    ("the same key, not the newest", [(A, True, "1"), (B, True, "2")], (A, "1"), True),
    ("another key", [(A, True, "1")], (A, "2"), False),
    ("another key, and still owed", [(A, False, "1")], (A, "2"), False),
    ("the same key for something else", [(A, True, "1")], (B, "1"), False),
    ("a key where there was none", [(A, False, None)], (A, "1"), False),
    ("no key where there was one", [(A, True, "1")], (A, None), False),
    ("a very long key", [(A, True, "k" * 8000)], (A, "k" * 8000), True),
    ("the end of a very long key differs", [(A, True, "k" * 8000 + "1")], (A, "k" * 8000 + "2"), False),
]


@pytest.mark.parametrize(
    ("before", "post", "duplicate"), [row[1:] for row in SEQUENCES], ids=[row[0] for row in SEQUENCES]
)
async def test_a_duplicate_is_of_the_newest_or_of_what_is_owed_or_by_its_key(
    spool: Spool, before: list[tuple[bytes, bool, str | None]], post: tuple[bytes, str | None], duplicate: bool
) -> None:
    """After A and B, a second A is a change back, and is sent; a sender's keys overrule what seems equal."""
    for its_digest, delivered, key in before:
        (delivery,) = (await spool.accept(a_record("c", digest=its_digest, idempotency_key=key))).ready
        await spool.settle(delivery, Delivered() if delivered else DeadLetter("400"))
    digest, key = post
    assert (await spool.accept(a_record("c", digest=digest, idempotency_key=key))).duplicate is duplicate


WHOSE = [
    # the principal of the first post, of the second, and whether they concern each other
    ("mine twice", MINE, MINE, True),
    ("mine and another's", MINE, OTHER, False),
    ("another's and mine", OTHER, MINE, False),
    ("nobody's twice", "", "", True),
    ("nobody's and mine", "", MINE, False),
    ("mine and nobody's", MINE, "", False),
    ("a tenant's, with different keys", principal_of("t", "a"), principal_of("t", "b"), True),
    ("of different tenants with one key", principal_of("t", "a"), principal_of("u", "a"), False),
    ("not known whose, and mine", None, MINE, True),
    ("not known whose, and nobody's", None, "", True),
]
for_each_pair = pytest.mark.parametrize(
    ("first", "second", "together"), [row[1:] for row in WHOSE], ids=[row[0] for row in WHOSE]
)


async def posted(spool: Spool, principal: str | None, call_id: str = "c", **record: Any) -> Accepted:
    """Accept it; with None as something that was accepted before version 6."""
    accepted = await spool.accept(a_record(call_id, principal=principal or "", **record))
    if principal is None:
        await write(spool, forget_principals)
    return accepted


@for_each_pair
async def test_a_duplicate_is_of_the_same_principal(
    spool: Spool, first: str | None, second: str, together: bool
) -> None:
    """A corrected key under the same body is a new post, and is sent."""
    await posted(spool, first, digest=A)
    assert (await posted(spool, second, digest=A)).duplicate is together


@for_each_pair
async def test_a_key_that_is_refused_holds_up_its_own_posts_only(
    spool: Spool, first: str | None, second: str, together: bool
) -> None:
    """What is held for one principal's key is no predecessor of what another posts under the same call id."""
    (delivery,) = (await posted(spool, first, token="wrong")).ready
    await spool.settle(delivery, Hold("401", delivery.record.token_id))
    await posted(spool, second, token="right")
    assert await states(spool, "c") == [HELD, WAITING if together else READY]


@for_each_pair
async def test_the_end_of_a_delivery_frees_what_waits_for_it(
    spool: Spool, first: str | None, second: str, together: bool
) -> None:
    """Whoever posted it: what waited is free afterwards, and nothing waits for ever."""
    await posted(spool, first)
    (delivery,) = await due(spool)
    await posted(spool, second)
    freed = await spool.settle(delivery, Delivered())
    assert len(freed) == together
    assert await states(spool, "c") == [DeliveryState.DELIVERED, READY]


@for_each_pair
async def test_an_end_supersedes_the_starts_of_its_own_principal(
    spool: Spool, first: str | None, second: str, together: bool
) -> None:
    """A forged end suppresses nobody else's start."""
    await posted(spool, first, event="call_ended")
    start = await posted(spool, second, event="call_started", superseded_by="call_ended")
    assert start.superseded is together


@for_each_pair
async def test_an_end_ends_the_live_call_of_its_own_principal(
    spool: Spool, first: str | None, second: str, together: bool
) -> None:
    """After a restart too: what another principal says about a call id is about another call."""
    await posted(spool, first, event="call_started")
    await posted(spool, second, event="call_ended")
    assert bool(await spool.reader.live_calls(0, 10)) is not together


async def test_floods_of_others_hide_nothing(spool: Spool) -> None:
    """However much another principal posts of a call: duplicates, order and supersession of the first one stay."""
    await posted(spool, MINE, event="call_ended", digest=A)
    for _ in range(300):
        await posted(spool, OTHER, event="call_ended")
    assert (await posted(spool, MINE, event="call_ended", digest=A)).duplicate
    assert (await posted(spool, MINE, event="call_started", superseded_by="call_ended")).superseded
    last = await posted(spool, MINE, event="recording")
    assert last.ready == (), "waits for its own"


# A call id that is used again -------------------------------------------------------------------------------------

T = NOW
TIMES = [
    # when the call ended and began by the sender's own times; whether the start is superseded by the end
    ("began before it ended", T + 60_000, T, True),
    ("began as it ended", T, T, True),
    ("began again after it ended", T, T + 1, False),
    ("the end has no time", None, T, True),
    ("the start has no time", T, None, True),
    ("neither has", None, None, True),
]


@pytest.mark.parametrize(("ended", "began", "superseded"), [row[1:] for row in TIMES], ids=[row[0] for row in TIMES])
async def test_a_call_id_can_be_used_again(
    tmp_path: Path, ended: int | None, began: int | None, superseded: bool
) -> None:
    """A start that is later than the end, by their own times, is the start of another call: sent, and live."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("room", event="call_ended", happened_at=ended))
        start = await spool.accept(
            a_record("room", event="call_started", superseded_by="call_ended", happened_at=began)
        )
        assert start.superseded is superseded
    async with opened(tmp_path) as spool:
        assert [call.call_id for call in await spool.reader.live_calls(0, 10)] == ([] if superseded else ["room"])


async def test_a_late_end_of_the_use_before_ends_nothing(spool: Spool) -> None:
    """An end that comes in after the next start, and happened before it, leaves that call live."""
    await spool.accept(a_record("room", event="call_started", happened_at=T))
    await spool.accept(a_record("room", event="call_started", happened_at=T + 100))
    await spool.accept(a_record("room", event="call_ended", happened_at=T + 50))
    assert [call.happened_at for call in await spool.reader.live_calls(0, 10)] == [T + 100]
    await spool.accept(a_record("room", event="call_ended", happened_at=T + 150))
    assert await spool.reader.live_calls(0, 10) == []


async def test_whose_a_record_is_survives_a_restart_and_is_guarded_by_its_checksum(tmp_path: Path) -> None:
    """Principal and tenant are stored with the record; a changed one shows as damage."""
    async with opened(tmp_path) as spool:
        await spool.accept(structs.replace(a_record("c", principal=principal_of("t", None)), tenant="t"))
        await spool.accept(a_record("d", principal=MINE))
    async with opened(tmp_path) as spool:
        records = [delivery.record for delivery in await due(spool)]
        assert [(record.tenant, record.principal, record.damaged) for record in records] == [
            ("t", "tenant:t", False),
            (None, MINE, False),
        ]
        await write(spool, _swap_principals)
        assert [delivery.record.damaged for delivery in await due(spool)] == [True, True]


def _swap_principals(transaction: Transaction) -> None:
    transaction.execute("UPDATE records SET principal = ?", (OTHER,))


async def test_how_a_record_came_survives_a_restart_and_is_guarded_by_its_checksum(tmp_path: Path) -> None:
    """Without the gateways that it came through it would be sent back there, and taken for a delivery."""
    via = "1.1 callspool-00000001"
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("c", via=via))
        await spool.accept(a_record("d"))
    async with opened(tmp_path) as spool:
        assert [(one.record.via, one.record.damaged) for one in await due(spool)] == [(via, False), (None, False)]
        await write(spool, _swap_ways)
        assert [one.record.damaged for one in await due(spool)] == [True, True]


def _swap_ways(transaction: Transaction) -> None:
    transaction.execute("UPDATE records SET via = iif(via IS NULL, '1.1 callspool-00000001', NULL)")
