"""The counters and histograms of the event loop: shown as the library of the field shows its own."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

from gateway.admin.spool_metrics import CounterTally, HistogramTally

BOUNDS = (0.005, 1.0, 2.5)
VALUES = (0.0, 0.005, 0.0051, 1.0, 2.4, 2.5, 3.0, 1e9)


@pytest.fixture(autouse=True)
def _without_created() -> None:
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not say that it takes nothing


def test_counters_are_shown_like_the_librarys() -> None:
    """With labels and without, counted by one and by more, and before anything was counted."""
    own, library = CollectorRegistry(), CollectorRegistry()
    CounterTally("a_total", "Nothing yet.", registry=own)
    Counter("a_total", "Nothing yet.", registry=library)
    plain, plain_too = CounterTally("b_total", "Plain.", registry=own), Counter("b_total", "Plain.", registry=library)
    tally = CounterTally("c_total", "Two.", ("x", "y"), registry=own)
    counter = Counter("c_total", "Two.", ("x", "y"), registry=library)
    CounterTally("d_total", "Labels, and nothing yet.", ("x",), registry=own)
    Counter("d_total", "Labels, and nothing yet.", ("x",), registry=library)
    for by in (1, 2.5, 10**12):
        plain.inc(by=by)
        plain_too.inc(by)
        for labels in (("1", "2"), ("1", 'quoted "\n')):
            tally.inc(*labels, by=by)
            counter.labels(*labels).inc(by)
    tally.inc("1", "2")
    counter.labels("1", "2").inc()
    assert generate_latest(own) == generate_latest(library)


def test_histograms_are_shown_like_the_librarys() -> None:
    """A value at a bound belongs to its bucket, one above all of them to the last."""
    own, library = CollectorRegistry(), CollectorRegistry()
    HistogramTally("a", "Nothing yet.", BOUNDS, registry=own)
    Histogram("a", "Nothing yet.", buckets=BOUNDS, registry=library)
    plain, plain_too = (
        HistogramTally("b", "Plain.", BOUNDS, registry=own),
        Histogram("b", "Plain.", buckets=BOUNDS, registry=library),
    )
    spread = HistogramTally("c", "Labelled.", BOUNDS, ("x",), registry=own)
    histogram = Histogram("c", "Labelled.", ("x",), buckets=BOUNDS, registry=library)
    for value in VALUES:
        plain.observe(value)
        plain_too.observe(value)
        spread.observe(value, "one")
        histogram.labels("one").observe(value)
    assert generate_latest(own) == generate_latest(library)
