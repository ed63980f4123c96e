"""Counters, gauges and histograms that are counted on the event loop, several for each post, and shown when asked for.

The library's own take a lock for each number that changes, which was a twentieth of the event loop's work for a 2 KB
post. These need none: they are counted and collected in the event loop's thread alone.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class CounterTally(Collector):
    """A counter. `name` ends in `_total`; without labels it is shown before anything was counted, too."""

    def __init__(self, name: str, meaning: str, labels: tuple[str, ...] = (), *, registry: CollectorRegistry) -> None:
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._counts: dict[tuple[str, ...], float] = {} if labels else {(): 0}
        registry.register(self)

    def inc(self, *labels: str, by: float = 1) -> None:
        """`by` more, for these values of the labels."""
        self._counts[labels] = self._counts.get(labels, 0) + by

    def value(self, *labels: str) -> float:
        """As it stands, for these values of the labels."""
        return self._counts.get(labels, 0)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """As it stands."""
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        yield family


class GaugeTally(Collector):
    """A gauge that is set now and then."""

    def __init__(self, name: str, meaning: str, labels: tuple[str, ...], *, registry: CollectorRegistry) -> None:
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._values: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def set(self, value: float, *labels: str) -> None:
        """As it is now, for these values of the labels."""
        self._values[labels] = value

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """As it stands."""
        family = GaugeMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


class HistogramTally(Collector):
    """A histogram: how many values lay at or below each of `bounds`, which ascend, and their sum."""

    def __init__(
        self,
        name: str,
        meaning: str,
        bounds: tuple[float, ...],
        labels: tuple[str, ...] = (),
        *,
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._meaning = meaning
        self._bounds = bounds
        self._labels = labels
        self._counts: dict[tuple[str, ...], list[int]] = {} if labels else {(): self._zeros()}
        self._sums: dict[tuple[str, ...], float] = dict.fromkeys(self._counts, 0.0)
        registry.register(self)

    def observe(self, value: float, *labels: str) -> None:
        """One more value, for these values of the labels."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = self._zeros()
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] = self._sums.get(labels, 0.0) + value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """As it stands."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        names = [str(floatToGoString(bound)) for bound in (*self._bounds, inf)]  # type: ignore[no-untyped-call]  # the library left it so
        for labels, counts in self._counts.items():
            buckets = list(zip(names, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._sums[labels])
        yield family

    def counts(self) -> list[int]:
        """How many values lay in each bucket, over all values of the labels; the last one has no upper bound."""
        return [sum(column) for column in zip(self._zeros(), *self._counts.values(), strict=True)]

    def _zeros(self) -> list[int]:
        return [0] * (len(self._bounds) + 1)
