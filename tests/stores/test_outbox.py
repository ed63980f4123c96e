"""The outbox of a store: which calls became complete and are still to be announced, on every engine."""

import asyncio
import random

from tests.stores.calls import RULE, part_of, random_parts
from tests.stores.engines import Engine
from uploaders.stores.parts import Part, PartKind
from uploaders.stores.store import OWNER_SILENT_MILLISECONDS, CallKey, Store

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
    """What one has claimed the other gets only after a day in which the first was not heard of. Of an engine without
    transactions two may claim the same at the same moment; one after the other they do not."""
    mine, other = engine.store(announces=True), engine.store(announces=True)
    await mine.write([part_of(PartKind.CALL, f"c{number}") for number in range(40)])
    turn = asyncio.Semaphore(2 if engine.transactional else 1)

    async def claim(name: str, store: Store, limit: int) -> list[CallKey]:
        async with turn:
            return await store.claim_completions(name, limit)

    shares = await asyncio.gather(claim("m", mine, 25), claim("o", other, 25))
    rest = await asyncio.gather(claim("m", mine, 99), claim("o", other, 99))
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

    async def write(store: Store, order: list[Part]) -> None:
        for at in range(0, len(order), 9):
            await store.write(order[at : at + 9])

    await asyncio.gather(*[write(store, chance.sample(parts, len(parts))) for store in stores])
    complete = {tuple(row) for row in engine.rows("select project, call_id from calls_complete where state = 3")}
    claimed = await stores[0].claim_completions("me", 999)
    assert len(claimed) == len(complete)
    assert set(claimed) == complete
    for store in stores:
        await store.close()


async def test_a_late_partner_completes_and_is_announced(engine: Engine) -> None:
    """A call that was given up is announced when its other part comes, and not before."""
    store = engine.store(announces=True)
    await store.write([part_of(END, "late")])
    engine.advance(RULE.timeout + 1)
    assert (await store.sweep()).orphans == 1
    assert await store.claim_completions("me", 10) == []
    await store.write([part_of(START, "late")])
    assert await store.claim_completions("me", 10) == [("", "late")]
    await store.close()
