"""Splits a large call log into the members of its core and those of its detail, without copying their values."""

from dataclasses import dataclass

from gateway.calllog.document import CallLog
from spool.records import Buffer

CORE_MAX_BYTES = 500_000
"""The largest core that an endpoint is sent."""


@dataclass(frozen=True, slots=True)
class SplitCallLog:
    """Three runs of JSON members, each without braces around it or a comma at either end; any may be empty.

    Core = {base, derived}, detail = {call_id, update_type, rest}, whole = {base, rest}.
    """

    base: tuple[Buffer, ...]
    """The members that stay in the core, as they came."""
    derived: bytes
    """What is added to the core: summaries, a made transcript, the names of deferred fields."""
    rest: tuple[Buffer, ...]
    """The members that move to the detail, as they came."""


def split(call_log: CallLog, *, core_max_bytes: int = CORE_MAX_BYTES) -> SplitCallLog:
    """Split a call log so that its core is at most `core_max_bytes` long, as far as its identity fits in there."""
    raise NotImplementedError
