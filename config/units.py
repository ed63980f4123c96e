"""Sizes and durations as people write them, and back: pure functions of values.

A size is a count of bytes: `67108864`, `64MiB`, `10 GB`, `1.5 GiB`. A duration is a number of seconds: `25`,
`25s`, `5m`, `24h`, `7d`, `500ms`. Case does not matter. The `ValueError`s say what would be right.
"""

import math
import re

KB = 1000
MB = 1000 * KB
GB = 1000 * MB
TB = 1000 * GB
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_SIZES = {
    "TiB": TIB,
    "TB": TB,
    "GiB": GIB,
    "GB": GB,
    "MiB": MIB,
    "MB": MB,
    "KiB": KIB,
    "KB": KB,
    "B": 1,
}
_DURATIONS = {"d": DAY, "h": HOUR, "m": MINUTE, "s": 1.0, "ms": 0.001}

_NUMBER_AND_UNIT = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")

_SIZE_ADVICE = "should be a size: plain bytes, or a number with KB, MB, GB, KiB, MiB or GiB, such as 64MiB"
_DURATION_ADVICE = "should be a duration: seconds, or a number with ms, s, m, h or d, such as 25s, 5m or 24h"


def parse_size(value: object) -> int:
    """The bytes that `value` (a number or a text) stands for; fractions of a byte are rounded away.

    Raises ValueError, with advice, for anything else.
    """
    scaled = _scaled(value, {unit.lower(): float(factor) for unit, factor in _SIZES.items()}, bare="b")
    if scaled is None:
        raise ValueError(_SIZE_ADVICE)
    return round(scaled)


def parse_duration(value: object) -> float:
    """The seconds that `value` (a number or a text) stands for.

    Raises ValueError, with advice, for anything else.
    """
    scaled = _scaled(value, _DURATIONS, bare="s")
    if scaled is None:
        raise ValueError(_DURATION_ADVICE)
    return scaled


def format_size(size: int) -> str:
    """The shortest exact way to write a size: `64MiB`, `500KB`, or plain bytes."""
    fitting = [
        f"{size // factor}{unit}" for unit, factor in _SIZES.items() if unit != "B" and size and size % factor == 0
    ]
    return min([*fitting, str(size)], key=len)


def format_duration(seconds: float) -> str:
    """A duration in the largest unit that leaves a whole number: `24h`, `5m`, `25s`, `500ms`; days from two on."""
    for unit, factor in _DURATIONS.items():
        count = seconds / factor
        if count >= (2 if unit == "d" else 1) and math.isclose(count, round(count), rel_tol=1e-9):
            return f"{round(count)}{unit}"
    return f"{seconds:g}s"


def _scaled(value: object, factors: dict[str, float], *, bare: str) -> float | None:
    """`value` times its unit's factor; None when it is no number, negative, or has an unknown unit."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value * factors[bare] if math.isfinite(value) and value >= 0 else None
    match = _NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    factor = factors.get(match[2].lower() or bare) if match else None
    if match is None or factor is None:
        return None
    scaled = float(match[1].replace("_", "")) * factor
    return scaled if math.isfinite(scaled) else None
