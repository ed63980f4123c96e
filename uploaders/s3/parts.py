"""How an object is cut into parts: pure, from its size.

The limits are those of Amazon S3 (User Guide, "Amazon S3 multipart upload limits"); servers that speak its protocol
have the same or wider ones.
"""

from dataclasses import dataclass

MEBIBYTE = 1 << 20

PUT_BELOW_BYTES = 8 * MEBIBYTE
"""A smaller object goes in one request."""
DEFAULT_PART_BYTES = 8 * MEBIBYTE
"""Each part is held in memory while it is sent."""
SMALLEST_PART_BYTES = 5 * MEBIBYTE
"""Only the last part of an upload may be smaller."""
LARGEST_PART_BYTES = 5 * 1024 * MEBIBYTE
MOST_PARTS = 10_000
LARGEST_OBJECT_BYTES = 5 * 1024 * 1024 * MEBIBYTE


class ObjectTooLarge(ValueError):
    """No object may be as large as that."""


@dataclass(frozen=True, slots=True)
class PartPlan:
    """An object of `total_bytes` in parts of `part_bytes`, the last one with the rest. Parts are numbered from 1."""

    total_bytes: int
    part_bytes: int

    @property
    def multipart(self) -> bool:
        """Whether it takes more than one request."""
        return self.total_bytes >= PUT_BELOW_BYTES

    @property
    def count(self) -> int:
        """How many parts there are; an empty object has one, empty."""
        return max(1, -(-self.total_bytes // self.part_bytes))

    def size_of(self, number: int) -> int:
        """The bytes of part `number`. Raises `ValueError` when there is no such part."""
        if not 1 <= number <= self.count:
            raise ValueError(f"there is no part {number}: they are numbered from 1 to {self.count}")
        return min(self.part_bytes, self.total_bytes - (number - 1) * self.part_bytes)


def plan_parts(total_bytes: int, part_bytes: int = DEFAULT_PART_BYTES) -> PartPlan:
    """The plan for an object of `total_bytes`; parts become larger than asked for where they would be too many.

    Raises `ObjectTooLarge`, and `ValueError` for parts outside of what S3 takes or for a negative size.
    """
    if not SMALLEST_PART_BYTES <= part_bytes <= LARGEST_PART_BYTES:
        raise ValueError(f"a part has {SMALLEST_PART_BYTES} to {LARGEST_PART_BYTES} bytes, not {part_bytes}")
    if total_bytes < 0:
        raise ValueError(f"an object cannot have {total_bytes} bytes")
    if total_bytes > LARGEST_OBJECT_BYTES:
        raise ObjectTooLarge(f"an object has at most {LARGEST_OBJECT_BYTES} bytes, this one would have {total_bytes}")
    if total_bytes < PUT_BELOW_BYTES:
        return PartPlan(total_bytes, PUT_BELOW_BYTES)
    return PartPlan(total_bytes, max(part_bytes, _whole_mebibytes(-(-total_bytes // MOST_PARTS))))


def _whole_mebibytes(size: int) -> int:
    return -(-size // MEBIBYTE) * MEBIBYTE
