"""Queries and orders about tenants: the tenants, agents that belong to none, and their assignment."""

from collections.abc import Iterable

import msgspec

from gateway.tenants import UNASSIGNED, Tenant, TenantTable
from gateway.trace import instant
from spool.stats import TenantUse
from spool.store import Spool

MOST_AGENTS = 1000
"""Agents in one answer."""


class TenantEntry(msgspec.Struct, frozen=True):
    """One tenant."""

    name: str
    agents: tuple[str, ...]
    """Those in the configuration."""
    assigned: tuple[str, ...]
    """Agents assigned to it by an order."""
    destinations: tuple[str, ...]
    weight: int
    posts_per_second: float | None
    stored_bytes: int
    """The stored bytes of its records that have not ended."""
    share_bytes: int | None
    """Its share of the quota; None: all of it."""
    receipts_keep_seconds: float
    expire_after_seconds: float | None
    """None: undelivered records do not expire."""


class UnassignedAgent(msgspec.Struct, frozen=True):
    """An agent whose call logs belong to no tenant yet."""

    agent_id: str | None
    records: int
    """How many of its records have not ended."""
    since: str


class TenantList(msgspec.Struct, frozen=True):
    """All tenants, and the agents without one, those with the most records first."""

    tenants: tuple[TenantEntry, ...]
    unassigned: tuple[UnassignedAgent, ...]


class Assigned(msgspec.Struct, frozen=True):
    """The result of an assignment."""

    records: int


class UnknownTenant(Exception):
    """There is no tenant of this name."""


class TenantAdmin:
    """For the event loop."""

    def __init__(self, spool: Spool, tenants: TenantTable) -> None:
        self._spool = spool
        self._tenants = tenants

    async def list(self) -> TenantList:
        """What there is. Raises `SpoolError`."""
        assigned = await self._spool.reader.assigned_agents()
        waiting = await self._spool.reader.unassigned_agents(MOST_AGENTS)
        return TenantList(
            tuple(_entry(each, assigned, self._spool.tenant_use(each.name)) for each in self._tenants.tenants.values()),
            tuple(UnassignedAgent(agent, count, instant(since)) for agent, count, since in waiting),
        )

    async def assign(self, agent_id: str | None, tenant: str) -> Assigned:
        """Assign an agent and its open records to a tenant. Raises `UnknownTenant` and `SpoolError`."""
        known = self._tenants.tenants.get(tenant)
        if known is None or tenant == UNASSIGNED:
            raise UnknownTenant(tenant)
        if agent_id is not None:
            self._tenants.assign([(agent_id, tenant)])
        of_others = self._tenants.own_destinations - known.destinations
        gets = frozenset(self._spool.reader.destinations.ids) - of_others  # some may be nobody's own any more
        return Assigned(await self._spool.admin.assign(agent_id, tenant, gets, known.endpoint_token))


def _entry(tenant: Tenant, assigned: Iterable[tuple[str, str]], use: TenantUse) -> TenantEntry:
    return TenantEntry(
        tenant.name,
        tenant.agents,
        tuple(agent for agent, name in assigned if name == tenant.name),
        tuple(sorted(tenant.destinations)),
        tenant.weight,
        tenant.posts_per_second,
        use.stored_bytes,
        use.share_bytes,
        use.receipts_keep / 1000,
        None if use.expire_after is None else use.expire_after / 1000,
    )
