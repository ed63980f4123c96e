"""Call logs that the gateway makes itself: announced once, and one that is refused holds up no other."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.announcements import CLAIM, Announcer
from gateway.calls import CALL_COMPLETE
from gateway.intake.accept import Arrival
from gateway.intake.body_reader import BodyLimits
from gateway.intake.generated import NotAccepted, accept_generated, arrival_of
from gateway.intake.memory import Body
from gateway.intake.responses import Rejection
from gateway.tenants import Tenant, TenantTable
from spool.records import OwnedCall
from tests.intake.running_intake import RunningIntake, running
from tests.stores.calls import part_of
from tests.stores.engines import SqliteEngine
from tests.system.waiting import until
from uploaders.stores.parts import PartKind
from uploaders.stores.store import Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = SqliteEngine(tmp_path / "store").store(announces=True)
    await store.write([part_of(PartKind.CALL, call_id) for call_id in ("erased", "kept")])
    yield store
    await store.close()


async def test_a_call_that_was_erased_holds_up_no_announcement(world: RunningIntake, store: Store) -> None:
    """It is not announced, nor asked about again; the calls after it are."""
    await world.spool.erasures.order([OwnedCall("erased")])
    announcer = Announcer(store, "me", world.intake.reader, world.intake.acceptor, asyncio.Event())
    announcer.start()

    async def announced() -> bool:
        return not await store.claim_completions("me", 10)

    try:
        await until(announced, "the outbox is empty")
    finally:
        await announcer.stop()
    assert await world.spool.trace("erased") == ()
    assert (await world.only_record("kept")).record.event == CALL_COMPLETE


@pytest.mark.parametrize(
    "error",
    [Rejection(503, "parse_worker_failed", "It failed.", "Later.", retry_after=10), ValueError("a defect")],
    ids=["cannot be parsed now", "a defect"],
)
async def test_a_call_that_cannot_be_announced_now_holds_up_no_other(
    world: RunningIntake, store: Store, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls after it are announced; it stays in the outbox, and is announced when that works."""
    parse, works = world.intake.acceptor.parse, asyncio.Event()

    async def fails(body: Body, arrival: Arrival) -> Any:
        parsed = await parse(body, arrival)
        if parsed.call_id == "erased" and not works.is_set():
            raise error
        return parsed

    monkeypatch.setattr(world.intake.acceptor, "parse", fails)
    completed = asyncio.Event()
    announcer = Announcer(store, "me", world.intake.reader, world.intake.acceptor, completed)
    announcer.start()

    async def left() -> list[str]:
        return [call_id for _, call_id in await store.claim_completions("me", 10)]

    async def passed_over() -> bool:
        return await left() == ["erased"]

    async def announced() -> bool:
        return await left() == []

    try:
        await until(passed_over, "the other call is announced")
        assert (await world.only_record("kept")).record.event == CALL_COMPLETE
        works.set()
        completed.set()
        await until(announced, "the outbox is empty")
    finally:
        await announcer.stop()
    assert (await world.only_record("erased")).record.event == CALL_COMPLETE


async def test_many_calls_that_cannot_be_announced_hold_up_no_other(
    world: RunningIntake, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come before it: each look passes over those that failed in the looks before it."""
    accept_parsed, works = world.intake.acceptor.parse, asyncio.Event()
    poison = [f"poison-{number}" for number in range(2 * CLAIM + 1)]
    await store.write([part_of(PartKind.CALL, call_id) for call_id in (*poison, "last")])

    async def fails(body: Body, arrival: Arrival) -> Any:
        parsed = await accept_parsed(body, arrival)
        if parsed.call_id in poison and not works.is_set():
            raise ValueError("a defect")
        return parsed

    monkeypatch.setattr(world.intake.acceptor, "parse", fails)
    completed = asyncio.Event()
    announcer = Announcer(store, "me", world.intake.reader, world.intake.acceptor, completed)
    announcer.start()

    async def last_is_announced() -> bool:
        completed.set()
        return bool(await world.spool.trace("last"))

    async def all_are_announced() -> bool:
        completed.set()
        return not await store.claim_completions("me", 1)

    try:
        await until(last_is_announced, "the last one is announced")
        assert len(await store.claim_completions("me", 1000)) == len(poison)
        works.set()
        await until(all_are_announced, "the outbox is empty")
    finally:
        await announcer.stop()


async def test_what_can_never_be_stored_is_refused_for_good(world: RunningIntake) -> None:
    """As a post of it is; to try it again is of no use."""
    arrival = replace(arrival_of("an event", "", "c"), trace_context="\ud800")
    with pytest.raises(NotAccepted, match="lone surrogate"):
        await accept_generated({"call_id": "c"}, arrival, world.intake.reader, world.intake.acceptor)


@pytest.mark.parametrize("document", [{}, {"call_id": ""}], ids=["no id", "an empty id"])
async def test_what_is_no_call_log_is_refused_for_good(world: RunningIntake, document: Any) -> None:
    """By one exception, whatever is wrong with it."""
    with pytest.raises(NotAccepted):
        await accept_generated(document, arrival_of("an event", "", "c"), world.intake.reader, world.intake.acceptor)


async def test_what_a_post_may_have_is_no_limit_for_what_posts_make_together(tmp_path: Path) -> None:
    """A complete call holds its start and its end, each as large as it may be."""
    document = {"call_id": "c", "start": "s" * 60, "end": "e" * 60}
    async with running(tmp_path, bodies=BodyLimits(body_max=100)) as world:
        reader, acceptor = world.intake.reader, world.intake.acceptor
        await accept_generated(document, arrival_of(CALL_COMPLETE, "", "c"), reader, acceptor)
        assert (await world.only_record("c")).record.event is not None
        assert (await world.post(document)).status == 413


async def test_an_endpoint_is_sent_the_token_of_the_tenant(tmp_path: Path) -> None:
    """With what the gateway makes of a tenant's calls as with what the tenant posts; its rate is for its posts."""
    tenants = TenantTable([Tenant("acme", endpoint_token="for-acme", posts_per_second=0.001)])
    async with running(tmp_path, tenants=tenants) as world:
        reader, acceptor = world.intake.reader, world.intake.acceptor
        for event in ("one", "another"):
            accepted = await accept_generated({"call_id": event}, arrival_of(event, "acme", event), reader, acceptor)
            (traced,) = await world.spool.trace(event)
            assert (traced.record.uid, traced.record.tenant) == (accepted.uid, "acme")
            assert await world.spool.token(traced.record.token_id or 0) == "for-acme"
