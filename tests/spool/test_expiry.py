"""Giving up what could not be delivered in the time that the operator set."""

from pathlib import Path

from msgspec.structs import replace

from spool.queue.retention import DELIVERIES_PER_STEP
from spool.records import DeadLetter, Delivered, Delivery, DeliveryState, Hold, Lane, RetryAt
from spool.space import TenantLimits
from tests.spool.spool_parts import (
    CORE,
    DETAIL,
    ENDPOINT,
    HOUR,
    NOTICE,
    OBJECT,
    WHOLE,
    Clock,
    a_record,
    maintained,
    opened,
    replay,
    split_fragments,
    states,
)


async def test_what_is_too_old_is_given_up_and_counted(tmp_path: Path, clock: Clock) -> None:
    """Queued deliveries of records older than the limit expire in whatever state they wait; younger ones stay."""
    async with opened(tmp_path, clock=clock, expire_after=HOUR) as spool:
        await spool.accept(a_record("old", CORE, DETAIL, fragments=split_fragments()))
        clock.now += HOUR // 2
        await spool.accept(a_record("young"))
        clock.now += HOUR // 2 + 1
        await maintained(spool)
        assert spool.stats().lanes[ENDPOINT, Lane.DETAIL].expired == 1
        core = spool.stats().lanes[ENDPOINT, Lane.CORE]
        assert (core.expired, core.ready, core.owed, core.unaccounted) == (1, 1, 2, 0)
        assert [delivery.state for delivery in (await spool.trace("old"))[0].deliveries] == [DeliveryState.EXPIRED] * 2


async def test_a_core_that_expires_frees_no_detail(tmp_path: Path, clock: Clock) -> None:
    """However many older ones there are: what waits for it goes with it, so that no detail is sent without its core."""
    freed: list[Delivery] = []
    async with opened(tmp_path, clock=clock, expire_after=HOUR) as spool:
        for number in range(DELIVERIES_PER_STEP):
            accepted = await spool.accept(a_record(f"held-{number}", CORE, DETAIL, fragments=split_fragments()))
            await spool.settle(accepted.ready[0], Hold("HTTP 401", None))
        await spool.accept(a_record("ready", CORE, DETAIL, fragments=split_fragments()))
        spool.listener = freed.extend
        clock.now += HOUR + 1
        await maintained(spool)
        assert spool.stats().lanes[ENDPOINT, Lane.DETAIL].expired == DELIVERIES_PER_STEP + 1
        assert freed == []


async def test_a_replay_starts_the_time_of_a_record_anew(tmp_path: Path, clock: Clock) -> None:
    """What an operator sends again has as long as a new post, whatever its attempts come to; so has its detail, which
    stayed with it."""
    async with opened(tmp_path, clock=clock, expire_after=HOUR) as spool:
        (core,) = (await spool.accept(a_record("old", CORE, DETAIL, fragments=split_fragments()))).ready
        await spool.settle(core, DeadLetter("refused"))
        clock.now += 2 * HOUR
        await maintained(spool)
        assert await states(spool, "old") == [DeliveryState.DEAD, DeliveryState.HELD]
        (core,) = await replay(spool, [core.key])
        await spool.settle(core, RetryAt(clock.now, "HTTP 503", for_destination=True))
        clock.now += HOUR
        await maintained(spool)
        assert await states(spool, "old") == [DeliveryState.READY, DeliveryState.WAITING]
        clock.now += 1
        await maintained(spool)
        assert await states(spool, "old") == [DeliveryState.EXPIRED] * 2


async def test_dead_letters_do_not_expire(tmp_path: Path, clock: Clock) -> None:
    """A dead letter keeps its payload until somebody decides about it."""
    async with opened(tmp_path, clock=clock, expire_after=HOUR) as spool:
        accepted = await spool.accept(a_record("dead"))
        await spool.settle(accepted.ready[0], DeadLetter("refused"))
        await spool.accept(a_record("other"))
        clock.now += 2 * HOUR
        await maintained(spool)
        assert spool.stats().lanes[ENDPOINT, Lane.CORE].expired == 1
        assert spool.stats().lanes[ENDPOINT, Lane.CORE].dead == 1


