"""From single rounds to the figures that a reader compares."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.intake import IntakeRound
from bench.memory import Memory


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure over all rounds: the median, and between what it lay."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class IntakeFigures:
    """What one server did with one size of call log. Durations in ms, memory in bytes."""

    posts_per_second: Figure
    megabytes_per_second: Figure
    ack_p50: Figure
    ack_p99: Figure
    refused: int
    idle: Memory
    peak: Memory


@dataclass(frozen=True, slots=True)
class IntakeComparison:
    """One size: callspool, the bare handler, and callspool's share of the bare handler's rate."""

    size: str
    callspool: IntakeFigures
    bare: IntakeFigures
    ratio: Figure


def over(values: Iterable[float]) -> Figure:
    """Median and range of the values that are known; nan where none is."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Figure(math.nan, math.nan, math.nan)
    return Figure(statistics.median(known), min(known), max(known))


def largest(memories: Iterable[Memory]) -> Memory:
    """The most of each kind; anonymous memory is None where no sample knew it."""
    every = list(memories)
    anonymous = [memory.anonymous for memory in every if memory.anonymous is not None]
    return Memory(max((memory.resident for memory in every), default=0), max(anonymous, default=None))


def of_rounds(rounds: Sequence[IntakeRound]) -> IntakeFigures:
    """The figures of one server and one size."""
    return IntakeFigures(
        posts_per_second=over(one.load.per_second for one in rounds),
        megabytes_per_second=over(one.load.per_second * one.load.body_bytes / 1e6 for one in rounds),
        ack_p50=over(one.load.latency.p50 for one in rounds),
        ack_p99=over(one.load.latency.p99 for one in rounds),
        refused=sum(one.load.refused for one in rounds),
        idle=largest(one.idle for one in rounds),
        peak=largest(one.peak for one in rounds),
    )


def compare(rounds: Sequence[IntakeRound], size: str) -> IntakeComparison:
    """One size of all rounds. The ratio is taken within each round, whose two loads ran one after the other."""
    gateway = [one for one in rounds if one.size == size and one.server == "callspool"]
    bare = [one for one in rounds if one.size == size and one.server == "bare"]
    pairs = zip(gateway, bare, strict=True)
    ratios = (ours.load.per_second / theirs.load.per_second for ours, theirs in pairs if theirs.load.posts)
    return IntakeComparison(size, of_rounds(gateway), of_rounds(bare), over(ratios))
