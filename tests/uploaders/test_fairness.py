"""Draining is fair among tenants: nobody's backlog goes before another's next delivery."""

from collections import Counter

from spool.records import Delivery, Due, Form, Lane, OfTenant
from tests.uploaders.deliveries import a_record
from uploaders.dispatch.lane import FairPrefetch

NOW = 1_000


def delivery_of(tenant: str, number: int) -> Delivery:
    return Delivery(a_record(record_id=number, tenant=tenant), "endpoint", Form.WHOLE, Lane.CORE, 0, NOW, None)


class Backlog:
    """A spool with so many deliveries of each tenant."""

    def __init__(self, **counts: int) -> None:
        numbers = iter(range(1, 1 + sum(counts.values())))
        self.deliveries = {name: [delivery_of(name, next(numbers)) for _ in range(n)] for name, n in counts.items()}
        self.ended: set[object] = set()
        self.asked = 0

    async def due(self, limit: int, of_tenant: OfTenant) -> Due:
        self.asked += 1
        left = [one for one in self.deliveries.get(of_tenant.tenant or "", []) if one.key not in self.ended]
        return Due(tuple(left[:limit]), NOW if len(left) >= limit else None)


async def served(prefetch: FairPrefetch, backlog: Backlog, count: int) -> list[str | None]:
    """The tenants of the next deliveries, each of which ends before the next one begins."""
    tenants = []
    for _ in range(count):
        if prefetch.wants_filling:
            await prefetch.fill(backlog.due)
        delivery = prefetch.take()
        if delivery is None:
            break
        backlog.ended.add(delivery.key)
        prefetch.release(delivery.key)
        tenants.append(delivery.record.tenant)
    return tenants


async def test_a_backlog_of_one_tenant_holds_up_no_other() -> None:
    """With 10,000 queued of one, the delivery of another that was just accepted is the next but one."""
    backlog = Backlog(large=10_000)
    prefetch = FairPrefetch({"large": 1, "small": 1})
    await served(prefetch, backlog, 3_000)
    prefetch.offer(delivery_of("small", 20_000), NOW)
    assert "small" in await served(prefetch, backlog, 2)
    assert backlog.asked < 40, "what is queued of one tenant is not asked for again and again"


async def test_tenants_are_served_by_their_weights() -> None:
    """Of three that have something, one with the weight 3 gets three turns for each of the others', and what is left
    when these have nothing more."""
    backlog = Backlog(heavy=400, light=100, other=100)
    prefetch = FairPrefetch({"heavy": 3, "light": 1, "other": 1})
    assert Counter(await served(prefetch, backlog, 250)) == {"heavy": 150, "light": 50, "other": 50}
    assert len(await served(prefetch, backlog, 1_000)) == 350


async def test_turns_are_not_saved_up() -> None:
    """Who had nothing for a long time shares from then on, and does not take all slots."""
    backlog = Backlog(busy=600, late=300)
    late = backlog.deliveries.pop("late")
    prefetch = FairPrefetch({"busy": 1, "late": 1})
    await served(prefetch, backlog, 300)
    backlog.deliveries["late"] = late
    prefetch.ask_again()
    assert Counter(await served(prefetch, backlog, 200)) == {"busy": 100, "late": 100}


async def test_a_tenant_that_nobody_knew_of_is_served() -> None:
    """Such as one whose records were imported, or whose table was removed."""
    backlog = Backlog(unknown=2)
    prefetch = FairPrefetch({"known": 1})
    assert await served(prefetch, backlog, 9) == []
    prefetch.offer(backlog.deliveries["unknown"][1], NOW)
    assert await served(prefetch, backlog, 9) == ["unknown", "unknown"]
    assert prefetch.idle