async def test_an_expired_original_is_none(tmp_path: Path, clock: Clock) -> None:
    """A post that repeats what was given up is accepted anew: promise 3."""
    async with opened(tmp_path, clock=clock, expire_after=HOUR) as spool:
        record = a_record("call", WHOLE)
        await spool.accept(record)
        clock.now += HOUR + 1
        await maintained(spool)
        assert spool.stats().lanes[ENDPOINT, Lane.CORE].expired == 1
        assert not (await spool.accept(record)).duplicate


async def test_an_attempt_that_ends_after_the_expiry_changes_nothing(tmp_path: Path, clock: Clock) -> None:
    """What was given up while it was being sent stays given up, and is counted once."""
    async with opened(tmp_path, clock=clock, expire_after=HOUR) as spool:
        under_way: Delivery = (await spool.accept(a_record("call"))).ready[0]
        clock.now += HOUR + 1
        await maintained(spool)
        assert spool.stats().lanes[ENDPOINT, Lane.CORE].expired == 1
        assert await spool.settle(under_way, Delivered()) == ()
        counts = spool.stats().lanes[ENDPOINT, Lane.CORE]
        assert (counts.expired, counts.delivered, counts.unaccounted) == (1, 0, 0)


async def test_dead_letters_are_given_up_after_their_own_time(tmp_path: Path, clock: Clock) -> None:
    """With what is held for a dead core, so that no detail comes to an endpoint without it; queued ones stay."""
    async with opened(tmp_path, clock=clock, dead_keep=HOUR) as spool:
        accepted = await spool.accept(a_record("dead", CORE, DETAIL, fragments=split_fragments()))
        await spool.settle(accepted.ready[0], DeadLetter("refused"))
        await spool.accept(a_record("queued"))
        clock.now += HOUR - 1
        await maintained(spool)
        assert spool.stats().lanes[ENDPOINT, Lane.CORE].dead == 1
        clock.now += 2
        await maintained(spool)
        assert [each.state for each in (await spool.trace("dead"))[0].deliveries] == [DeliveryState.EXPIRED] * 2
        assert spool.stats().lanes[ENDPOINT, Lane.CORE].ready == 1
        assert [counts.unaccounted for counts in spool.stats().lanes.values()] == [0, 0]


async def test_a_notice_expires_with_its_object(tmp_path: Path, clock: Clock) -> None:
    """Freed by the end of a dead object, it would be sent without a place to name."""
    freed: list[Delivery] = []
    async with opened(tmp_path, clock=clock, dead_keep=HOUR) as spool:
        accepted = await spool.accept(a_record("call", OBJECT, NOTICE, fragments=split_fragments()))
        await spool.settle(accepted.ready[0], DeadLetter("refused"))
        spool.listener = freed.extend
        clock.now += HOUR + 1
        await maintained(spool)
        assert await states(spool) == [DeliveryState.EXPIRED] * 2
        assert freed == []


async def test_a_tenant_has_a_time_of_its_own_for_dead_letters(tmp_path: Path, clock: Clock) -> None:
    """In place of everybody's, longer or shorter."""
    tenants = {"long": TenantLimits(dead_keep=2 * HOUR)}
    async with opened(tmp_path, clock=clock, dead_keep=HOUR, tenants=tenants) as spool:
        for name in ("long", "short"):
            accepted = await spool.accept(replace(a_record(name), tenant=name))
            await spool.settle(accepted.ready[0], DeadLetter("refused"))
        clock.now += HOUR + 1
        await maintained(spool)
        states = {name: (await spool.trace(name))[0].deliveries[0].state for name in ("long", "short")}
        assert states == {"long": DeliveryState.DEAD, "short": DeliveryState.EXPIRED}
