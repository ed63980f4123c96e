"""Part plans: within the limits of S3 for every size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploaders.s3.options import (
    LARGEST_OBJECT_BYTES,
    LARGEST_PART_BYTES,
    MEBIBYTE,
    MOST_PARTS,
    SMALLEST_PART_BYTES,
    ObjectTooLarge,
    plan_parts,
)

MIB = MEBIBYTE
GIB = 1024 * MIB
TIB = 1024 * GIB


@pytest.mark.parametrize(
    ("total", "asked", "multipart", "part", "count"),
    [
        (0, 8 * MIB, False, 8 * MIB, 1),
        (1, 8 * MIB, False, 8 * MIB, 1),
        (8 * MIB - 1, 5 * MIB, False, 8 * MIB, 1),
        (8 * MIB, 8 * MIB, True, 8 * MIB, 1),
        (8 * MIB + 1, 8 * MIB, True, 8 * MIB, 2),
        (16 * MIB, 8 * MIB, True, 8 * MIB, 2),
        (300 * MIB, 5 * MIB, True, 5 * MIB, 60),
        (10_000 * 8 * MIB, 8 * MIB, True, 8 * MIB, 10_000),
        (10_000 * 8 * MIB + 1, 8 * MIB, True, 9 * MIB, 8_889),
        (5 * TIB, 8 * MIB, True, 525 * MIB, 9_987),
        (6 * GIB, 5 * GIB, True, 5 * GIB, 2),
    ],
)
def test_the_plan_for_a_size(total: int, asked: int, multipart: bool, part: int, count: int) -> None:
    """One request below 8 MiB; parts of the size that was asked for, or as large as 10,000 of them must be."""
    plan = plan_parts(total, asked)
    assert (plan.multipart, plan.part_bytes, plan.count) == (multipart, part, count)


@given(
    total=st.integers(0, LARGEST_OBJECT_BYTES) | st.integers(0, 100 * MIB),
    asked=st.integers(SMALLEST_PART_BYTES, LARGEST_PART_BYTES),
)
def test_every_plan_is_within_the_limits_and_covers_the_object(total: int, asked: int) -> None:
    """At most 10,000 parts of 5 MiB to 5 GiB, only the last one smaller, that together are the object."""
    plan = plan_parts(total, asked)
    last = total - (plan.count - 1) * plan.part_bytes
    assert plan.count <= MOST_PARTS
    assert 0 <= last <= plan.part_bytes
    assert plan.count == 1 or (last > 0 and SMALLEST_PART_BYTES <= plan.part_bytes <= LARGEST_PART_BYTES)


@pytest.mark.parametrize("asked", [0, 5 * MIB - 1, 5 * GIB + 1])
def test_parts_that_no_server_takes_are_refused(asked: int) -> None:
    """A part size outside of 5 MiB to 5 GiB is an error at once."""
    with pytest.raises(ValueError, match="a part has"):
        plan_parts(1, asked)


def test_sizes_that_no_object_has_are_refused() -> None:
    """More than 5 TiB and less than nothing are errors."""
    with pytest.raises(ObjectTooLarge):
        plan_parts(LARGEST_OBJECT_BYTES + 1)
    with pytest.raises(ValueError, match="-1 bytes"):
        plan_parts(-1)
