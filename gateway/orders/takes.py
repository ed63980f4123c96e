"""What deliveries a destination can be given by an operator. Plain data."""

from dataclasses import dataclass

from spool.records import Form


@dataclass(frozen=True, slots=True)
class Takes:
    """What deliveries a destination can be given that were planned for another."""

    forms: frozenset[Form]
    ordered: bool
    """Whether it gets those of a call one after the other."""
