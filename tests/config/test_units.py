"""Tests of sizes and durations as people write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.values import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("10_000", 10_000),
        (5.0, 5),
        ("64MiB", 64 * 1024**2),
        ("10 GB", 10 * 1000**3),
        ("500KB", 500_000),
        (" 1.5 gib ", 1024**3 * 3 // 2),
        ("2TiB", 2 * 1024**4),
        ("1 TB", 1000**4),
        ("7b", 7),
    ],
)
def test_a_size_is_bytes_or_a_number_with_a_unit(written: object, size: int) -> None:
    """A size reads as plain bytes or with a unit, whatever its case and blanks."""
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "x", "-1", -1, "64Mi", "1e3", "1.MB", "MB", True, None, math.inf, "1 2", []])
def test_what_is_no_size_is_refused_with_advice(written: object) -> None:
    """Anything that is no size is refused with an example of one."""
    with pytest.raises(ValueError, match="such as 64MiB"):
        parse_size(written)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (25, 25.0),
        (0.5, 0.5),
        ("25", 25.0),
        ("25s", 25.0),
        ("5m", 300.0),
        ("24H", 86_400.0),
        ("7d", 604_800.0),
        ("500 ms", 0.5),
    ],
)
def test_a_duration_is_seconds_or_a_number_with_a_unit(written: object, seconds: float) -> None:
    """A duration reads as seconds or with a unit, whatever its case and blanks."""
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("written", ["", "soon", "-5s", -5, "5 minutes", False, None, math.nan, "1h30m", "9" * 400])
def test_what_is_no_duration_is_refused_with_advice(written: object) -> None:
    """Anything that is no duration is refused with examples of one."""
    with pytest.raises(ValueError, match="such as 25s, 5m or 24h"):
        parse_duration(written)


@given(st.integers(min_value=0, max_value=2**50))
def test_a_formatted_size_reads_back_as_itself(size: int) -> None:
    """What is shown of a size loses no byte."""
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("size", "written"),
    [(0, "0"), (500_000, "500KB"), (64 * 1024**2, "64MiB"), (10 * 1024**3, "10GiB"), (1_234_567, "1234567")],
)
def test_a_size_is_shown_in_its_shortest_exact_form(size: int, written: str) -> None:
    """A size is shown with the unit that makes it shortest without rounding it."""
    assert format_size(size) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, "0s"),
        (0.5, "500ms"),
        (1.5, "1500ms"),
        (25.0, "25s"),
        (60.0, "1m"),
        (90.0, "90s"),
        (86_400.0, "24h"),
        (172_800.0, "2d"),
        (0.0001, "0.0001s"),
    ],
)
def test_a_duration_is_shown_in_its_largest_whole_unit(seconds: float, written: str) -> None:
    """A duration is shown in the largest unit that leaves a whole number."""
    assert format_duration(seconds) == written
