"""Live calls as the admin API shows them and the command line reads them."""

import msgspec

from gateway.intake.accept import owner_of
from gateway.trace import instant
from spool.live_calls import LiveCall


class LiveEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A call that goes on, or whose agent was lost not long ago. Times are ISO 8601 in UTC."""

    call_id: str
    tenant: str | None
    agent_id: str | None
    state: str
    """live or lost."""
    first_heard_at: str
    last_heard_at: str
    silent_seconds: float | None
    """For how long nothing came from its agent, while the gateway listened; null for one that is lost."""
    turns: int
    """How many turns are durable."""
    bytes: int


class LiveList(msgspec.Struct, frozen=True):
    """Those first that were silent longest."""

    calls: tuple[LiveEntry, ...]


def live_entry(call: LiveCall, silent: float | None) -> LiveEntry:
    """A call as lists show it."""
    return LiveEntry(
        call_id=call.call_id,
        tenant=owner_of(call.principal).tenant,
        agent_id=call.agent_id,
        state="live" if call.open else "lost",
        first_heard_at=instant(call.first_at),
        last_heard_at=instant(call.last_at),
        silent_seconds=None if silent is None else round(silent, 1),
        turns=call.turns,
        bytes=call.raw_bytes,
    )
