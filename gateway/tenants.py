"""Tenants: whose call a call log is. Pure, but for the rates.

The order of naming: the source that a webhook came through, the tenant of the token that was presented, the tenant that
the agent belongs to, else `unassigned`. A token counts for more than an agent's id, which anybody can write into a call
log: who posts with one tenant's token never writes into another's calls.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from hashlib import sha256
from typing import Final

UNASSIGNED: Final = "unassigned"
"""The tenant of what nobody claims: it is accepted, and held where a destination is some tenant's own."""
_WILDCARDS = re.compile(r"[*?\[]")


def may_refer_to(tenant: str | None) -> tuple[str, ...] | None:
    """The tenants whose objects in a bucket may be read for this one; None where there are no tenants: everybody's.

    The key of an object names its call and a record number that counts up, so others can guess it.
    """
    return None if tenant is None else (tenant, UNASSIGNED)


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant."""

    name: str
    agents: tuple[str, ...] = ()
    """Ids of agents: exact, with a `*` at the end for what begins so, or other wildcards of shells."""
    token_digests: frozenset[bytes] = frozenset()
    """SHA-256 of the tokens that its agents present at the intake."""
    destinations: frozenset[str] = frozenset()
    """Destinations of its own: no other tenant's call logs go there."""
    endpoint_token: str | None = field(default=None, repr=False)
    """What destinations that forward the agents' tokens are sent instead."""
    posts_per_second: float | None = None
    weight: int = 1
    """Its share of the slots of a destination, beside those of the others that have something to send."""


class TenantTable:
    """All tenants, looked up by token and by agent."""

    def __init__(self, tenants: Iterable[Tenant]) -> None:
        self.tenants = {tenant.name: tenant for tenant in tenants}
        self.own_destinations = frozenset(name for each in self.tenants.values() for name in each.destinations)
        self._by_digest = {digest: each.name for each in self.tenants.values() for digest in each.token_digests}
        self._exact: dict[str, str] = {}
        self._assigned: dict[str, str] = {}
        self._prefixes: list[tuple[str, str]] = []
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for tenant in self.tenants.values():
            for agent in tenant.agents:
                self._add(agent, tenant.name)
        self._prefixes.sort(key=lambda each: -len(each[0]))  # the longest one is meant
        self._buckets: dict[str, float] = {}

    @property
    def has_tokens(self) -> bool:
        """Whether a post must present a token."""
        return bool(self._by_digest)

    @property
    def weights(self) -> dict[str | None, int]:
        """The weight of each tenant when a destination is drained; None: records from before there were tenants."""
        return {None: 1, UNASSIGNED: 1, **{name: tenant.weight for name, tenant in self.tenants.items()}}

    def of_token(self, token: str | None) -> str | None:
        """Whose token it is; None for any other. It is looked up by its digest, which tells nothing by its time."""
        return None if token is None else self._by_digest.get(digest_of(token))

    def of_agent(self, agent_id: str | None) -> str | None:
        """Whose agent it is: by its id, else by the longest beginning, else by the first pattern that fits."""
        if agent_id is None:
            return None
        exact = self._exact.get(agent_id) or self._assigned.get(agent_id)
        if exact is not None:
            return exact
        for beginning, name in self._prefixes:
            if agent_id.startswith(beginning):
                return name
        return next((name for pattern, name in self._patterns if pattern.match(agent_id)), None)

    def owners_of(self, destination: str) -> frozenset[str] | None:
        """The tenants whose own it is, which alone it gets call logs of; None: it gets everybody's."""
        owners = frozenset(each.name for each in self.tenants.values() if destination in each.destinations)
        return owners or None

    def assign(self, agents: Iterable[tuple[str, str]]) -> None:
        """Note agents that an operator has assigned to tenants, perhaps anew; what the configuration says wins."""
        self._assigned.update((agent_id, name) for agent_id, name in agents if name in self.tenants)

    def seconds_until_admitted(self, name: str, now: float) -> float:
        """0 where a post of this tenant may come in now, which counts it; else how long its rate makes it wait.

        A leaky bucket that holds one second's worth of posts. `now` is of a monotonic clock.
        """
        tenant = self.tenants.get(name)
        if tenant is None or tenant.posts_per_second is None:
            return 0.0
        free_at = max(self._buckets.get(name, 0.0), now)
        if free_at - now > 1.0:
            return free_at - now - 1.0
        self._buckets[name] = free_at + 1 / tenant.posts_per_second
        return 0.0

    def _add(self, agent: str, name: str) -> None:
        if not _WILDCARDS.search(agent):
            self._exact[agent] = name
        elif not _WILDCARDS.search(agent[:-1]) and agent.endswith("*"):
            self._prefixes.append((agent[:-1], name))
        else:
            self._patterns.append((re.compile(translate(agent)), name))


def digest_of(token: str) -> bytes:
    """What a token is looked up by."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
