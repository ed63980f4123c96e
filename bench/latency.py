"""What a list of durations says in few numbers."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """Durations in milliseconds. `histogram` maps the upper end of a bucket to how many fell into it."""

    count: int
    p50: float
    p99: float
    longest: float
    histogram: dict[str, int]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered values that at least this share of them does not exceed; nan of none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarize(durations_ns: Sequence[int]) -> Latency:
    """Nanoseconds in any order, as a `Latency`; buckets grow by a factor of the square root of 2."""
    ordered = sorted(value / 1e6 for value in durations_ns)
    buckets = Counter(math.ceil(2 * math.log2(max(value, 2**-7))) for value in ordered)
    histogram = {f"{2 ** (step / 2):.3g}": count for step, count in sorted(buckets.items())}
    longest = ordered[-1] if ordered else math.nan
    return Latency(len(ordered), quantile(ordered, 0.5), quantile(ordered, 0.99), longest, histogram)
