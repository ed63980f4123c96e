"""From single rounds to what is compared: medians over the rounds, and between what they lay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.figures import Figure, over
from bench.peers.rounds import PeerRound

_DURABLE_FROM = 0.9
"""Syncs for each of several posts that were sent one after the other; what is timed syncs far less often."""


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """One contender and one size. Durations in ms, memory in MB."""

    acked: Figure
    delivered: Figure
    ack_p50: Figure
    ack_p99: Figure
    first_part_p50: Figure
    end_to_end_p50: Figure
    end_to_end_p99: Figure
    cpu: Figure
    peak: Figure
    refused: int
    missing: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything of one run; sizes and contenders in the order of the tables."""

    sizes: tuple[str, ...]
    contenders: tuple[str, ...]
    figures: Mapping[tuple[str, str], PeerFigures]
    """By contender and size."""
    syncs: Mapping[str, float | None]
    """By contender: how often it synced a file for one post; None where that could not be counted."""
    absent: Mapping[str, str]
    """Who was not measured, and what is missing for it."""


def compare(rounds: Sequence[PeerRound], syncs: Mapping[str, float | None], absent: Mapping[str, str]) -> Comparison:
    """The figures of all rounds."""
    sizes = tuple(dict.fromkeys(one.size for one in rounds))
    contenders = tuple(dict.fromkeys(one.contender for one in rounds))
    figures = {
        (contender, size): _of([one for one in rounds if (one.contender, one.size) == (contender, size)])
        for contender in contenders
        for size in sizes
    }
    return Comparison(sizes, contenders, figures, syncs, absent)


def durable(syncs: float | None) -> str:
    """Whether an acknowledgement means that the disk has it: `yes`, `no`, or `?` where it could not be counted."""
    return "?" if syncs is None else "yes" if syncs >= _DURABLE_FROM else "no"


def _of(rounds: Sequence[PeerRound]) -> PeerFigures:
    """The figures of one contender and one size."""

    def figure(of_round: Callable[[PeerRound], float]) -> Figure:
        """The median of this over the rounds."""
        return over(of_round(one) for one in rounds)

    return PeerFigures(
        acked=figure(lambda one: one.acked_per_second),
        delivered=figure(lambda one: one.delivered_per_second),
        ack_p50=figure(lambda one: one.ack_p50),
        ack_p99=figure(lambda one: one.ack_p99),
        first_part_p50=figure(lambda one: one.first_part_p50),
        end_to_end_p50=figure(lambda one: one.end_to_end_p50),
        end_to_end_p99=figure(lambda one: one.end_to_end_p99),
        cpu=figure(lambda one: one.cpu_per_thousand),
        peak=figure(lambda one: one.peak_bytes / 1e6),
        refused=sum(one.refused for one in rounds),
        missing=sum(one.missing for one in rounds),
    )
