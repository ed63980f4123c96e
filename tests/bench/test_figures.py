"""From durations and rounds to the figures in the tables."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from bench.commits import Commits, commits_told_by
from bench.delivery import Drain
from bench.figures import Figure, compare, compare_delivery, largest, over
from bench.intake import IntakeRound
from bench.latency import quantile, summarize
from bench.load import Measured
from bench.memory import Memory
from bench.report import number, print_delivery, print_intake, save, with_spread
from bench.sizes import SIZES, chosen

NO_MEMORY = Memory(0, None)


def intake_round(server: str, posts: int, *, seconds: float = 2.0, refused: int = 0) -> IntakeRound:
    """A round in which every post took 4 ms."""
    load = Measured(posts, seconds, 2000, refused, {202: posts}, summarize([4_000_000] * posts), 0.1)
    return IntakeRound(server, "2 KB", load, NO_MEMORY, Memory(1 << 20, 1 << 19), None)


def drain(server: str, megabytes: int, core: dict[str, list[float]], *, missing: int = 0) -> Drain:
    return Drain(server, 2, megabytes * 1_000_000, 0, 2.0, 0, missing, core, core, NO_MEMORY)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([1], 0.5, 1),
        ([1, 2], 0.5, 1),
        ([1, 2, 3], 0.5, 2),
        (list(range(1, 101)), 0.99, 99),
        (list(range(1, 11)), 0.99, 10),
        ([1, 2], 0.0, 1),
    ],
)
def test_a_quantile_is_one_of_the_values(values: list[int], share: float, expected: int) -> None:
    """The quantile is the smallest value that the share of all values does not exceed."""
    assert quantile(values, share) == expected


def test_a_quantile_of_nothing_is_not_a_number() -> None:
    """Nothing measured is not the same as 0 ms."""
    assert math.isnan(quantile([], 0.5))


def test_a_latency_counts_every_duration_once() -> None:
    """The buckets hold all durations together, each at or above what it holds."""
    latency = summarize([1_000_000, 2_000_000, 2_100_000, 500])
    assert latency.count == sum(latency.histogram.values()) == 4
    assert latency.longest == 2.1
    assert latency.histogram == {"0.00781": 1, "1": 1, "2": 1, "2.83": 1}


def test_the_ratio_is_taken_within_each_round() -> None:
    """A slow minute of the machine slows both servers of a round and leaves their ratio alone."""
    rounds = [
        *(intake_round("bare", 1000), intake_round("callspool", 500)),
        *(intake_round("bare", 100), intake_round("callspool", 50)),
        *(intake_round("bare", 2000), intake_round("callspool", 1200)),
    ]
    comparison = compare(rounds, "2 KB")
    assert comparison.ratio == Figure(0.5, 0.5, 0.6)
    assert comparison.callspool.posts_per_second == Figure(250.0, 25.0, 600.0)
    assert comparison.callspool.megabytes_per_second.median == 0.5
    assert comparison.bare.ack_p99.median == 4.0


def test_figures_that_are_not_known_are_left_out() -> None:
    """A median is taken of what was measured; where nothing was, it is not a number."""
    assert over([1.0, math.nan, 3.0]) == Figure(2.0, 1.0, 3.0)
    assert math.isnan(over([]).median)
    assert largest([Memory(5, None), Memory(3, 2)]) == Memory(5, 2)
    assert largest([]) == Memory(0, None)


def test_delivery_pools_the_durations_of_all_rounds() -> None:
    """A round has few large call logs, so their quantiles are taken over all rounds; sizes are kept apart."""
    rounds = [
        drain("callspool", 100, {"2000-1": [0.010], "15000000-1": [0.5]}),
        drain("direct", 400, {"2000-1": [0.001]}),
        drain("callspool", 200, {"2000-1": [0.030]}, missing=2),
        drain("direct", 400, {"2000-1": [0.002]}),
    ]
    comparison = compare_delivery(rounds, SIZES)
    assert comparison.callspool_megabytes_per_second == Figure(75.0, 50.0, 100.0)
    assert comparison.ratio == Figure(0.375, 0.25, 0.5)
    assert comparison.missing == 2
    small, middle, large = comparison.cores
    assert (small.posts, small.callspool_p50, small.callspool_p99, small.direct_p99) == (2, 10.0, 30.0, 2.0)
    assert (middle.posts, large.posts, large.callspool_p50) == (0, 1, 500.0)
    assert math.isnan(large.direct_p50)


@pytest.mark.parametrize(
    ("value", "shown"), [(12345.6, "12,346"), (12.345, "12.3"), (1.234, "1.23"), (0.0, "0.00"), (math.nan, "-")]
)
def test_a_number_shows_three_digits(value: float, shown: str) -> None:
    """More digits than that would be noise."""
    assert number(value) == shown


def test_one_round_shows_no_spread() -> None:
    """How far the rounds lay apart is shown where there were some."""
    assert with_spread(Figure(2.0, 2.0, 2.0)) == "2.00"
    assert "±50%" in with_spread(Figure(2.0, 1.0, 3.0))


def test_the_tables_show_what_is_wrong(tmp_path: Path) -> None:
    """Refused posts and posts that never arrived stand below the tables, not only in the document."""
    console = Console(record=True, width=140)
    print_intake(console, [compare([intake_round("bare", 10), intake_round("callspool", 5, refused=3)], "2 KB")])
    print_delivery(console, compare_delivery([drain("callspool", 1, {}, missing=1), drain("direct", 2, {})], SIZES))
    told = console.export_text()
    assert "3 posts were refused" in told
    assert "1 acknowledged posts did not arrive" in told
    assert "50%" in told


def test_the_document_is_json_that_every_reader_takes(tmp_path: Path) -> None:
    """Figures that are not known are null; names and nesting are those of the dataclasses."""
    path = tmp_path / "deep" / "result.json"
    save(path, {"figure": Figure(1.0, math.nan, math.inf), "path": tmp_path, "rows": ({"a": 1},), "yes": True})
    assert json.loads(path.read_text()) == {
        "figure": {"median": 1.0, "low": None, "high": None},
        "path": str(tmp_path),
        "rows": [{"a": 1}],
        "yes": True,
    }


def test_sizes_are_named_as_people_write_them() -> None:
    """Case and blanks do not matter; an unknown size is named."""
    assert [size.name for size in chosen("15mb, 2 KB")] == ["15 MB", "2 KB"]
    with pytest.raises(ValueError, match="no size '3 KB'"):
        chosen("2KB,3 KB")


def test_commits_are_read_from_the_metrics() -> None:
    """The mean time and share of a commit come from the gateway's own sums and counts."""
    exposition = (
        "# TYPE callspool_commit_seconds histogram\n"
        'callspool_commit_seconds_bucket{le="+Inf"} 4.0\n'
        "callspool_commit_seconds_sum 0.008\n"
        "callspool_commit_seconds_count 4.0\n"
        "callspool_commit_batch_size_sum 64.0\n"
        "callspool_commit_batch_size_count 4.0\n"
    )
    assert commits_told_by(exposition) == Commits(4, 2.0, 16.0)
    assert commits_told_by("callspool_commit_seconds_count 0.0\n") == Commits(0, None, None)
    assert commits_told_by("") == Commits(0, None, None)
