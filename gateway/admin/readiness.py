"""Decides whether posts can be accepted. Pure; destinations have no part in it.

A gateway whose endpoint is down is ready: keeping call logs meanwhile is what it is there for.
"""

from gateway.admin.sources import Lifecycle, Phase
from gateway.humane import bytes_text
from spool.figures import SpoolStats


def obstacles(lifecycle: Lifecycle, stats: SpoolStats | None) -> tuple[str, ...]:
    """Why posts cannot be accepted now; empty when they can."""
    found: list[str] = []
    if lifecycle.phase is not Phase.RUNNING:
        found.extend(lifecycle.reasons or (f"the gateway is {lifecycle.phase}",))
    obstacle = "the spool is not open" if stats is None else spool_obstacle(stats)
    if obstacle is not None:
        found.append(obstacle)
    return tuple(found)


def spool_obstacle(stats: SpoolStats) -> str | None:
    """Why the spool cannot take every record now; None when it can."""
    if stats.failure is not None:
        return f"the spool cannot take records: {stats.failure}"
    if stats.shortage is not None:
        return f"the spool cannot take every record: {stats.shortage}"
    if stats.used_bytes >= stats.limit_bytes:
        return f"the spool is full: {bytes_text(stats.used_bytes)} of {bytes_text(stats.limit_bytes)}"
    return None


def attention(stats: SpoolStats | None) -> tuple[str, ...]:
    """What an operator should do although posts can be accepted; empty when there is nothing."""
    return tuple(
        f"a damaged database was moved to {aside.directory} ({aside.reason}): run `callspool salvage`"
        for aside in (stats.asides if stats else ())
        if not aside.brought
    )
