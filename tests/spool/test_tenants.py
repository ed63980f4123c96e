"""What each tenant may use of the spool, and how long what it has there is kept."""

import dataclasses
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from spool.errors import SpoolFull
from spool.records import DeadLetter, Delivered, Delivery, DeliveryState, Fragment, NewSpans
from spool.space import TenantLimits
from spool.store import Spool
from tests.spool.spool_parts import (
    CORE,
    DETAIL,
    HOUR,
    NOW,
    WHOLE,
    Clock,
    a_record,
    due,
    maintained,
    opened,
    split_fragments,
)

MEBIBYTE = 1 << 20
NOISE = Random(1)


def noise(size: int = 100_000) -> dict[Fragment, list[bytes]]:
    return {Fragment.BODY: [NOISE.randbytes(size)]}


async def fill(spool: Spool, tenant: str) -> int:
    """Post for a tenant until it is refused; returns how many were accepted."""
    for number in range(200):
        try:
            await spool.accept(a_record(f"{tenant}-{number}", fragments=noise(), tenant=tenant))
        except SpoolFull:
            return number
    raise AssertionError("it was never refused")


async def test_who_fills_its_share_is_refused_while_others_go_on(tmp_path: Path) -> None:
    """Spans too; and it is accepted again as its records are delivered. A large one is refused at its beginning."""
    limits = {"small": TenantLimits(share=0.05), "large": TenantLimits(share=0.5), "free": TenantLimits()}
    async with opened(tmp_path, max_bytes=20 * MEBIBYTE, tenants=limits) as spool:
        accepted = await fill(spool, "small")
        assert 8 <= accepted <= 10
        assert spool.tenant_use("small").share_bytes == MEBIBYTE
        with pytest.raises(SpoolFull):
            await spool.traces.add([NewSpans(b"t" * 16, NOISE.randbytes(200_000), 1)], None, "tenant:small")
        for tenant in ("large", "free", "unknown", None):
            await spool.accept(a_record(f"of-{tenant}", fragments=noise(), tenant=tenant))
        used = spool.used_bytes
        with pytest.raises(SpoolFull):
            await spool.accept(a_record("giant", fragments=noise(12 * MEBIBYTE), tenant="large"))
        assert spool.used_bytes - used < 2 * MEBIBYTE
        for delivery in await due(spool):
            if delivery.record.tenant == "small":
                await spool.settle(delivery, Delivered())
        assert spool.tenant_use("small").stored_bytes == 0
        await spool.accept(a_record("again", fragments=noise(), tenant="small"))


async def test_what_a_tenant_uses_is_counted_through_all_that_happens_to_its_records(tmp_path: Path) -> None:
    """Delivered, expired, evicted, dead, assigned from nobody, and read again at a start: it is what is there."""
    limits = {"acme": TenantLimits(expire_after=HOUR), "other": TenantLimits()}
    clock = Clock()
    async with opened(tmp_path, clock=clock, tenants=limits) as spool:

        async def there(tenant: str) -> int:
            rows = await spool.reader.ask(
                "SELECT coalesce(sum(stored_bytes), 0) FROM records WHERE settled_at IS NULL AND tenant = ?", (tenant,)
            )
            return int(rows[0][0])

        async def agree() -> int:
            for tenant in ("acme", "other"):
                assert spool.tenant_use(tenant).stored_bytes == await there(tenant)
            return spool.tenant_use("acme").stored_bytes

        assert await agree() == 0
        delivered = await spool.accept(a_record("a", fragments=noise(), tenant="acme"))
        dead = await spool.accept(a_record("b", fragments=noise(), tenant="acme"))
        await spool.accept(a_record("c", CORE, DETAIL, fragments=split_fragments(), tenant="acme"))
        await spool.accept(replace(a_record("d", fragments=noise(), tenant="unassigned"), agent_id=None))
        before = await agree()
        held = (await due(spool))[0]
        await spool.admin.assign(None, "acme", frozenset())
        assert await agree() > before
        await spool.settle(delivered.ready[0], Delivered())
        await spool.settle(dead.ready[0], DeadLetter("refused"))
        assert held.record.tenant is not None
        await agree()
        clock.now += 2 * HOUR
        await maintained(spool)
        kept = await agree()
        assert 90_000 < kept < 110_000, "the dead letter stays"
    async with opened(tmp_path, clock=clock, tenants=limits) as spool:
        assert spool.tenant_use("acme").stored_bytes == kept


async def test_each_tenant_has_its_own_times(tmp_path: Path) -> None:
    """Its times stand in place of those for everybody, whether they are shorter or longer; dead letters stay."""
    limits = {
        "short": TenantLimits(receipts_keep=HOUR, expire_after=HOUR),
        "long": TenantLimits(receipts_keep=10 * HOUR, expire_after=10 * HOUR),
        "usual": TenantLimits(),
    }
    clock = Clock()
    async with opened(tmp_path, clock=clock, tenants=limits, receipts_keep=5 * HOUR, expire_after=5 * HOUR) as spool:

        async def left(what: str) -> set[str]:
            """Whose calls are still there, and whose deliveries are still queued."""
            found = set()
            for tenant in (*limits, None):
                records = await spool.trace(f"{what}-{tenant}")
                states = [delivery.state for record in records for delivery in record.deliveries]
                if (what == "done" and records) or DeliveryState.READY in states:
                    found.add(str(tenant))
            return found

        for tenant in (*limits, None):
            done = await spool.accept(a_record(f"done-{tenant}", tenant=tenant))
            await spool.settle(done.ready[0], Delivered())
            await spool.accept(a_record(f"queued-{tenant}", WHOLE, tenant=tenant))
        everybody = {"short", "long", "usual", "None"}
        for hours, there in ((0, everybody), (2, everybody - {"short"}), (6, {"long"}), (11, set())):
            clock.now = NOW + hours * HOUR
            await maintained(spool)
            assert (await left("done"), await left("queued")) == (there, there), hours
        assert (await spool.accept(a_record("late", tenant="usual"))).ready


async def test_what_waited_is_sent_with_the_key_of_whom_it_is_assigned_to(tmp_path: Path) -> None:
    """As what comes later; the key that came is forgotten, and what was queued is announced no second time."""
    announced: list[Delivery] = []
    async with opened(tmp_path) as spool:
        held = dataclasses.replace(WHOLE, held=True)
        accepted = await spool.accept(replace(a_record("c", held, token="agents", tenant="unassigned"), agent_id="new"))
        queued = await spool.accept(replace(a_record("d", WHOLE, token="agents", tenant="unassigned"), agent_id="new"))
        spool.listener = announced.extend
        assert await spool.admin.assign("new", "acme", frozenset({WHOLE.destination}), "for-acme") == 2
        assert [one.record.uid for one in announced] == [accepted.uid]
        assert accepted.uid != queued.uid
        for delivery in await due(spool):
            assert (delivery.record.tenant, await spool.token(delivery.record.token_id or 0)) == ("acme", "for-acme")
            await spool.settle(delivery, Delivered())
        assert await spool.reader.ask("SELECT count(*) FROM tokens") == [(0,)]
