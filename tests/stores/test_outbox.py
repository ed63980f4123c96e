"""The outbox of a store: which calls became complete and are still to be announced, on every engine that has one."""

import asyncio
import random

import pytest

from tests.stores.calls import part_of, random_parts
from tests.stores.engines import Engine
from uploaders.stores.parts import PartKind
from uploaders.stores.store import OWNER_SILENT_MILLISECONDS

pytestmark = pytest.mark.parametrize("engine", ["sqlite", "postgres-18", "postgres-15"], indirect=True)

START, END = PartKind.START, PartKind.END


async def test_a_call_is_in_the_outbox_once_it_is_complete(engine: Engine) -> None:
    """Neither a start alone nor a repeated or further end is; what is claimed comes again until it is forgotten, and
    then never again. A store that announces nothing keeps no outbox."""
    store, silent = engine.store(announces=True), engine.store()
    await store.write([part_of(START, "a"), part_of(END, "a"), part_of(START, "b"), part_of(PartKind.CALL, "c")])
    await silent.write([part_of(START, "d"), part_of(END, "d")])
    assert sorted(await store.claim_completions("me", 10)) == [("", "a"), ("", "c")]
    await store.write([part_of(END, "a"), part_of(END, "a", 7, other=True), part_of(END, "b")])
    assert sorted(await store.claim_completions("me", 10)) == [("", "a"), ("", "b"), ("", "c")]
    await store.forget_completions([("", "a"), ("", "c")])
    await store.write([part_of(END, "a", 9, later=True)])
    assert await store.claim_completions("me", 10) == [("", "b")]
    await store.close()
    await silent.close()


async def test_two_receivers_share_an_outbox(engine: Engine) -> None:
    """What one has claimed the other gets only after a day in which the first was not heard of."""
    mine, other = engine.store(announces=True), engine.store(announces=True)
    await mine.write([part_of(PartKind.CALL, f"c{number}") for number in range(40)])
    shares = await asyncio.gather(*[store.claim_completions(name, 25) for name, store in (("m", mine), ("o", other))])
    rest = await asyncio.gather(*[store.claim_completions(name, 99) for name, store in (("m", mine), ("o", other))])
    assert sorted(rest[0] + rest[1]) == sorted(("", f"c{number}") for number in range(40))
    assert all(set(share) <= set(all_of_it) for share, all_of_it in zip(shares, rest, strict=True))
    engine.advance_claims(OWNER_SILENT_MILLISECONDS + 1)
    assert len(await mine.claim_completions("m", 99)) == 40
    await mine.close()
    await other.close()


async def test_random_parts_complete_each_call_once(engine: Engine) -> None:
    """Two writers at once with the same random parts: each complete call is in the outbox once, and no other call."""
    chance = random.Random(14)
    stores = [engine.store(announces=True) for _ in range(2)]
    parts = [part for part in random_parts(chance, 20, 160) if part.kind is not PartKind.DETAIL]
    await stores[0].open()

    async def write(store: object, order: list[object]) -> None:
        for at in range(0, len(order), 9):
            await store.write(order[at : at + 9])

    await asyncio.gather(*[write(store, chance.sample(parts, len(parts))) for store in stores])
    complete = {tuple(row) for row in engine.rows("select project, call_id from calls_complete where state = 3")}
    claimed = await stores[0].claim_completions("me", 999)
    assert len(claimed) == len(complete)
    assert set(claimed) == complete
    for store in stores:
        await store.close()
