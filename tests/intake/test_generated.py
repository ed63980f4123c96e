"""Call logs that the gateway makes itself: announced once, and one that is refused holds up no other."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.announcements import Announcer
from gateway.calls import CALL_COMPLETE
from gateway.intake.generated import NotAccepted, accept_generated, arrival_of
from spool.records import OwnedCall
from tests.intake.running_intake import RunningIntake
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


@pytest.mark.parametrize("document", [{}, {"call_id": ""}], ids=["no id", "an empty id"])
async def test_what_is_no_call_log_is_refused_for_good(world: RunningIntake, document: Any) -> None:
    """By one exception, whatever is wrong with it."""
    with pytest.raises(NotAccepted):
        await accept_generated(document, arrival_of("an event", "", "c"), world.intake.reader, world.intake.acceptor)
