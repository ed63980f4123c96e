"""From single rounds to the figures that a reader compares."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.delivery import Drain
from bench.intake import IntakeRound
from bench.latency import quantile
from bench.memory import Memory
from bench.sizes import Size


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
    """One size: callspool, the bare handler, the bare work, and callspool's share of the bare handler's rate."""

    size: str
    callspool: IntakeFigures
    bare: IntakeFigures
    work: IntakeFigures
    ratio: Figure


@dataclass(frozen=True, slots=True)
class CoreFigures:
    """How soon the probe's call logs of one size were at the endpoint, over all rounds. Durations in ms."""

    size: str
    posts: int
    callspool_p50: float
    callspool_p99: float
    ack_p50: float
    ack_p99: float
    direct_posts: int
    direct_p50: float
    direct_p99: float


@dataclass(frozen=True, slots=True)
class DeliveryComparison:
    """Draining, beside a sender that has everything encoded beforehand."""

    callspool_megabytes_per_second: Figure
    direct_megabytes_per_second: Figure
    ratio: Figure
    missing: int
    refused: int
    peak: Memory
    cores: tuple[CoreFigures, ...]


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
    gateway, bare, work = (
        [one for one in rounds if one.size == size and one.server == server] for server in ("callspool", "bare", "work")
    )
    pairs = zip(gateway, bare, strict=True)
    ratios = (ours.load.per_second / theirs.load.per_second for ours, theirs in pairs if theirs.load.posts)
    return IntakeComparison(size, of_rounds(gateway), of_rounds(bare), of_rounds(work), over(ratios))


def compare_delivery(rounds: Sequence[Drain], sizes: Sequence[Size]) -> DeliveryComparison:
    """All rounds of both senders; the durations of all rounds are pooled, since one round has few large ones."""
    ours = [one for one in rounds if one.server == "callspool"]
    direct = [one for one in rounds if one.server == "direct"]
    ratios = (
        mine.raw_megabytes_per_second / theirs.raw_megabytes_per_second
        for mine, theirs in zip(ours, direct, strict=True)
    )
    return DeliveryComparison(
        callspool_megabytes_per_second=over(one.raw_megabytes_per_second for one in ours),
        direct_megabytes_per_second=over(one.raw_megabytes_per_second for one in direct),
        ratio=over(ratios),
        missing=sum(one.missing for one in rounds),
        refused=sum(one.refused for one in ours),
        peak=largest(one.peak for one in ours),
        cores=tuple(_cores(ours, direct, size) for size in sizes),
    )


def _cores(ours: Sequence[Drain], direct: Sequence[Drain], size: Size) -> CoreFigures:
    core = _pooled(one.core_seconds for one in ours)
    ack = _pooled(one.ack_seconds for one in ours)
    straight = _pooled(one.core_seconds for one in direct)
    return CoreFigures(
        size=size.name,
        posts=len(core(size)),
        callspool_p50=quantile(core(size), 0.5),
        callspool_p99=quantile(core(size), 0.99),
        ack_p50=quantile(ack(size), 0.5),
        ack_p99=quantile(ack(size), 0.99),
        direct_posts=len(straight(size)),
        direct_p50=quantile(straight(size), 0.5),
        direct_p99=quantile(straight(size), 0.99),
    )


def _pooled(rounds: Iterable[dict[str, list[float]]]) -> Callable[[Size], list[float]]:
    """Milliseconds of a size in all rounds, in ascending order; bodies are named after their size."""
    every = [(body, seconds) for one in rounds for body, durations in one.items() for seconds in durations]

    def of_size(size: Size) -> list[float]:
        return sorted(seconds * 1e3 for body, seconds in every if body.startswith(f"{size.body_bytes}-"))

    return of_size
