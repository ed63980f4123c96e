"""Whether a soak was passed: pure, from what was seen."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.soak.watching import Sample
from spool.queue.maintenance import KEEP_FREE_BYTES
from spool.space import LARGEST_HEADROOM_BYTES

MIB = 1 << 20
ANONYMOUS_MARGIN = 32 * MIB
"""The second half may use so much more in the median than the first: half of the budget for bodies under way."""
RESIDENT_MARGIN = 48 * MIB
"""Resident memory counts mapped files too, which come and go with giants."""
HANDLES_MARGIN = 16
"""Connections of agents and to the endpoint come and go."""
SPOOL_MARGIN = KEEP_FREE_BYTES + LARGEST_HEADROOM_BYTES + 16 * MIB
"""What an empty spool may take above what it took at first: the free pages that it keeps; headroom, which grows
with a backlog and is then left at up to twice its least size; receipts, and a log that is not truncated yet.

Seen after runs of 20 s: 64 MiB of free pages, 8 to 16 of headroom, 1 to 5 of log, and 1 for 1,200 receipts."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a soak shows: what was found, what is allowed, and whether that held."""

    name: str
    found: str
    allowed: str
    held: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known when everything is over."""

    samples: tuple[Sample, ...]
    measured_from: float
    middle: float
    measured_until: float
    """Seconds after the restarts; what was seen before, and while draining, is in neither half."""
    acknowledged: int
    unexpected_answers: int
    missing_at_endpoint: int
    missing_in_bucket: int | None
    """None where there was no bucket."""
    conflicts: int
    """Idempotency keys that came to the endpoint with two different documents."""
    left_queued: int
    left_dead: int
    replayed: int
    spool_before: int
    spool_after: int
    unclean_ends: int
    """Stops by SIGTERM that did not end with status 0."""


def judge(outcome: Outcome) -> tuple[Check, ...]:
    """All checks, the most important ones first."""
    return (*_nothing_lost(outcome), *_flat(outcome), *_shrunk(outcome))


def passed(checks: Sequence[Check]) -> bool:
    """Whether all of them held."""
    return all(check.held for check in checks)


def _nothing_lost(outcome: Outcome) -> tuple[Check, ...]:
    unaccounted = max((sample.unaccounted for sample in outcome.samples), key=abs, default=0.0)
    checks = [
        Check("Acknowledged call logs", f"{outcome.acknowledged:,}", "some", outcome.acknowledged > 0),
        _none("Missing at the endpoint", outcome.missing_at_endpoint),
        _none("Unaccounted records, at most", round(unaccounted)),
        _none("Keys with two documents", outcome.conflicts),
        _none("Good posts refused", outcome.unexpected_answers),
        _none("Still queued at the end", outcome.left_queued),
        _none("Dead letters at the end", outcome.left_dead),
        Check("Dead letters replayed", f"{outcome.replayed:,}", "some", outcome.replayed > 0),
        _none("Unclean ends", outcome.unclean_ends),
    ]
    if outcome.missing_in_bucket is not None:
        checks.insert(2, _none("Missing in the bucket", outcome.missing_in_bucket))
    return tuple(checks)


def _flat(outcome: Outcome) -> tuple[Check, ...]:
    last_start = max((sample.start for sample in outcome.samples), default=0)
    alive = [sample for sample in outcome.samples if sample.start == last_start]
    first = [sample for sample in alive if outcome.measured_from <= sample.at < outcome.middle]
    second = [sample for sample in alive if outcome.middle <= sample.at < outcome.measured_until]

    def check(name: str, value: Callable[[Sample], float], margin: float, shown: Callable[[float], str]) -> Check:
        before, after = (statistics.median(map(value, half)) if half else float("nan") for half in (first, second))
        found = f"{shown(before)}, then {shown(after)}"
        return Check(name, found, f"+ {shown(margin)}", after <= before + margin)

    return (
        Check("Samples", f"{len(first)}, then {len(second)}", "both", bool(first and second)),
        check("Anonymous memory", lambda sample: sample.anonymous or 0, ANONYMOUS_MARGIN, mebibytes),
        check("Resident memory", lambda sample: sample.resident, RESIDENT_MARGIN, mebibytes),
        check("File handles", lambda sample: sample.handles, HANDLES_MARGIN, lambda value: f"{value:,.0f}"),
    )


def _shrunk(outcome: Outcome) -> tuple[Check, ...]:
    largest = max((sample.spool_bytes for sample in outcome.samples), default=0)
    allowed = outcome.spool_before + SPOOL_MARGIN
    found = f"{mebibytes(largest)} at most, {mebibytes(outcome.spool_after)} at the end"
    return (Check("Spool folder", found, mebibytes(allowed), outcome.spool_after <= allowed),)


def _none(name: str, count: int) -> Check:
    return Check(name, f"{count:,}", "0", count == 0)


def mebibytes(value: float) -> str:
    """A size that a person reads."""
    return f"{value / MIB:,.0f} MiB"
